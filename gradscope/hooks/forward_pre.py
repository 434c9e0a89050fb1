"""`InputHook`: a hook before the forwards of some modules, installed only while needed.

It is a global hook that filters modules by identity, like `ForwardHook`. PyTorch passes keyword arguments to
a global hook only if the module itself lists the hook's id in `_forward_pre_hooks_with_kwargs`. So each
watched module lists the id while the hook is installed. A copy of the module has the id, but not the hook.
"""

from collections.abc import Callable
from typing import Any, Generic, TypeVar

import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.utils.hooks import RemovableHandle

from gradscope.hooks.forward import SlotTable

__all__ = ["InputHook"]

S = TypeVar("S")

_Inputs = tuple[tuple[Any, ...], dict[str, Any]]  # Any: a module may take any arguments


class InputHook(Generic[S]):
    """Calls `callback(slot, args, kwargs)` before each forward of a module in the table.

    The returned pair replaces args and kwargs. Active from `watch` to `remove`; `watch` may be called again
    with another table.
    """

    def __init__(self, callback: Callable[[S, tuple[Any, ...], dict[str, Any]], _Inputs]) -> None:
        self._callback = callback
        self._find: Callable[[nn.Module], S | None] = SlotTable[S](()).find
        self._handle: RemovableHandle | None = None
        self._modules: tuple[nn.Module, ...] = ()

    def watch(self, slots: list[tuple[nn.Module, S]]) -> None:
        """Watch only these modules."""
        if self._handle is None:
            hook: Callable[..., None] = self._before_forward  # type: ignore[assignment]  # torch annotates the hook as returning None
            self._handle = register_module_forward_pre_hook(hook)
        self._unmark()
        self._modules = tuple(module for module, _ in slots)
        for module in self._modules:
            module._forward_pre_hooks_with_kwargs[self._handle.id] = True  # noqa: SLF001 - see above
        self._find = SlotTable(slots).find

    def remove(self) -> None:
        """Remove the hook."""
        if self._handle is not None:
            self._unmark()
            self._handle.remove()
            self._handle = None

    def _unmark(self) -> None:
        if self._handle is not None:
            for module in self._modules:
                module._forward_pre_hooks_with_kwargs.pop(self._handle.id, None)  # noqa: SLF001 - see above
        self._modules = ()

    def _before_forward(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any] | None = None
    ) -> _Inputs | None:
        slot = None if torch.compiler.is_compiling() else self._find(module)
        return None if slot is None or kwargs is None else self._callback(slot, args, kwargs)
