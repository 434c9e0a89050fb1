"""`OuterForwardHook`: arguments and output of a model's own forward, at the cost of two calls a forward.

A global hook is called by every module, and makes each of these calls slower. So the hook removes itself when the
model is entered, and comes back when the model returns: the model's layers have no hook. The return is seen by a
hook on the entered module, which is there during its forward only, so copies of the model do not contain it.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn.modules import module as torch_module
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.utils.hooks import RemovableHandle

from gradscope.hooks.modes import is_traced, is_transforming
from gradscope.hooks.tensor_hook import is_in_backward

__all__ = ["OuterForwardHook"]


class OuterForwardHook:
    """Calls `enter(module, args)` before and `leave(module, kwargs, output)` after each forward of a model.

    A forward of the model is the outermost forward of a module for which `owns(module)` is True: of the model, or of
    its part that the script calls. The output is None if the forward raises. Forwards with
    gradients disabled, in a backward pass, inside `torch.func` transforms, and traced forwards are left out; a
    module from `torch.compile` is entered as itself. `other(module, args)`, if set, is called before the forward of
    any other module outside of the model. The callbacks must not raise. Active from `install` to `remove`.
    """

    def __init__(
        self,
        owns: Callable[[nn.Module], bool],
        enter: Callable[[nn.Module, tuple[Any, ...]], None],  # Any: a module may take any arguments
        leave: Callable[[nn.Module, dict[str, Any], Any], None],  # Any: and return any type
        other: Callable[[nn.Module, tuple[Any, ...]], None] | None = None,  # Any: as above
    ) -> None:
        self._owns = owns
        self._enter = enter
        self._leave = leave
        self._other = other
        self._handle: RemovableHandle | None = None
        self._key = -1
        self._entered: nn.Module | None = None

    def install(self) -> None:
        """Install the hook."""
        if self._handle is None:
            self._handle = register_module_forward_pre_hook(self._on_enter)
            self._key = self._handle.id

    def remove(self) -> None:
        """Remove the hook. Any thread may call this, also during a forward."""
        handle, self._handle = self._handle, None
        entered = self._entered
        if entered is not None:
            self._forget(entered)
        if handle is not None:
            handle.remove()

    def _on_enter(self, module: nn.Module, args: tuple[Any, ...]) -> None:  # Any: as in torch
        if is_traced() or self._handle is None:
            return
        if not torch.is_grad_enabled() or is_in_backward() or is_transforming():
            return
        if not self._owns(module):
            if self._other is not None:
                self._other(module, args)
            return
        key = self._key
        torch_module._global_forward_pre_hooks.pop(key, None)  # noqa: SLF001 - a new handle in each forward would take longer
        module._forward_hooks[key] = self._on_leave  # noqa: SLF001 - as above
        module._forward_hooks_with_kwargs[key] = True  # noqa: SLF001 - as above
        module._forward_hooks_always_called[key] = True  # noqa: SLF001 - as above
        self._entered = module
        self._enter(module, args)

    def _on_leave(self, module: nn.Module, _args: Any, *rest: Any) -> None:  # Any: as in torch
        """`rest` is (kwargs, output). It is (output,) if another thread has removed the hook meanwhile."""
        self._forget(module)
        if len(rest) < 2:
            return
        kwargs, output = rest
        if self._handle is not None:
            hook: Any = self._on_enter  # Any: torch annotates the hooks as functions of anything
            torch_module._global_forward_pre_hooks[self._key] = hook  # noqa: SLF001 - as above
        self._leave(module, kwargs, output)

    def _forget(self, module: nn.Module) -> None:
        self._entered = None
        key = self._key
        module._forward_hooks.pop(key, None)  # noqa: SLF001 - as above
        module._forward_hooks_with_kwargs.pop(key, None)  # noqa: SLF001 - as above
        module._forward_hooks_always_called.pop(key, None)  # noqa: SLF001 - as above
