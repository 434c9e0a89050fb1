"""Reads facts from a Function's source: lines that can cause a fault. The source is not run.

If there is no source (in a REPL or a compiled extension), there are no facts.
"""

import ast
import inspect
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from torch.autograd import Function

__all__ = ["SourceFact", "parameters_of", "read_function", "short_path", "where_defined"]

_METHODS: Final = ("forward", "setup_context", "backward", "vjp")
_FORWARD: Final = ("forward", "setup_context")
_CUTTING: Final = frozenset({"data", "detach", "detach_", "numpy", "item", "tolist", "no_grad"})
_CASTS: Final = frozenset({"float", "double", "half", "bfloat16"})
_DTYPES: Final = _CASTS | {"float16", "float32", "float64", "complex64", "complex128"}


@dataclass(frozen=True, slots=True)
class SourceFact:
    """One line of the source that can cause a fault."""

    kind: str
    """An attribute that cuts the graph (data, detach, numpy, item, tolist, no_grad), "in-place", "saved_tensors",
    "needs_input_grad", "save_for_backward", "ctx attribute" (an assignment to one), "dtype" or "device" (a hard-coded
    one), or "return" (of a known number of values).
    """
    method: str
    where: str
    text: str
    target: str = ""
    """The variable that is modified, the attribute that is set, or the number of returned values."""

    @property
    def is_in_forward(self) -> bool:
        """Whether the line is in forward or setup_context."""
        return self.method in _FORWARD

    @property
    def is_cutting(self) -> bool:
        """Whether the line detaches a tensor from the graph."""
        return self.kind in _CUTTING


def read_function(function: type[Function]) -> tuple[SourceFact, ...]:
    """Return the facts of forward, setup_context and backward, in the order of the file."""
    found: list[SourceFact] = []
    for name in _METHODS:
        if any(
            name in vars(owner) for owner in function.__mro__ if owner.__module__ != Function.__module__
        ):
            found.extend(_read_method(name, inspect.unwrap(getattr(function, name))))
    return tuple(found)


def parameters_of(function: type[Function], name: str) -> list[str]:
    """Return the names of a method's parameters, without ctx."""
    is_with_ctx = name != "forward" or function.setup_context is Function.setup_context
    try:
        parameters = inspect.signature(getattr(function, name)).parameters
    except (TypeError, ValueError):
        return []
    return list(parameters)[int(is_with_ctx) :]


def where_defined(thing: Any) -> str:  # Any: a class, a method or any callable
    """Return "file:line" of a definition; "" if unknown."""
    try:
        path = inspect.getsourcefile(thing)
        _, line = inspect.getsourcelines(thing)
    except (OSError, TypeError):
        return ""
    return f"{short_path(path)}:{line}" if path else ""


def _read_method(name: str, method: Any) -> Iterator[SourceFact]:  # Any: the user's method
    try:
        path = inspect.getsourcefile(method) or ""
        lines, first = inspect.getsourcelines(method)
        tree: ast.AST = ast.parse(textwrap.dedent("".join(lines)))
    except (OSError, TypeError, SyntaxError):
        return  # a lambda inside an expression cannot be parsed alone
    lambdas = [node for node in ast.walk(tree) if isinstance(node, ast.Lambda)]
    if method.__name__ == "<lambda>":  # its lines may hold other code as well
        names = inspect.getfullargspec(method).args
        meant = [node for node in lambdas if [a.arg for a in node.args.args] == names]
        if len(meant) != 1:
            return
        tree = meant[0]
    for node in ast.walk(tree):
        kind, target = _kind_of_fact(node)
        if kind:
            number = getattr(node, "lineno", 1)
            place = f"{short_path(path)}:{first + number - 1}"
            yield SourceFact(kind, name, place, lines[number - 1].strip(), target)


def _kind_of_fact(node: ast.AST) -> tuple[str, str]:  # noqa: PLR0911 - one return for each kind
    match node:
        case ast.Call(func=ast.Attribute(attr=called, value=owner)) if _is_in_place(called):
            return "in-place", _root_variable(owner)
        case ast.AugAssign(target=ast.Name() | ast.Subscript() as target):
            return "in-place", _root_variable(target)
        case ast.Assign(targets=[ast.Subscript() as target]):
            return "in-place", _root_variable(target)
        case ast.Attribute(attr=name, value=ast.Name(id="ctx"), ctx=ast.Store()):
            return "ctx attribute", name
        case ast.Attribute(attr="saved_tensors" | "needs_input_grad" | "save_for_backward" as name):
            return name, ""
        case ast.Attribute(attr=name) if name in _CUTTING:
            return name, ""
        case ast.Return(value=ast.Tuple(elts=values)) if not any(
            isinstance(value, ast.Starred) for value in values
        ):
            return "return", str(len(values))
    return _kind_of_hard_coded(node), ""


def _kind_of_hard_coded(node: ast.AST) -> str:
    """Return "device" or "dtype" if the node is a hard-coded device or dtype; else ""."""
    match node:
        case ast.Call(func=ast.Attribute(attr="cuda")):
            return "device"
        case ast.keyword(arg="device", value=ast.Constant(value=str()) | ast.JoinedStr()):
            return "device"
        case ast.Call(
            func=ast.Attribute(value=ast.Name(id="torch"), attr="device"), args=[ast.Constant()]
        ):
            return "device"
        case ast.Call(func=ast.Attribute(attr=cast), args=[]) if cast in _CASTS:
            return "dtype"
        case ast.Attribute(value=ast.Name(id="torch"), attr=name) if name in _DTYPES:
            return "dtype"
    return ""


def _root_variable(node: ast.AST) -> str:
    """Return the variable at the root of an expression: x for x[0] and for x.view(-1)."""
    while isinstance(node, ast.Subscript | ast.Attribute | ast.Call):
        node = node.func if isinstance(node, ast.Call) else node.value
    return node.id if isinstance(node, ast.Name) else ""


def _is_in_place(called: str) -> bool:
    return (
        called.endswith("_")
        and not called.endswith("__")
        and called not in ("requires_grad_", "detach_")
    )


def short_path(path: str | None) -> str:
    """Return a path relative to the working directory if it is inside that directory, otherwise unchanged."""
    if not path:
        return ""
    try:
        return str(Path(path).relative_to(Path.cwd()))
    except ValueError:
        return path
