"""Which hooks of gradscope the layers of a model see."""

import torch
from torch import nn
from torch.nn.modules import module as torch_module

ROUND_OF_CHECKS = 6
"""Steps after which the first checks of the wiring are done, and their hooks removed."""


def finish_first_checks(scope, model, x):
    """Train until the first checks of the wiring are done; the step in progress is not observed."""
    for _ in range(ROUND_OF_CHECKS):
        model(x).sum().backward()
        scope.mark_step()


def hooks_seen_by_layers(model, x):
    """Call the model, and return the global hooks that are installed while its first layer computes."""
    layer = next((each for each in model.modules() if not isinstance(each, nn.Sequential)), model)
    seen = []
    forward = layer.forward

    def probing(*args):
        for hooks in (
            torch_module._global_forward_pre_hooks,
            torch_module._global_forward_hooks,
            torch_module._global_forward_hooks_always_called,
        ):
            seen.extend(hooks.values())
        return forward(*args)

    layer.forward = probing
    try:
        with torch.enable_grad():
            model(x)
    finally:
        del layer.forward
    return seen
