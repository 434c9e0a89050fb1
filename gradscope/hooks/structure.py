"""`Structure`: detects changes of a model's modules and parameters, fast enough for each observed step."""

import weakref
from array import array
from collections.abc import Callable, Iterator
from itertools import chain
from operator import attrgetter, methodcaller
from typing import TypeAlias

from torch import nn

__all__ = ["OwnedIds", "Structure", "owned_ids"]

OwnedIds: TypeAlias = Callable[[list[weakref.ref[nn.Module]], str], bytes]
"""`owned_ids`, in Python or in C. It returns empty bytes if the ids are not known."""

_MODULES, _PARAMETERS = "_modules", "_parameters"


class Structure:
    """The modules and parameters of a model at construction time, held weakly.

    A module whose class has changed (a lazy module after its first input) counts as another module. If each
    known module still owns the same objects, the model has no new modules. Parameters are checked separately,
    because `torch.func.functional_call` replaces them while a forward runs. `ids` returns the ids of owned
    objects; the C version is faster.
    """

    def __init__(self, model: nn.Module, ids: OwnedIds | None = None) -> None:
        self._quick_ids = ids
        modules = list(_walk(model))
        self._has_lost_module = self._has_lost_parameter = False
        lose_module, lose_parameter = self._lose_module, self._lose_parameter  # one object for all
        self._modules = [weakref.ref(module, lose_module) for module in modules]
        owned = (p for module in modules for p in module._parameters.values() if p is not None)  # noqa: SLF001 - far faster than parameters()
        self._parameters = [weakref.ref(parameter, lose_parameter) for parameter in owned]
        self._module_ids = self._ids(_MODULES)
        self._parameter_ids = self._ids(_PARAMETERS)

    def has_modules_of(self, model: nn.Module) -> bool:
        """Whether the model consists of the same modules, of the same classes, in the same order."""
        if self._has_lost_module or self._has_lost_parameter or self._modules[0]() is not model:
            return False
        return self._module_ids == self._ids(_MODULES)

    def has_same_parameters(self) -> bool:
        """Return whether the modules own the same parameters. Also True if the modules have changed."""
        if self._has_lost_module:
            return True
        same = self._parameter_ids == self._ids(_PARAMETERS)
        if same and not self._has_lost_parameter:
            return True
        return self._module_ids != self._ids(_MODULES)

    def _ids(self, name: str) -> bytes:
        ids = self._quick_ids(self._modules, name) if self._quick_ids is not None else b""
        return ids or owned_ids(self._modules, name)

    def _lose_module(self, _reference: object) -> None:
        """Record that an object was freed, because its id may be reused."""
        self._has_lost_module = True

    def _lose_parameter(self, _reference: object) -> None:
        self._has_lost_parameter = True


def owned_ids(references: list[weakref.ref[nn.Module]], name: str) -> bytes:
    """Return the ids of the objects in each module's dict of this name, as uint64.

    For each module, the id of its class and the number of its objects; after that, the ids of all objects.
    Empty if a module was freed. A scripted module has dicts of another type with the same methods.
    """
    modules = [reference() for reference in references]
    if None in modules:
        return b""
    owned = list(map(attrgetter(name), modules))
    heads = chain.from_iterable(zip(map(id, map(type, modules)), map(len, owned), strict=True))
    return array(
        "Q", chain(heads, map(id, chain.from_iterable(map(methodcaller("values"), owned))))
    ).tobytes()


def _walk(model: nn.Module) -> Iterator[nn.Module]:
    """Yield each module once; the children of a repeated module are not visited again."""
    waiting, entered = [model], {id(model)}
    while waiting:
        module = waiting.pop()
        yield module
        for child in module._modules.values():  # noqa: SLF001 - far faster than modules()
            if child is not None and id(child) not in entered:
                entered.add(id(child))
                waiting.append(child)
