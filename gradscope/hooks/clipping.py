"""`ClippingHook`: called when torch.nn.utils is about to clip gradients, however a script imported it.

Both functions are wrappers that hold the real one in their closure. While anyone watches, that cell
holds ours: so a name that was imported before is watched too, and nothing is left afterwards.
"""

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
"""The closure cells that hold our function, and their original contents. Any: a closure's cell."""


class ClippingHook:
    """Calls `before(parameters, total_norm)` when gradients are about to be clipped; it must not raise.

    `total_norm` is what clipping by norm has computed over all of them; None for clipping by value.
    It lives from `install` to `remove`.
    """

    def __init__(self, before: _Before) -> None:
        self.before = before

    def install(self) -> bool:
        """Install the hook. Return False if torch's functions are not built as expected."""
        if not _originals:
            by_norm, by_value = _cell_of(clip_grads_with_norm_), _cell_of(clip_grad_value_)
            if by_norm is None or by_value is None:
                return False
            _replace(by_norm, _clip_by_norm)
            _replace(by_value, _clip_by_value)
        _watching.append(self)
        return True

    def remove(self) -> None:
        """Remove the hook; the last one restores torch's functions."""
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
    """Return the parameters as a list: a generator could be read only once."""
    return [parameters] if isinstance(parameters, torch.Tensor) else list(parameters)


def _cell_of(wrapper: Callable[..., object]) -> Any:  # Any: a cell, or None
    if not isinstance(wrapper, types.FunctionType) or wrapper.__code__.co_freevars != ("func",):
        return None
    return wrapper.__closure__[0] if wrapper.__closure__ else None
