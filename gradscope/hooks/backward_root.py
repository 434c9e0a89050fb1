"""`BackwardRootHook`: a hook that runs before `torch.autograd.backward`, which `Tensor.backward` calls too."""

import functools
from collections.abc import Callable
from typing import Any, TypeAlias

import torch

__all__ = ["BackwardRootHook"]

_Backward: TypeAlias = Callable[..., Any]  # Any: as torch's own


class BackwardRootHook:
    """Calls `before(tensors)` with the tensors at which a backward pass starts; `before` must not raise.

    Active from `install` to `remove`. It replaces `torch.autograd.backward`; if the script has replaced it
    too, the script's function is called, and stays.
    """

    def __init__(self, before: Callable[[list[torch.Tensor]], None]) -> None:
        self._before = before
        self._original: _Backward | None = None
        self._ours: _Backward | None = None

    def install(self) -> None:
        """Install the hook."""
        if self._original is not None:
            return
        original = torch.autograd.backward

        @functools.wraps(original)
        def backward(tensors: Any, *args: Any, **kwargs: Any) -> Any:
            if self._ours is backward:
                tensors = [tensors] if isinstance(tensors, torch.Tensor) else list(tensors)
                self._before(tensors)
            return original(tensors, *args, **kwargs)

        self._original, self._ours = original, backward
        torch.autograd.backward = backward

    def remove(self) -> None:
        """Remove the hook, unless the script has replaced the function since; then it does nothing more."""
        if self._original is not None and torch.autograd.backward is self._ours:
            torch.autograd.backward = self._original
        self._original = self._ours = None
