"""Finds the line of an operation of the loss in the text of the functions that called the backward pass.

The graph of a loss names its operations, but not their lines, and recording these would cost more than the loss. The
text of the script has them: the operation is looked up in the function that called `backward`, in the functions that it
calls, and in its own callers. Nothing is executed. A line is returned only if it is the only possible one.
"""

import ast
import functools
import inspect
import textwrap
from collections.abc import Iterator
from types import CodeType, FrameType, FunctionType, MethodType
from typing import Any, Final

from torch import nn

from gradscope.agent.flight_recorder.source import SourceLine, is_in_package, is_users_code

__all__ = ["find_line"]

_FRAMES: Final = 4
_DEPTH: Final = 3

_BINARY: Final = {
    "div": ast.Div, "mul": ast.Mult, "pow": ast.Pow, "sub": ast.Sub, "rsub": ast.Sub, "add": ast.Add,
    "mm": ast.MatMult, "bmm": ast.MatMult, "mv": ast.MatMult, "dot": ast.MatMult,
}  # fmt: skip

_NAMES: Final = {
    "nll_loss": ("nll_loss", "cross_entropy", "NLLLoss", "CrossEntropyLoss"),
    "nll_loss2d": ("nll_loss", "cross_entropy", "NLLLoss", "CrossEntropyLoss"),
    "log_softmax": ("log_softmax", "cross_entropy", "CrossEntropyLoss", "LogSoftmax"),
    "softmax": ("softmax", "Softmax"),
    "mse_loss": ("mse_loss", "MSELoss"),
    "smooth_l1_loss": ("smooth_l1_loss", "SmoothL1Loss"),
    "huber_loss": ("huber_loss", "HuberLoss"),
    "binary_cross_entropy": ("binary_cross_entropy", "BCELoss"),
    "binary_cross_entropy_with_logits": ("binary_cross_entropy_with_logits", "BCEWithLogitsLoss"),
    "xlogy": ("xlogy", "kl_div", "KLDivLoss"),
    "pow": ("pow", "square", "float_power"),
    "div": ("div", "divide", "true_divide"),
    "mul": ("mul", "multiply", "square"),
    "mean": ("mean",),
    "linalg_vector_norm": (
        "norm",
        "vector_norm",
        "cosine_similarity",
        "normalize",
        "pairwise_distance",
    ),
    "norm": ("norm", "pairwise_distance"),
    "arccos": ("acos", "arccos"),
}
"""By operation: the functions and modules of PyTorch that run it, if not only one of its own name."""


def find_line(frame: FrameType | None, operation: str, place: int, count: int) -> SourceLine | None:
    """Return the source line that runs an operation; None if no line or several lines match.

    frame: the stack frame to search first; its callers follow. operation: its name without `aten.`. place, count: the
    loss runs `count` operations of this name, and the wanted one is number `place` (from 0) in order of execution.
    """
    seen = 0
    while frame is not None and seen < _FRAMES:
        if is_users_code(frame.f_code):
            seen += 1
            names = {**frame.f_globals, **frame.f_locals}
            found = [
                line
                for line in _matches(frame.f_code, names, operation.strip("_"), 0)
                if line.function != frame.f_code.co_name or line.number <= frame.f_lineno
            ]
            lines = list(dict.fromkeys(found))
            if len(lines) == 1:
                return lines[0]
            if lines:
                return found[place] if len(found) == count else None
        frame = frame.f_back
    return None


def _matches(code: CodeType, names: dict[str, Any], operation: str, depth: int) -> Iterator[SourceLine]:
    """Yield the lines of a function that run the operation, in order; also those of functions that it calls."""
    tree, offset = _tree_of(code)
    for node in _in_order(tree):
        line = SourceLine.of(code, node.lineno + offset)
        if isinstance(node, ast.BinOp | ast.AugAssign):
            if type(node.op) is _BINARY.get(operation):
                yield line
        elif isinstance(node, ast.Call):
            called = _resolve(node.func, names)
            name = (
                node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            )
            if isinstance(called, nn.Module) and not _function_of(called):
                name = type(called).__name__
            function = _function_of(called)
            if name.strip("_") in _NAMES.get(operation, (operation,)):
                yield line
            elif function is not None and depth < _DEPTH and not _is_model(called):
                inner = {**function.__globals__, **_free_names(function)}
                if isinstance(called, nn.Module):
                    inner["self"] = called
                yield from _matches(function.__code__, inner, operation, depth + 1)


def _is_model(called: object) -> bool:
    """Return whether this is a model and not a loss: losses have no parameters."""
    return isinstance(called, nn.Module) and next(called.parameters(), None) is not None


def _function_of(called: object) -> FunctionType | None:
    """Return the script's own function behind a callable; None for functions of torch, and other objects."""
    if isinstance(called, nn.Module):
        called = type(called).forward
    if isinstance(called, MethodType):
        called = called.__func__
    if isinstance(called, functools.partial):
        called = called.func
    if not isinstance(called, FunctionType):
        return None
    return called if is_users_code(called.__code__) and not is_in_package(called.__code__) else None


def _free_names(function: FunctionType) -> dict[str, Any]:  # Any: whatever a closure holds
    cells = function.__closure__ or ()
    found = {}
    for name, cell in zip(function.__code__.co_freevars, cells, strict=True):
        try:
            found[name] = cell.cell_contents
        except ValueError:  # not assigned yet
            continue
    return found


def _resolve(node: ast.expr, names: dict[str, Any]) -> Any:  # Any: whatever has that name
    """Return the object behind `name` or `name.attribute`; None if unknown. Properties are not run."""
    if isinstance(node, ast.Name):
        return names.get(node.id)
    if isinstance(node, ast.Attribute):
        owner = _resolve(node.value, names)
        if isinstance(owner, nn.Module):
            return owner._modules.get(node.attr) or inspect.getattr_static(type(owner), node.attr, None)  # noqa: SLF001 - getattr might run a property
        return None if owner is None else inspect.getattr_static(owner, node.attr, None)
    return None


def _in_order(tree: ast.AST) -> Iterator[ast.expr | ast.AugAssign]:
    """Yield the expressions in order of evaluation: operands before the operation on them."""
    for child in ast.iter_child_nodes(tree):
        yield from _in_order(child)
    if isinstance(tree, ast.expr | ast.AugAssign):
        yield tree


def _tree_of(code: CodeType) -> tuple[ast.AST, int]:
    """Return the syntax tree of a function, and what to add to its line numbers; an empty tree without its text."""
    try:
        text = textwrap.dedent(inspect.getsource(code))
        return ast.parse(text), code.co_firstlineno - 1
    except (OSError, SyntaxError, TypeError, ValueError):
        return ast.Module([], []), 0
