"""Which models the optimizers of this process train, and by which variables the script knows them.

Walks all objects that Python's garbage collector knows: some 0.1 s for 400,000 objects.
"""

import gc
import inspect
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import FrameType
from typing import Any, Final

from torch import nn
from torch.amp.grad_scaler import GradScaler
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.optim import Optimizer

from gradscope.hooks import original_module, parameters_of

__all__ = ["enabled_scaler", "find_trained_models", "variable_of"]

_LIMIT: Final = 100
"""The most models that are returned; the search among them takes the square of their number."""


def find_trained_models() -> list[nn.Module]:
    """Return the models whose parameters the optimizers of this process hold, without the wrappers around them.

    A model is a module that is part of no other module. If several hold the same parameters, as a model and a
    `Sequential` made of its layers do, the one with the most parameters of optimizers is returned, and of these the
    smallest one. At most 100 are returned.
    """
    objects = _instances(nn.Module, Optimizer)
    optimizers = [each for each in objects if isinstance(each, Optimizer)]
    complete = [
        each for each in optimizers if hasattr(each, "param_groups")
    ]  # the others' constructors raised
    held = {id(p) for each in complete for p in parameters_of(each)}
    modules = [each for each in objects if isinstance(each, nn.Module)] if held else []
    owned = [(root, {id(p) for p in root.parameters()}) for root in _roots(modules)]
    candidates = [(root, ids) for root, ids in owned if ids & held]
    found: list[nn.Module] = []
    while candidates and len(found) < _LIMIT:
        best, ids = max(candidates, key=lambda pair: (len(pair[1] & held), -len(pair[1])))
        found.append(_unwrapped(best))
        held -= ids
        candidates = [(root, ids) for root, ids in candidates if ids & held]
    return found


def enabled_scaler() -> GradScaler | None:
    """Return the GradScaler of this process; None if there is none, or more than one."""
    scalers = [each for each in _instances(GradScaler) if each.is_enabled()]
    return scalers[0] if len(scalers) == 1 else None


def variable_of(model: nn.Module) -> str | None:
    """Return the name of a variable that holds the model; None if there is none.

    Searches the variables of the functions that are running, and the attributes of their `self`.
    """
    frame: FrameType | None = sys._getframe()  # noqa: SLF001 - documented, in spite of its name
    while frame is not None:
        if not _is_library(frame):
            variables = _variables(frame)
            attributes: dict[str, object] = getattr(variables.get("self"), "__dict__", {})
            for name, value in [*variables.items(), *attributes.items()]:
                if name != "self" and isinstance(value, nn.Module) and _unwrapped(value) is model:
                    return name
        frame = frame.f_back
    return None


def _instances(*kinds: type[object]) -> list[Any]:  # Any: of these types
    # not isinstance: it would call a property `__class__` of an object that imitates another
    return [each for each in gc.get_objects() if issubclass(type(each), kinds)]


def _roots(modules: Sequence[nn.Module]) -> Iterator[nn.Module]:
    """Yield the modules that are part of no other one, and whose constructor has begun."""
    inner = {id(child) for each in modules for child in _children(each)}
    return (each for each in modules if id(each) not in inner and "_parameters" in vars(each))


def _children(module: nn.Module) -> Iterable[nn.Module | None]:
    """Return the direct submodules; an empty result if `nn.Module.__init__` has not run."""
    children = vars(module).get("_modules")
    return children.values() if isinstance(children, Mapping) else ()


def _unwrapped(model: nn.Module) -> nn.Module:
    """Return the model in the wrappers of torch.compile and of data parallelism."""
    while True:
        inner = model.module if isinstance(model, DistributedDataParallel | DataParallel) else model
        inner = original_module(inner)
        if inner is model:
            return model
        model = inner


def _is_library(frame: FrameType) -> bool:
    return str(frame.f_globals.get("__name__")).partition(".")[0] in ("torch", "gradscope")


def _variables(frame: FrameType) -> dict[str, object]:
    """Return a copy of the variables of a frame, without Python's own copy, which would keep the values alive."""
    variables = frame.f_locals
    copied = dict(variables)
    if sys.version_info < (3, 13) and frame.f_code.co_flags & inspect.CO_OPTIMIZED:
        variables.clear()
    return copied
