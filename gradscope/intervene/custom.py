"""Functions of a script's own as interventions: made from a function, and known by name to viewers.

What a viewer may set is read from the function's signature: its keyword parameters with their types
(`float`, `int`, `bool`, `Literal["a", "b"]`) and defaults. The first parameter is the gradient.
"""

import inspect
import math
import re
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeAlias

from torch import Tensor
from torch.autograd import Function

from gradscope.catalogue import SITES, Argument, InterventionSpec, Value
from gradscope.errors import UsageError
from gradscope.functional.change import check_changed
from gradscope.hooks import is_transforming
from gradscope.intervene.actions import ACTIONS, Action

__all__ = ["OwnFunction", "action_of", "all_actions", "find_action", "register_action"]

OwnFunction: TypeAlias = Callable[..., Tensor] | type[Function]
"""A function of a gradient, which returns a tensor like it, or a subclass of torch.autograd.Function,
which is applied to the tensor in forward."""

_registered: dict[str, Action] = {}
"""What scripts of this process have registered, by name."""

_NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")
_KINDS: dict[object, Literal["number", "whole", "yes"]] = {float: "number", int: "whole", bool: "yes"}


def all_actions() -> tuple[Action, ...]:
    """Return gradscope's own actions and then those of the script."""
    return (*ACTIONS.values(), *_registered.values())


def find_action(name: str) -> Action:
    """Return the action of a name. Raises UsageError with the names that there are."""
    action = ACTIONS.get(name) or _registered.get(name)
    if action is None:
        known = ", ".join(action.spec.name for action in all_actions())
        raise UsageError(f"no intervention {name!r}; there are: {known}")
    return action


def register_action(
    name: str,
    function: OwnFunction,
    *,
    sites: Sequence[str] | None = None,
    ranges: Mapping[str, tuple[float, float]] | None = None,
) -> Action:
    """Make a function known by a name, in the place of one that had it. Returns the action.

    Raises UsageError for a name that is none or gradscope's own, and for a function whose parameters
    cannot be understood.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise UsageError(
            f"the name of an intervention is a word of small letters, digits and _, got {name!r}"
        )
    if name in ACTIONS:
        raise UsageError(f"{name!r} is gradscope's own intervention; choose another name")
    action = action_of(function, name, sites=sites, ranges=ranges)
    _registered[name] = action
    return action


def action_of(
    function: OwnFunction,
    name: str | None = None,
    *,
    sites: Sequence[str] | None = None,
    ranges: Mapping[str, tuple[float, float]] | None = None,
) -> Action:
    """Return a function as an action. Raises UsageError where it is none or cannot be understood."""
    if not callable(function):
        raise UsageError(
            "an intervention is a function of a gradient or a subclass of torch.autograd.Function, "
            f"got {function!r}"
        )
    is_forward = isinstance(function, type) and issubclass(function, Function)
    possible = SITES[:2] if is_forward else SITES
    chosen = tuple(sites) if sites is not None else possible
    if not chosen or not set(chosen) <= set(possible):
        raise UsageError(
            f"the sites of this intervention are among {', '.join(possible)}, got {chosen}"
        )
    name = name or getattr(function, "__name__", type(function).__name__).strip("<>").lower()
    arguments = () if is_forward else _arguments_of(function, ranges or {})
    spec = InterventionSpec(
        name,
        (inspect.getdoc(function) or f"the script's own {name}").partition("\n")[0],
        arguments,
        what="value" if is_forward else "gradient",
        sites=chosen,
        needs_whole=True,
    )
    transform = _applied(function) if isinstance(function, type) else _called(function, arguments)
    return Action(spec, transform, is_own=True)


def _called(function: Callable[..., Tensor], arguments: Sequence[Argument]) -> Callable[..., Tensor]:
    whole = {argument.name for argument in arguments if argument.kind == "whole"}

    def change(gradient: Tensor, given: Mapping[str, Value], _generator: object) -> Tensor:
        keywords = {name: int(value) if name in whole else value for name, value in given.items()}
        return _looked_at(gradient, function(gradient, **keywords))

    return change


def _applied(function: type[Function]) -> Callable[..., Tensor]:
    def change(x: Tensor, _arguments: object, _generator: object) -> Tensor:
        value = _looked_at(x, function.apply(x))  # type: ignore[no-untyped-call]  # torch leaves apply untyped
        return value.clone()  # it owns its edge then, whatever the function returned

    return change


def _looked_at(given: Tensor, made: object) -> Tensor:
    """Return what a function made. Raises UsageError for another shape or dtype, and for new NaN."""
    tensor = check_changed(given, made)
    if is_transforming():  # its elements are not to be looked at
        return tensor
    if bool(tensor.detach().isnan().any()) and not bool(given.detach().isnan().any()):
        raise UsageError("the function returned NaN where none had come")
    return tensor


def _arguments_of(
    function: Callable[..., Any],  # Any: any arguments of a user's function
    ranges: Mapping[str, tuple[float, float]],
) -> tuple[Argument, ...]:
    try:
        parameters = list(inspect.signature(function, eval_str=True).parameters.values())
    except (TypeError, ValueError, NameError):
        return ()  # a builtin tells nothing of itself: it takes the gradient alone
    unknown = sorted(set(ranges) - {p.name for p in parameters[1:]})
    if unknown:
        raise UsageError(f"ranges speak of parameters that are not there: {', '.join(unknown)}")
    return tuple(
        _argument(p, ranges.get(p.name))
        for p in parameters[1:]
        if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
    )


def _argument(parameter: inspect.Parameter, limits: tuple[float, float] | None) -> Argument:
    name, default, hint = parameter.name, parameter.default, parameter.annotation
    given = None if default is parameter.empty else default
    if typing.get_origin(hint) is Literal:
        options = tuple(str(option) for option in typing.get_args(hint))
        return Argument(name, "", "choice", default=given, options=options)
    kind = _KINDS.get(type(given) if hint is parameter.empty else hint)
    if kind is None:
        raise UsageError(
            f"parameter {name!r} must be annotated as float, int, bool or Literal of texts, got "
            f"{hint!r}; bind other parameters with functools.partial"
        )
    lowest, highest = limits or (-math.inf, math.inf)
    value = float(given) if given is not None and kind != "yes" else given
    return Argument(name, "", kind, default=value, lowest=lowest, highest=highest)
