"""Knowing when the optimizers of a model step, whenever they were made.

Global step hooks, filtered: an optimizer belongs to the model when it holds one of its parameters.
"""

import weakref
from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

from torch import nn
from torch.optim import Optimizer
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

__all__ = ["Closure", "OptimizerHook", "parameters_of"]

Closure: TypeAlias = Callable[[], Any]
"""What LBFGS and others call to compute the loss again; it returns whatever the user's returns."""


def parameters_of(optimizer: Optimizer) -> list[nn.Parameter]:
    """Return the parameters of an optimizer, group after group."""
    return [p for group in optimizer.param_groups for p in group["params"]]


class OptimizerHook:
    """Calls `before(optimizer, closure)` and `after(optimizer)` around each step of our optimizers.

    What `before` returns, unless None, takes the closure's place. It lives from `install` to `remove`,
    and holds optimizers and parameters weakly.
    """

    def __init__(
        self,
        before: Callable[[Optimizer, Closure | None], Closure | None],
        after: Callable[[Optimizer], None],
    ) -> None:
        self._before = before
        self._after = after
        self._parameters: dict[int, weakref.ref[nn.Parameter]] = {}
        self._ours: weakref.WeakKeyDictionary[Optimizer, bool] = weakref.WeakKeyDictionary()
        self._handles: list[Any] = []  # Any: torch gives two kinds of handle, both with remove()

    def set_parameters(self, parameters: Iterable[nn.Parameter]) -> None:
        """Say which parameters are the model's."""
        self._parameters = {id(p): weakref.ref(p) for p in parameters}
        self._ours.clear()

    def install(self) -> None:
        """Begin to watch all optimizers of the process."""
        if not self._handles:
            self._handles = [
                register_optimizer_step_pre_hook(self._on_step_begin),
                register_optimizer_step_post_hook(self._on_step_end),
            ]

    def remove(self) -> None:
        """Watch no longer."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def is_ours(self, optimizer: Optimizer) -> bool:
        """Whether the optimizer holds a parameter of the model."""
        known = self._ours.get(optimizer)
        if known is None:
            known = any(self._is_parameter(p) for p in parameters_of(optimizer))
            self._ours[optimizer] = known
        return known

    def _is_parameter(self, parameter: nn.Parameter) -> bool:
        found = self._parameters.get(id(parameter))
        return found is not None and found() is parameter

    def _on_step_begin(self, optimizer: Optimizer, args: Any, kwargs: Any) -> Any:  # as torch says
        if not self.is_ours(optimizer):
            return None
        is_positional = len(args) > 1  # the optimizer itself comes first
        closure = args[1] if is_positional else kwargs.get("closure")
        changed = self._before(optimizer, closure)
        if changed is None:
            return None
        if is_positional:
            return (args[0], changed, *args[2:]), kwargs
        return args, {**kwargs, "closure": changed}

    def _on_step_end(self, optimizer: Optimizer, _args: Any, _kwargs: Any) -> None:  # torch's signature
        if self.is_ours(optimizer):
            self._after(optimizer)
