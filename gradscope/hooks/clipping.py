"""`ClippingHook`: a hook that runs before torch.nn.utils clips gradients, however a script imported it.

torch's two clipping functions are wrappers that hold the real function in a closure cell. While a hook is
installed, that cell holds gradscope's function instead. This also covers names that were imported earlier,
and removing the hook restores the cell.
"""

import math
import types
from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

import torch
from torch.nn.utils import clip_grad_value_, clip_grads_with_norm_

__all__ = ["ClippingHook"]

_Clip: TypeAlias = Callable[..., Any]  # Any: as torch's own, which are untyped
_Before: TypeAlias = Callable[[list[torch.Tensor], torch.Tensor | None], None]

_watching: list["ClippingHook"] = []
"""The installed hooks, the oldest first."""
_originals: list[tuple[Any, _Clip]] = []
"""The closure cells that hold gradscope's function, and their original contents. Any: a closure's cell."""


class ClippingHook:
    """Calls `before(parameters, total_norm)` before gradients are clipped; `before` must not raise.

    `total_norm` is the norm over all gradients, computed by torch; None for clipping by value. A call whose limit is
    infinite clips nothing and is not reported.
    Active from `install` to `remove`.
    """

    def __init__(self, before: _Before) -> None:
        self.before = before

    def install(self) -> bool:
        """Install the hook. Return False if torch's functions do not have the expected closure."""
        if not _originals:
            by_norm, by_value = _cell_of(clip_grads_with_norm_), _cell_of(clip_grad_value_)
            if by_norm is None or by_value is None:
                return False
            _replace(by_norm, _clip_by_norm)
            _replace(by_value, _clip_by_value)
        _watching.append(self)
        return True

    def remove(self) -> None:
        """Remove the hook. Removing the last hook restores torch's functions."""
        if self in _watching:
            _watching.remove(self)
        while _originals and not _watching:
            cell, original = _originals.pop()
            cell.cell_contents = original


def _replace(cell: Any, ours: Callable[[_Clip], _Clip]) -> None:  # Any: as above
    _originals.append((cell, cell.cell_contents))
    cell.cell_contents = ours(cell.cell_contents)


def _clip_by_norm(original: _Clip) -> _Clip:
    def clip(parameters: Any, max_norm: Any, total_norm: Any, *args: Any, **kwargs: Any) -> Any:
        parameters = _listed(parameters)
        if max_norm != math.inf:  # else the script only wants to know the norm
            _tell(parameters, total_norm)
        return original(parameters, max_norm, total_norm, *args, **kwargs)

    return clip


def _clip_by_value(original: _Clip) -> _Clip:
    def clip(parameters: Any, *args: Any, **kwargs: Any) -> Any:
        parameters = _listed(parameters)
        _tell(parameters, None)
        return original(parameters, *args, **kwargs)

    return clip


def _tell(parameters: list[torch.Tensor], total_norm: torch.Tensor | None) -> None:
    if not torch.compiler.is_compiling():
        for hook in tuple(_watching):
            hook.before(parameters, total_norm)


def _listed(parameters: torch.Tensor | Iterable[torch.Tensor]) -> list[torch.Tensor]:
    """Return the parameters as a list, because a generator can be read only once."""
    return [parameters] if isinstance(parameters, torch.Tensor) else list(parameters)


def _cell_of(wrapper: Callable[..., object]) -> Any:  # Any: a cell, or None
    if not isinstance(wrapper, types.FunctionType) or wrapper.__code__.co_freevars != ("func",):
        return None
    return wrapper.__closure__[0] if wrapper.__closure__ else None
