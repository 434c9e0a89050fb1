"""`BackwardRootHook`: a hook that runs before `torch.autograd.backward`, which `Tensor.backward` calls too.

While a hook is installed, `torch.autograd.backward` is gradscope's function, which calls the previous one. Removing
the last hook restores it. If the script has replaced the function in the meantime, the script's function stays.
"""

import functools
from collections.abc import Callable
from typing import Any, TypeAlias

import torch

__all__ = ["BackwardRootHook"]

_Backward: TypeAlias = Callable[..., Any]  # Any: as torch's own

_installed: list["BackwardRootHook"] = []
_replaced: list[tuple[_Backward, _Backward]] = []
"""gradscope's function and the previous one, while any hook is installed."""


class BackwardRootHook:
    """Calls `before(tensors)` with the tensors at which a backward pass starts; `before` must not raise.

    Active from `install` to `remove`.
    """

    def __init__(self, before: Callable[[list[torch.Tensor]], None]) -> None:
        self.before = before

    def install(self) -> None:
        """Install the hook."""
        if self in _installed:
            return
        _installed.append(self)
        if not _replaced:
            previous = torch.autograd.backward
            ours = _calling_hooks(previous)
            _replaced.append((ours, previous))
            torch.autograd.backward = ours

    def remove(self) -> None:
        """Remove the hook."""
        if self not in _installed:
            return
        _installed.remove(self)
        if not _installed:
            ours, previous = _replaced.pop()
            if torch.autograd.backward is ours:
                torch.autograd.backward = previous


def _calling_hooks(previous: _Backward) -> _Backward:
    @functools.wraps(previous)
    def backward(tensors: Any, *args: Any, **kwargs: Any) -> Any:
        roots = _tensors_in(tensors)
        for hook in tuple(_installed) if roots else ():
            hook.before(roots)
        return previous(tensors, *args, **kwargs)

    return backward


def _tensors_in(argument: object) -> list[torch.Tensor]:
    """Return the tensors of a call; none for a GradientEdge, and for an iterator, which can be read only once."""
    several = argument if isinstance(argument, (list, tuple)) else (argument,)
    return [each for each in several if isinstance(each, torch.Tensor)]
