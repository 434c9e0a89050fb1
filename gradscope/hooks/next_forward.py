"""`NextForwardHook`: one call before the model's next forward, installed only while it is wanted."""

from collections.abc import Callable

import torch
from torch import nn
from torch.nn.modules import module as torch_module
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.utils.hooks import RemovableHandle

from gradscope.hooks.modes import is_traced, is_transforming
from gradscope.hooks.tensor_hook import is_in_backward

__all__ = ["NextForwardHook"]


class NextForwardHook:
    """Calls `callback()` once, before the next forward of a module for which `owns(module)` is True.

    Forwards with gradients disabled, recomputations in a backward pass and forwards that torch.compile traces do
    not count.
    """

    def __init__(self, owns: Callable[[nn.Module], bool], callback: Callable[[], None]) -> None:
        self._owns = owns
        self._callback = callback
        self._handle: RemovableHandle | None = None

    def install(self) -> None:
        """Wait for the next forward. The hook is called before all other global hooks."""
        if self._handle is None:
            self._handle = register_module_forward_pre_hook(self._before_forward)
            hooks = torch_module._global_forward_pre_hooks  # noqa: SLF001 - no public way to be first
            hooks.move_to_end(self._handle.id, last=False)  # type: ignore[attr-defined]  # annotated as a dict

    def remove(self) -> None:
        """Do not wait any more."""
        if self._handle is not None:
            self._handle.remove()
            self._handle = None

    def _before_forward(self, module: nn.Module, args: object) -> None:
        if is_traced() or not torch.is_grad_enabled():
            return
        if is_in_backward() or is_transforming() or not self._owns(module):
            return
        self.remove()
        hooks = torch_module._global_forward_pre_hooks  # noqa: SLF001 - as above
        installed = set(hooks)
        self._callback()
        for key in [key for key in hooks if key not in installed]:
            hooks[key](module, args)  # torch has chosen the hooks of this forward already
