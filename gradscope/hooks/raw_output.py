"""A forward hook that receives a module's own output, before gradscope changes it."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn
from torch.nn.modules import module as torch_module
from torch.nn.modules.module import register_module_forward_hook
from torch.utils.hooks import RemovableHandle

from gradscope.hooks.forward import SlotTable

__all__ = ["OutputHook"]


class OutputHook:
    """Calls `callback(name, output)` after each forward of some modules, from `watch` to `remove`.

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
        if torch.compiler.is_compiling():
            return
        name = self._find(module)
        if name is not None:
            self._callback(name, output)
