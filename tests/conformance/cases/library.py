"""Every module that PyTorch's own test suite has samples for, as cases."""

import copy
import warnings
from collections.abc import Callable, Iterator

import torch
from torch import nn
from trials import Case, Trial
from trials.case import loss_of
from trials.trial import SEED

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # torch's own tests import what torch deprecates
    from torch.testing._internal.common_modules import ModuleInfo, module_db

__all__ = ["MODULES", "samples_of"]

MODULES: dict[str, ModuleInfo] = {}
for _info in module_db:
    MODULES.setdefault(_info.name, _info)


class Holder(nn.Module):
    """Holds a module as a child, so that it is watched whatever its own children are."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, *args, **kwargs):
        return self.inner(*args, **kwargs)


def samples_of(name: str, dtype: torch.dtype, *, training: bool) -> Iterator[Case]:
    """Yield a case for each sample: two training steps of the module on it."""
    info = MODULES[name]
    torch.manual_seed(SEED)
    options = {"device": "cpu", "dtype": dtype, "requires_grad": True, "training": training}
    for sample in info.module_inputs_func(info, **options):
        yield Case(name, _two_steps(info.module_cls, sample, dtype, training))


def _two_steps(cls, sample, dtype, training) -> Callable[[Trial], None]:
    def run(t: Trial) -> None:
        made, given = sample.constructor_input, sample.forward_input
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            inner = cls(*copy.deepcopy(made.args), **copy.deepcopy(made.kwargs)).to(dtype)
        model = t.watch(Holder(inner).train(training))
        optimizer = None
        for _ in range(2):
            args, kwargs = _fresh(given.args), _fresh(given.kwargs)
            output = model(*args, **kwargs)
            if optimizer is None and next(model.parameters(), None) is not None:
                optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
            if optimizer is not None:
                optimizer.zero_grad()
            loss = loss_of(output)
            if loss.requires_grad:
                loss.backward()
            t.step(optimizer)
            t.keep(output=output, loss=loss, inputs=_gradients((args, kwargs)))

    return run


def _fresh(value):
    """Return copies of the inputs that are no leaves, so that an in-place module may write to them."""
    if isinstance(value, torch.Tensor):
        leaf = value.detach().clone().requires_grad_(value.requires_grad)
        if not leaf.requires_grad:
            return leaf
        inner = leaf.clone()
        inner.retain_grad()
        return inner
    if isinstance(value, dict):
        return {key: _fresh(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return type(value)(_fresh(item) for item in value)
    return copy.deepcopy(value)


def _gradients(value):
    if isinstance(value, torch.Tensor):
        return value.grad if value.requires_grad else None
    if isinstance(value, dict):
        return [_gradients(item) for item in value.values()]
    return [_gradients(item) for item in value] if isinstance(value, tuple | list) else None
