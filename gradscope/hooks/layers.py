"""The layers of a model: their names, which of them are watched by default, and selection by pattern."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from torch import nn

from gradscope.errors import UnknownLayerError
from gradscope.names import match_names

__all__ = ["LayerInfo", "LayerPatterns", "choose_layers", "layers_of", "original_module"]

LayerPatterns: TypeAlias = (
    str | re.Pattern[str] | Callable[[str, nn.Module], bool] | Sequence[str | re.Pattern[str]]
)
"""A glob (`blocks.*.fc1`; a star also matches dots), a regex (compiled, or a string after `re:`), a callable
of (name, module), or a sequence of globs and regexes."""

_PARAMETERS = (nn.ParameterList, nn.ParameterDict)
_CONTAINERS = (nn.ModuleList, nn.ModuleDict, nn.Sequential, *_PARAMETERS)


@dataclass(frozen=True, slots=True)
class LayerInfo:
    """One module of a model. `parameters` are the module's own, by their names in the module."""

    index: int
    name: str
    module: nn.Module
    is_watched: bool
    parameters: dict[str, nn.Parameter] = field(repr=False)


def original_module(module: nn.Module) -> nn.Module:
    """Return the module that `torch.compile` has wrapped; any other module is returned as it is."""
    children = module._modules  # noqa: SLF001 - getattr would be slow
    original = children["_orig_mod"] if "_orig_mod" in children else None  # noqa: SIM401 - that of a scripted module has no `get`
    return module if original is None else original


def layers_of(model: nn.Module, chosen: LayerPatterns | None = None) -> list[LayerInfo]:
    """Return the modules of a model in `named_modules()` order, and mark those to watch.

    If `chosen` is None, all modules are watched except two kinds without parameters of their own: containers,
    whose output is that of a child or which are never called, and the model itself, whose output is the loss or
    the logits. The model is watched if it has a list or dict of parameters. A module with two names appears once,
    under the first name.
    """
    named = list(model.named_modules())
    owned = [_own_parameters(module) for _, module in named]
    watched = choose_layers(chosen, named) if chosen is not None else _watched_by_default(named, owned)
    return [
        LayerInfo(i, name, module, name in watched, parameters)
        for i, ((name, module), parameters) in enumerate(zip(named, owned, strict=True))
    ]


def _own_parameters(module: nn.Module) -> dict[str, nn.Parameter]:
    """Return the same as `named_parameters(recurse=False)`, but much faster in the usual case."""
    owned = {name: p for name, p in module._parameters.items() if p is not None}  # noqa: SLF001 - see above
    is_usual = type(module).named_parameters is nn.Module.named_parameters
    if is_usual and len({id(p) for p in owned.values()}) == len(owned):
        return owned
    return dict(module.named_parameters(recurse=False))


def _watched_by_default(
    named: Sequence[tuple[str, nn.Module]], owned: Sequence[dict[str, nn.Parameter]]
) -> set[str]:
    pairs = zip(named, owned, strict=True)
    chosen = {name for (name, module), own in pairs if own or _may_be_called(name, module)}
    _, model = named[0]
    computes = any(isinstance(child, _PARAMETERS) for child in model.children())
    return chosen | {""} if computes or not chosen else chosen


def _may_be_called(name: str, module: nn.Module) -> bool:
    return name != "" and not isinstance(module, _CONTAINERS)


def choose_layers(patterns: LayerPatterns, named: Sequence[tuple[str, nn.Module]]) -> set[str]:
    """Return the names of the layers that match. Raises UnknownLayerError if a pattern matches no layer."""
    if callable(patterns) and not isinstance(patterns, re.Pattern):
        chosen = {name for name, module in named if patterns(name, module)}
        if not chosen:
            raise UnknownLayerError(f"the callable given as layers chose none of {len(named)} modules")
        return chosen
    return set(match_names(patterns, [name for name, _ in named]))
