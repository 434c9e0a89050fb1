"""Global hooks on the forwards of watched modules, installed only while needed.

`InputHook` runs before a forward, `ForwardHook` after it, and `OutputHook` before `ForwardHook` changes the output.

They filter modules by identity. With one hook per module instead, a `deepcopy`, a pickle or a `torch.export` of the
model would include the hooks.
"""

import itertools
import warnings
import weakref
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Generic, TypeVar

import torch
from torch import nn
from torch.compiler import is_compiling
from torch.nn.modules import module as torch_module
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.utils.hooks import RemovableHandle

from gradscope.hooks.compile.compiled import CompiledHook
from gradscope.hooks.modes import is_traced

__all__ = ["ForwardHook", "InputHook", "OutputHook", "SlotTable", "quiet_about_global_hooks"]

S = TypeVar("S")

_Inputs = tuple[tuple[Any, ...], dict[str, Any]]  # Any: a module may take any arguments


_COMPILED_MODULE_WARNS = r"Using `torch\.compile\(module\)` when there are global hooks"
_filter_numbers = itertools.count()


def quiet_about_global_hooks() -> Callable[[], None]:
    """Suppress the warning of compiled modules about global hooks; return a function that restores it.

    The warning says that global hooks also run for the wrapper. This hook filters modules, so it does not apply.
    Each call adds a filter of its own: of equal ones Python keeps one, and the first `undo` would remove it for all.
    """
    message = f"{_COMPILED_MODULE_WARNS}(?#{next(_filter_numbers)})"
    warnings.filterwarnings("ignore", message=message, category=UserWarning)
    added = warnings.filters[0]

    def undo() -> None:
        if added in warnings.filters:
            list.remove(warnings.filters, added)  # type: ignore[arg-type]  # a list, typed as a sequence

    return undo


class SlotTable(Generic[S]):
    """Maps modules to slots, with weak references to the modules."""

    def __init__(self, slots: Iterable[tuple[nn.Module, S]]) -> None:
        self._slots = {id(module): (weakref.ref(module), slot) for module, slot in slots}

    def __len__(self) -> int:
        return len(self._slots)

    def __or__(self, other: "SlotTable[S]") -> "SlotTable[S]":
        both = SlotTable[S](())
        both._slots = self._slots | other._slots
        return both

    def find(self, module: nn.Module) -> S | None:
        """Return the slot of a module, or None."""
        found = self._slots.get(id(module))
        return found[1] if found is not None and found[0]() is module else None


class ForwardHook(Generic[S]):
    """Calls `callback(slot, output)` after each forward of a module in the table.

    A result other than None replaces the output. While torch.compile traces a forward, `compiled` is called
    instead. It is installed from `watch` to `remove`; `watch` may be called again with another table. `listener`,
    if set, is called first with each module, also with modules that are not in the table.
    """

    def __init__(
        self,
        callback: Callable[[S, Any], Any],  # Any: a module may return any type
        compiled: CompiledHook,
    ) -> None:
        self._callback = callback
        self._compiled = compiled
        self._find: Callable[[nn.Module], S | None] = SlotTable[S](()).find
        self._first: Callable[[], bool] | None = None
        self._given: Callable[[nn.Module, Any], bool] | None = None
        self._quick: Callable[[nn.Module, Any], bool] | None = None
        self._handle: RemovableHandle | None = None
        self.listener: Callable[[nn.Module], None] | None = None

    @property
    def is_installed(self) -> bool:
        """Whether the hook is installed."""
        return self._handle is not None

    def watch(
        self,
        table: SlotTable[S],
        first: Callable[[], bool] | None = None,
        quick: Callable[[nn.Module, Any], bool] | None = None,  # Any: as above
    ) -> None:
        """Watch only the modules of a table.

        With gradients enabled, `first` is called after each forward of any module, before the slot lookup, until it
        returns True; it may call `watch` with another table. After that, `quick` is called before the slot lookup. It
        returns True if it has handled the forward by itself.
        """
        self._find, self._first, self._given = table.find, first, quick
        self._quick = quick if first is None else None
        if self._handle is None:
            self._handle = register_module_forward_hook(self._on_forward)

    def remove(self) -> None:
        """Remove the hook."""
        if self._handle is not None:
            self._handle.remove()
            self._handle = None

    def _on_forward(self, module: nn.Module, _args: Any, output: Any) -> Any:  # Any: as in torch
        if is_compiling():
            self._compiled.trace(module, output)
            return None
        if is_traced():
            return None
        if self.listener is not None:
            self.listener(module)
        if self._quick is not None and self._quick(module, output):
            return None
        if self._first is not None and torch.is_grad_enabled() and self._first():
            self._first, self._quick = None, self._given
        slot = self._find(module)
        return None if slot is None else self._callback(slot, output)


class OutputHook:
    """Calls `callback(name, output)` after each forward of the watched modules. Active from `watch` to `remove`.

    One global hook that runs before `ForwardHook`. It is not called in compiled code.
    """

    def __init__(
        self, callback: Callable[[str, Any], None]
    ) -> None:  # Any: a module may return any type
        self._callback = callback
        self._find = SlotTable[str](()).find
        self._handle: RemovableHandle | None = None

    def watch(self, modules: Mapping[str, nn.Module]) -> None:
        """Watch only these modules, given by name."""
        self._find = SlotTable((module, name) for name, module in modules.items()).find
        if self._handle is None:
            self._handle = register_module_forward_hook(self._on_forward)
        hooks: Any = torch_module._global_forward_hooks  # noqa: SLF001 - there is no `prepend` for these
        hooks.move_to_end(self._handle.id, last=False)

    def remove(self) -> None:
        """Remove the hook."""
        if self._handle is not None:
            self._handle.remove()
            self._handle = None

    def _on_forward(self, module: nn.Module, _args: Any, output: Any) -> None:  # Any: as in torch
        if is_traced():
            return
        name = self._find(module)
        if name is not None:
            self._callback(name, output)


class InputHook(Generic[S]):
    """Calls `callback(slot, args, kwargs)` before each forward of a module in the table.

    The returned pair replaces args and kwargs. Active from `watch` to `remove`; `watch` may be called again
    with another table.

    PyTorch passes keyword arguments to a global hook only if the module itself lists the hook's id in
    `_forward_pre_hooks_with_kwargs`. So each watched module lists the id while the hook is installed. A copy of the
    module has the id, but not the hook.
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
        slot = None if is_traced() else self._find(module)
        return None if slot is None or kwargs is None else self._callback(slot, args, kwargs)
