"""What can be read in a Function's source: the lines that tell where a fault comes from.

Reading never runs anything. Where there is no source (a REPL, a compiled extension) nothing is found,
and the findings rest on running alone.
"""

import ast
import inspect
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from torch.autograd import Function

__all__ = ["Fact", "read_function", "short_path", "where_defined"]

_METHODS: Final = ("forward", "setup_context", "backward", "vjp")
_FORWARD: Final = ("forward", "setup_context")
_CUTTING: Final = frozenset({"data", "detach", "detach_", "numpy", "item", "tolist", "no_grad"})


@dataclass(frozen=True, slots=True)
class Fact:
    """One telling line: its kind, the method it stands in, and where."""

    kind: str
    """An attribute that cuts the graph (data, detach, numpy, item, tolist, no_grad), "in-place",
    "saved_tensors", "needs_input_grad" or "save_for_backward"."""
    method: str
    where: str
    text: str

    @property
    def is_in_forward(self) -> bool:
        """Whether it stands in forward or setup_context."""
        return self.method in _FORWARD

    @property
    def is_cutting(self) -> bool:
        """Whether what it says cuts a tensor off the graph."""
        return self.kind in _CUTTING


def read_function(function: type[Function]) -> tuple[Fact, ...]:
    """Return the facts of forward, setup_context and backward, in the order of the file."""
    found: list[Fact] = []
    for name in _METHODS:
        if any(
            name in vars(owner) for owner in function.__mro__ if owner.__module__ != Function.__module__
        ):
            found.extend(_read_method(name, inspect.unwrap(getattr(function, name))))
    return tuple(found)


def where_defined(thing: Any) -> str:  # Any: a class, a method or any callable
    """Return "file:line" of a definition, "" where it is not known."""
    try:
        path = inspect.getsourcefile(thing)
        _, line = inspect.getsourcelines(thing)
    except (OSError, TypeError):
        return ""
    return f"{short_path(path)}:{line}" if path else ""


def _read_method(name: str, method: Any) -> Iterator[Fact]:  # Any: whatever the class calls its method
    try:
        path = inspect.getsourcefile(method) or ""
        lines, first = inspect.getsourcelines(method)
        tree = ast.parse(textwrap.dedent("".join(lines)))
    except (OSError, TypeError, SyntaxError):
        return  # a lambda in the middle of an expression does not parse by itself
    for node in ast.walk(tree):
        kind = _kind_of(node)
        if kind:
            number = getattr(node, "lineno", 1)
            yield Fact(
                kind, name, f"{short_path(path)}:{first + number - 1}", lines[number - 1].strip()
            )


def _kind_of(node: ast.AST) -> str:
    match node:
        case ast.Call(func=ast.Attribute(attr=called)) if _is_in_place(called):
            return "in-place"
        case ast.AugAssign(target=ast.Name() | ast.Subscript()):
            return "in-place"
        case ast.Assign(targets=[ast.Subscript()]):
            return "in-place"
        case ast.Attribute(attr="saved_tensors" | "needs_input_grad" | "save_for_backward" as name):
            return name
        case ast.Attribute(attr=name) if name in _CUTTING:
            return name
    return ""


def _is_in_place(called: str) -> bool:
    return (
        called.endswith("_")
        and not called.endswith("__")
        and called not in ("requires_grad_", "detach_")
    )


def short_path(path: str | None) -> str:
    """Return a path as a person would type it: relative to here where it lies below."""
    if not path:
        return ""
    try:
        return str(Path(path).relative_to(Path.cwd()))
    except ValueError:
        return path
