"""Finds Functions whose values and gradients equal those of an operation of PyTorch."""

import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any, Final, TypeAlias

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import Tensor

from gradscope.doctor.examination import Examination
from gradscope.doctor.subject.run import run_subject
from gradscope.doctor.subject.subject import Subject
from gradscope.doctor.subject.timing import time_function
from gradscope.findings import Finding, finding

__all__ = ["find_reimplementations"]


_LARGE: Final = 100_000
_REPEATS: Final = 20
_REPEATS_OF_LARGE: Final = 3

_Operation: TypeAlias = Callable[..., Tensor]


def _operations_by_name(
    prefix: str, module: Any, names: str
) -> dict[str, _Operation]:  # Any: a module of operations
    return {f"{prefix}.{name}": getattr(module, name) for name in names.split()}


_UNARY: Final[Mapping[str, _Operation]] = {
    **_operations_by_name(
        "torch", torch, "relu sigmoid tanh exp log log1p sin cos atan erf abs neg sqrt rsqrt"
    ),
    **_operations_by_name("torch", torch, "reciprocal square sum mean max"),
    **_operations_by_name(
        "torch.nn.functional", F, "silu gelu mish softplus elu selu leaky_relu hardswish"
    ),
    **_operations_by_name("torch.nn.functional", F, "hardsigmoid relu6 logsigmoid softsign normalize"),
    "torch.nn.functional.gelu(approximate='tanh')": lambda x: F.gelu(x, approximate="tanh"),
    "torch.pow(x, 3)": lambda x: x.pow(3),
    "torch.linalg.vector_norm": torch.linalg.vector_norm,
    "torch.sum(x, dim=0)": lambda x: x.sum(0),
    "torch.sum(x, dim=-1)": lambda x: x.sum(-1),
    "torch.mean(x, dim=-1)": lambda x: x.mean(-1),
    "torch.amax(x, dim=-1)": lambda x: x.amax(-1),
    "torch.logsumexp(x, dim=-1)": lambda x: x.logsumexp(-1),
    "torch.softmax(x, dim=-1)": lambda x: x.softmax(-1),
    "torch.log_softmax(x, dim=-1)": lambda x: x.log_softmax(-1),
}
_BINARY: Final[Mapping[str, _Operation]] = {
    **_operations_by_name("torch", torch, "add sub mul div matmul maximum minimum"),
    **_operations_by_name(
        "torch.nn.functional", F, "linear mse_loss l1_loss huber_loss smooth_l1_loss"
    ),
    **_operations_by_name(
        "torch.nn.functional", F, "binary_cross_entropy_with_logits cosine_similarity"
    ),
    **_operations_by_name("torch.nn.functional", F, "conv1d conv2d cross_entropy"),
}
_TERNARY: Final[Mapping[str, _Operation]] = {
    **_operations_by_name("torch.nn.functional", F, "linear conv1d conv2d"),
    **_operations_by_name("torch", torch, "addmm addcmul lerp"),
}
_WITH_OPTIONS: Final[Mapping[str, _Operation]] = {
    **_operations_by_name(
        "torch", torch, "sum mean amax logsumexp softmax log_softmax cumsum pow mul clamp"
    ),
    **_operations_by_name("torch.nn.functional", F, "leaky_relu elu layer_norm"),
    "torch.nn.functional.gelu": lambda x, approximate: F.gelu(x, approximate=approximate),
    "torch.nn.functional.conv1d": lambda x, w, *options: F.conv1d(x, w, None, *options),
    "torch.nn.functional.conv2d": lambda x, w, *options: F.conv2d(x, w, None, *options),
}
"""Called with all arguments in their order, including arguments that are not tensors."""
_BY_COUNT: Final[Mapping[int, Mapping[str, _Operation]]] = {1: _UNARY, 2: _BINARY, 3: _TERNARY}


def find_reimplementations(exam: Examination) -> Iterator[Finding]:
    """Compare with PyTorch's operations, on the inputs and on reflected inputs.

    Candidates take the same number of tensors. If there are other arguments, candidates take these as well.
    """
    if exam.is_approximate or exam.has_errors or not exam.is_gradient_right:
        return
    exam.covered.add("built-in")
    if exam.subject.module is not None or not exam.subject.functions:
        return
    tensors = [a for a in exam.in_double.arguments if isinstance(a, Tensor)]
    has_options = len(tensors) != len(exam.in_double.arguments)
    table = _WITH_OPTIONS if has_options else _BY_COUNT.get(len(tensors), {})
    for name, operation in table.items():
        if _is_same_operation(exam, operation):
            yield _reimplementation(exam, name, operation)
            return


def _reimplementation(exam: Examination, name: str, operation: _Operation) -> Finding:
    arguments = list(exam.subject.arguments)
    for leaf in exam.subject.leaves:
        arguments[leaf.position] = leaf.value.detach().requires_grad_(leaf.is_needed)
    is_large = any(leaf.value.numel() > _LARGE for leaf in exam.subject.leaves)
    repeats = _REPEATS_OF_LARGE if is_large else _REPEATS
    timing = time_function(exam.subject.call, operation, *arguments, repeats=repeats)
    return finding(
        "reimplements-builtin",
        f"the values and gradients are equal to those of {name}",
        fix=f"call {name}",
        where=exam.location,
        evidence={"timing": str(timing)},
    )


def _is_same_operation(exam: Examination, operation: _Operation) -> bool:
    reflected = exam.in_double.with_values([-1.7 * leaf.value + 0.13 for leaf in exam.in_double.leaves])
    for subject in (exam.in_double, reflected):
        expected = _outputs_or_none(subject)
        got = _outputs_or_none(_with_call(subject, operation))
        if expected is None or got is None or len(expected) != 1 or len(got) != 1:
            return False
        if expected[0].shape != got[0].shape or expected[0].dtype != got[0].dtype:
            return False
        if not torch.allclose(expected[0], got[0], rtol=1e-6, atol=1e-9, equal_nan=True):
            return False
    return _has_same_gradients(exam.in_double, _with_call(exam.in_double, operation))


def _has_same_gradients(subject: Subject, builtin: Subject) -> bool:
    ours, theirs = run_subject(subject), run_subject(builtin)
    if theirs.failure is not None:
        return False
    pairs = zip(ours.gradients, theirs.gradients, strict=True)
    return all(
        (a is None) == (b is None)
        and (a is None or b is None or torch.allclose(a, b, rtol=1e-3, atol=1e-6))
        for a, b in pairs
    )


def _outputs_or_none(subject: Subject) -> list[Tensor] | None:
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an operation may warn about unsuitable inputs
            return list(subject([leaf.value.clone() for leaf in subject.leaves]))
    except Exception:  # noqa: BLE001 - an operation that raises on these inputs is a different one
        return None


def _with_call(subject: Subject, operation: _Operation) -> Subject:
    return replace(subject, call=operation, functions=())
