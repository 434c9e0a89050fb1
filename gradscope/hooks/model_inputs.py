"""`ModelInputHook`: the arguments of a model's own forward, positional and by keyword."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn.modules import module as torch_module
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.utils.hooks import RemovableHandle

from gradscope.hooks.modes import is_traced, is_transforming
from gradscope.hooks.tensor_hook import is_in_backward

__all__ = ["ModelInputHook"]


class ModelInputHook:
    """Calls `record(arguments)` in each outermost forward of a model: with its args, and with its kwargs if it has any.

    The args are passed before the forward, the kwargs after it: PyTorch shows kwargs to no global hook before.
    Forwards with gradients disabled, in a backward pass, inside `torch.func` transforms and traced ones are left out.
    Every module calls both hooks, so they are installed in few steps only. `record` must not raise.
    """

    def __init__(
        self,
        owns: Callable[[nn.Module], bool],
        record: Callable[[Any], None],  # Any: a module may take any arguments
    ) -> None:
        self._owns = owns
        self._record = record
        self._handles: list[RemovableHandle] = []
        self._entered: nn.Module | None = None

    def install(self) -> None:
        """Install the hooks."""
        if not self._handles:
            self._handles = [
                register_module_forward_pre_hook(self._on_enter),
                register_module_forward_hook(self._on_leave, with_kwargs=True),
            ]

    def remove(self) -> None:
        """Remove the hooks."""
        for handle in self._handles:
            handle.remove()
            torch_module._global_forward_hooks_with_kwargs.pop(handle.id, None)  # noqa: SLF001 - PyTorch leaves it
        self._handles.clear()
        self._entered = None

    def _on_enter(self, module: nn.Module, args: tuple[Any, ...]) -> None:  # Any: as above
        if is_traced() or not torch.is_grad_enabled() or is_in_backward() or is_transforming():
            return
        is_inside = self._entered is not None and module is not self._entered
        if not is_inside and self._owns(module):  # the same module again: its forward has raised
            self._entered = module
            self._record(args)

    def _on_leave(
        self, module: nn.Module, _args: tuple[Any, ...], kwargs: dict[str, Any], _output: Any
    ) -> None:  # Any: as above
        if module is self._entered and not is_traced():
            self._entered = None
            if kwargs:
                self._record(kwargs)
