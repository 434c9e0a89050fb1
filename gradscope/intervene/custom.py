"""Functions of the script as interventions, and their registration by name.

The arguments are read from the function's signature: its keyword parameters with their types (`float`,
`int`, `bool`, `Literal["a", "b"]`) and defaults. The first parameter is the gradient.
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
"""A function of a gradient that returns a tensor of its shape and dtype, or a subclass of
torch.autograd.Function that is applied to the tensor in the forward pass."""

_registered: dict[str, Action] = {}
"""The interventions that scripts of this process have registered, by name."""

_NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")
_KINDS: dict[object, Literal["number", "whole", "yes"]] = {float: "number", int: "whole", bool: "yes"}


def all_actions() -> tuple[Action, ...]:
    """Return the built-in actions, then the registered ones."""
    return (*ACTIONS.values(), *_registered.values())


def find_action(name: str) -> Action:
    """Return the action with this name. Raises UsageError that lists the known names."""
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
    """Register a function as an action, replacing an earlier one with the same name. Return the action.

    Raises UsageError if the name is invalid or belongs to a built-in action, or if a parameter has no
    supported type.
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
    """Convert a function to an action. Raises UsageError for an unsupported function or parameter."""
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
    transform = (
        _transform_of_autograd(function)
        if isinstance(function, type)
        else _transform_of_function(function, arguments)
    )
    return Action(spec, transform, is_own=True)


def _transform_of_function(
    function: Callable[..., Tensor], arguments: Sequence[Argument]
) -> Callable[..., Tensor]:
    whole = {argument.name for argument in arguments if argument.kind == "whole"}

    def change(gradient: Tensor, given: Mapping[str, Value], _generator: object) -> Tensor:
        keywords = {name: int(value) if name in whole else value for name, value in given.items()}
        return _check_result(gradient, function(gradient, **keywords))

    return change


def _transform_of_autograd(function: type[Function]) -> Callable[..., Tensor]:
    def change(x: Tensor, _arguments: object, _generator: object) -> Tensor:
        value = _check_result(x, function.apply(x))  # type: ignore[no-untyped-call]  # torch leaves apply untyped
        # The copy has its own edge in the graph, even if the function returned its input.
        return value.clone()

    return change


def _check_result(given: Tensor, made: object) -> Tensor:
    """Return the result of a user's function. Raises UsageError for another shape or dtype, or a new NaN."""
    tensor = check_changed(given, made)
    if is_transforming():  # its elements cannot be read
        return tensor
    if bool(tensor.detach().isnan().any()) and not bool(given.detach().isnan().any()):
        raise UsageError(
            "the function returned NaN for an input without NaN; check it for a division by zero or an overflow"
        )
    return tensor


def _arguments_of(
    function: Callable[..., Any],  # Any: any arguments of a user's function
    ranges: Mapping[str, tuple[float, float]],
) -> tuple[Argument, ...]:
    try:
        parameters = list(inspect.signature(function, eval_str=True).parameters.values())
    except (TypeError, ValueError, NameError):
        return ()  # a builtin without a signature: it takes the gradient alone
    unknown = sorted(set(ranges) - {p.name for p in parameters[1:]})
    if unknown:
        known = ", ".join(p.name for p in parameters[1:]) or "none"
        raise UsageError(
            f"expected the keys of `ranges` to be parameters of the function ({known}), got {', '.join(unknown)}"
        )
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
