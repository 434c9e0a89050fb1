"""Whether a model still has the modules and parameters that it had: cheap enough to ask each step."""

import weakref
from collections.abc import Iterable, Iterator
from itertools import chain
from operator import attrgetter

from torch import nn

__all__ = ["Structure"]

_parameters, _modules = attrgetter("_parameters"), attrgetter("_modules")


class Structure:
    """The modules and parameters of a model as they were at birth, held weakly.

    A module whose class has changed (a lazy one that has met its input) counts as another. What is
    asked is, of each module that there was, whether it owns the same objects: then the model reaches no
    others.
    """

    def __init__(self, model: nn.Module) -> None:
        modules = list(_walk(model))
        self._has_lost = False
        self._modules = [weakref.ref(module, self._lose) for module in modules]
        owned = (p for module in modules for p in module._parameters.values() if p is not None)  # noqa: SLF001 - far faster than parameters()
        self._parameters = [weakref.ref(parameter, self._lose) for parameter in owned]
        self._ids = _ids(modules)
        self._classes = list(map(type, modules))

    def is_that_of(self, model: nn.Module) -> bool:
        """Whether the model consists of the same objects, of the same classes, in the same order."""
        modules = [reference() for reference in self._modules]
        if self._has_lost or modules[0] is not model:
            return False
        return self._classes == list(map(type, modules)) and self._ids == _ids(modules)

    def _lose(self, _reference: object) -> None:
        """Note that an object is gone: another one may have its id by now."""
        self._has_lost = True


def _ids(modules: Iterable[object]) -> list[int]:
    """Return the ids of what each module owns, one loop in C for each kind."""
    modules = list(modules)
    owned = chain(map(_parameters, modules), map(_modules, modules))
    return [*map(id, chain.from_iterable(map(dict.values, owned)))]


def _walk(model: nn.Module) -> Iterator[nn.Module]:
    """Yield each module; one that is met again is not entered again."""
    waiting, entered = [model], {id(model)}
    while waiting:
        module = waiting.pop()
        yield module
        for child in module._modules.values():  # noqa: SLF001 - far faster than modules()
            if child is not None and id(child) not in entered:
                entered.add(id(child))
                waiting.append(child)
