"""Whether a model still has the modules and parameters that it had: cheap enough to ask each step."""

import weakref
from array import array
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from operator import attrgetter

from torch import nn

__all__ = ["Structure"]

_parameters, _modules = attrgetter("_parameters"), attrgetter("_modules")


class Structure:
    """The modules and parameters of a model as they were at birth, held weakly.

    A module whose class has changed (a lazy one that has met its input) counts as another. What is
    asked is, of each module that there was, whether it owns the same objects: then the model reaches no
    others. Parameters are asked for apart: while a forward runs, `torch.func.functional_call` puts
    others in their place.
    """

    def __init__(self, model: nn.Module) -> None:
        modules = list(_walk(model))
        self._has_lost_module = self._has_lost_parameter = False
        lose_module, lose_parameter = self._lose_module, self._lose_parameter  # one object for all
        self._modules = [weakref.ref(module, lose_module) for module in modules]
        owned = (p for module in modules for p in module._parameters.values() if p is not None)  # noqa: SLF001 - far faster than parameters()
        self._parameters = [weakref.ref(parameter, lose_parameter) for parameter in owned]
        self._module_ids = _ids(modules, _modules)
        self._parameter_ids = _ids(modules, _parameters)
        self._classes = list(map(type, modules))

    def has_modules_of(self, model: nn.Module) -> bool:
        """Whether the model consists of the same modules, of the same classes, in the same order."""
        modules = [reference() for reference in self._modules]
        if self._has_lost_module or self._has_lost_parameter or modules[0] is not model:
            return False
        same = self._classes == list(map(type, modules))
        return same and self._module_ids == _ids(modules, _modules)

    def has_same_parameters(self) -> bool:
        """Whether the modules own the parameters that they owned; also said where modules changed."""
        if self._has_lost_module:
            return True
        modules = [reference() for reference in self._modules]
        if not self._has_lost_parameter and self._parameter_ids == _ids(modules, _parameters):
            return True
        return self._module_ids != _ids(modules, _modules)

    def _lose_module(self, _reference: object) -> None:
        """Note that an object is gone: another one may have its id by now."""
        self._has_lost_module = True

    def _lose_parameter(self, _reference: object) -> None:
        self._has_lost_parameter = True


def _ids(modules: Iterable[object], owned: Callable[[object], dict[str, object]]) -> "array[int]":
    """Return the ids of what each module owns of a kind, in one loop in C."""
    return array("Q", map(id, chain.from_iterable(map(dict.values, map(owned, modules)))))


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
