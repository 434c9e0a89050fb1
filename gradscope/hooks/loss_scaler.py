"""`LossScalerHook`: hooks on torch's GradScaler, of whatever instance a script uses.

While a hook is installed, `GradScaler.scale` and `GradScaler.step` are gradscope's functions, which call the previous
ones. Removing the last hook restores them. If the script has replaced a function in the meantime, the script's function
stays.
"""

import functools
from collections.abc import Callable
from typing import Any, TypeAlias

from torch.amp.grad_scaler import GradScaler
from torch.optim import Optimizer

__all__ = ["LossScalerHook"]

_Method: TypeAlias = Callable[..., Any]  # Any: as torch's own

_installed: list["LossScalerHook"] = []
_replaced: dict[str, tuple[_Method, _Method]] = {}
"""By name: gradscope's function and the previous one, while any hook is installed."""


class LossScalerHook:
    """Calls `scaled(scaler, loss)` before a loss is scaled, and `stepped(scaler, optimizer)` after a scaler's step.

    The callbacks must not raise. Active from `install` to `remove`.
    """

    def __init__(
        self,
        scaled: Callable[[GradScaler, object], None],
        stepped: Callable[[GradScaler, Optimizer], None],
    ) -> None:
        self.scaled = scaled
        self.stepped = stepped

    def install(self) -> None:
        """Install the hook."""
        if self in _installed:
            return
        _installed.append(self)
        if not _replaced:
            _replace("scale", _calling_before)
            _replace("step", _calling_after)

    def remove(self) -> None:
        """Remove the hook."""
        if self not in _installed:
            return
        _installed.remove(self)
        while not _installed and _replaced:
            name, (ours, previous) = _replaced.popitem()
            if getattr(GradScaler, name) is ours:
                setattr(GradScaler, name, previous)


def _replace(name: str, make: Callable[[_Method], _Method]) -> None:
    previous = getattr(GradScaler, name)
    ours = make(previous)
    _replaced[name] = ours, previous
    setattr(GradScaler, name, ours)


def _calling_before(previous: _Method) -> _Method:
    @functools.wraps(previous)
    def scale(scaler: GradScaler, outputs: Any, *args: Any, **kwargs: Any) -> Any:
        if scaler.is_enabled():
            for hook in tuple(_installed):
                hook.scaled(scaler, outputs)
        return previous(scaler, outputs, *args, **kwargs)

    return scale


def _calling_after(previous: _Method) -> _Method:
    @functools.wraps(previous)
    def step(scaler: GradScaler, optimizer: Optimizer, *args: Any, **kwargs: Any) -> Any:
        result = previous(scaler, optimizer, *args, **kwargs)
        if scaler.is_enabled():
            for hook in tuple(_installed):
                hook.stepped(scaler, optimizer)
        return result

    return step
