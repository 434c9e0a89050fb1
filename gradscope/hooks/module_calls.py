"""`CallHooks`: two global hooks at entry and exit of modules, installed only while needed.

The hooks return nothing and filter modules by identity. The modules of the model are not modified.
"""

from collections.abc import Callable
from typing import Any, Generic, TypeVar

from torch import nn
from torch.nn.modules import module as torch_module
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.utils.hooks import RemovableHandle

from gradscope.hooks.forward import SlotTable
from gradscope.hooks.modes import is_traced

__all__ = ["CallHooks"]

S = TypeVar("S")


class CallHooks(Generic[S]):
    """Calls `enter(slot, args)` and `leave(slot, args, kwargs, output)` around each forward.

    If a forward raises, `abandon(slot)` is called instead of `leave`.

    Active from `install` to `remove`. Return values of the callbacks are ignored; their exceptions reach the
    training. No callback is called while the forward is traced.
    """

    def __init__(
        self,
        table: SlotTable[S],
        enter: Callable[[S, Any], None],  # Any: a module may take any arguments
        leave: Callable[[S, Any, Any, Any], None],  # Any: and may return any type
        abandon: Callable[[S], None],
    ) -> None:
        self._find = table.find
        self._enter = enter
        self._leave = leave
        self._abandon = abandon
        self._handles: list[RemovableHandle] = []

    @property
    def is_installed(self) -> bool:
        """Whether the hooks are installed."""
        return bool(self._handles)

    def watch(self, table: SlotTable[S]) -> None:
        """Watch the modules of another table."""
        self._find = table.find

    def install(self) -> None:
        """Install the hooks."""
        if not self._handles:
            self._handles = [
                register_module_forward_pre_hook(self._on_enter),
                register_module_forward_hook(self._on_leave, with_kwargs=True, always_call=True),
            ]

    def remove(self) -> None:
        """Remove the hooks."""
        while self._handles:
            handle = self._handles.pop()
            handle.remove()
            # torch does not clear this entry, which slows down every later forward
            torch_module._global_forward_hooks_with_kwargs.pop(handle.id, None)  # noqa: SLF001 - see above

    def _on_enter(self, module: nn.Module, args: Any) -> None:  # Any: as in torch
        if is_traced():
            return
        slot = self._find(module)
        if slot is not None:
            self._enter(slot, args)

    def _on_leave(self, module: nn.Module, args: Any, *rest: Any) -> None:  # Any: as above
        """Call `leave`, or `abandon` after an exception.

        `rest` is (kwargs, output); torch omits kwargs after an exception.
        """
        if is_traced():
            return
        slot = self._find(module)
        if slot is None:
            return
        if len(rest) == 2:
            self._leave(slot, args, *rest)
        else:
            self._abandon(slot)
