"""Whether a model still has the modules and parameters that it had: cheap enough to ask each step."""

import weakref
from collections.abc import Iterator

from torch import nn

__all__ = ["Structure"]


class Structure:
    """The modules and parameters of a model as they were at birth, held weakly.

    A module whose class has changed (a lazy one that has met its input) counts as another.
    """

    def __init__(self, model: nn.Module) -> None:
        self._parts = [(weakref.ref(part), type(part)) for part in _walk(model)]

    def is_that_of(self, model: nn.Module) -> bool:
        """Whether the model consists of the same objects, of the same classes, in the same order."""
        known = iter(self._parts)
        for part in _walk(model):
            reference, kind = next(known, (None, None))
            if reference is None or reference() is not part or kind is not type(part):
                return False
        return next(known, None) is None


def _walk(model: nn.Module) -> Iterator[nn.Module | nn.Parameter]:
    """Yield each module and its own parameters; a module that is met again is not entered again."""
    waiting, entered = [model], {id(model)}
    while waiting:
        module = waiting.pop()
        yield module
        yield from [p for p in module._parameters.values() if p is not None]  # noqa: SLF001 - far faster
        for child in module._modules.values():  # noqa: SLF001 - than modules()
            if child is not None and id(child) not in entered:
                entered.add(id(child))
                waiting.append(child)
