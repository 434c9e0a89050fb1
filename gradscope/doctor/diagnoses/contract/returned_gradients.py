"""Checks shape, dtype and device of the gradients that backward returns, before autograd converts them silently."""

from collections.abc import Iterator
from itertools import combinations

import torch
from torch import Tensor

from gradscope.doctor.diagnoses.gradients.repairs import exchanges, find_right_repair, is_gradient_right
from gradscope.doctor.diagnoses.gradients.transpose import missing_transpose
from gradscope.doctor.examination import Examination
from gradscope.doctor.numerics.finite_differences import compare_elements
from gradscope.doctor.numerics.precision import Precision
from gradscope.findings import Finding, finding

__all__ = [
    "find_mismatched_gradients",
]


def find_mismatched_gradients(exam: Examination) -> Iterator[Finding]:
    """Compare each gradient that backward returned with its argument."""
    for call in exam.first_run.calls:
        for position, (x, gradient) in enumerate(zip(call.inputs, call.returned or (), strict=False)):
            if isinstance(x, Tensor) and isinstance(gradient, Tensor) and call.needs[position]:
                name = f"argument {position} of {call.function.__name__}"
                if gradient.shape != x.shape:
                    yield _shape_finding(exam, position, name, x, gradient)
                yield from _dtype_and_device_findings(exam, name, x, gradient)


def _shape_finding(exam: Examination, position: int, name: str, x: Tensor, gradient: Tensor) -> Finding:
    shapes = f"{tuple(gradient.shape)} for {name}, which has {tuple(x.shape)}"
    exchange = _exchange_that_cures(exam, position)
    if exchange:
        return finding(
            "gradient-shape-mismatch",
            f"backward returns {shapes}: it is right once {exchange}",
            cause="backward returns the gradients in another order than forward takes its arguments",
            fix=f"return the gradients in the order of the arguments (tried: right once {exchange})",
            where=exam.location,
        )
    if _is_expandable(x.shape, gradient.shape):
        summed = _dims_to_sum(x.shape, gradient.shape)
        return finding(
            "broadcast-not-reduced",
            f"backward returns {shapes}: the broadcast was not summed",
            fix=f"sum over dims {summed} before returning: grad.sum_to_size(x.shape)",
            where=exam.location,
            severity="warning",
        )
    dims = _transposed_dims(exam, position, x, gradient)
    if dims:
        return missing_transpose(
            f"backward returns {shapes}: the right gradient with dims {dims[0]} and {dims[1]} "
            f"exchanged",
            exam.location,
            _both_shapes(x, gradient),
        )
    return finding(
        "gradient-shape-mismatch",
        f"backward returns {shapes}",
        where=exam.location,
        evidence=_both_shapes(x, gradient),
    )


def _exchange_that_cures(exam: Examination, position: int) -> str:
    leaves = enumerate(exam.subject.leaves)
    number = next((n for n, leaf in leaves if leaf.position == position), None)
    if number is None or is_gradient_right(exam, number):  # autograd sums over broadcast dims itself
        return ""
    return find_right_repair(exam, number, exchanges(exam, number))


def _dtype_and_device_findings(
    exam: Examination, name: str, x: Tensor, gradient: Tensor
) -> Iterator[Finding]:
    if gradient.dtype != x.dtype:
        yield finding(
            "gradient-dtype-mismatch",
            f"backward returns {gradient.dtype} for {name}, which is {x.dtype}",
            where=_line_of_hard_coded(exam, "dtype"),
            evidence={
                "digits_of_gradient": _decimal_digits(gradient.dtype),
                "digits_of_argument": _decimal_digits(x.dtype),
            },
        )
    if gradient.device != x.device:
        yield finding(
            "gradient-device-mismatch",
            f"backward returns a gradient on {gradient.device} for {name}, which is on {x.device}",
            where=_line_of_hard_coded(exam, "device"),
        )


def _both_shapes(x: Tensor, gradient: Tensor) -> dict[str, str]:
    return {"expected_shape": str(tuple(x.shape)), "got_shape": str(tuple(gradient.shape))}


def _line_of_hard_coded(exam: Examination, kind: str) -> str:
    """Return the line of backward with a hard-coded dtype or device; otherwise the line of the Function."""
    lines = (f.where for f in exam.facts if f.kind == kind and not f.is_in_forward)
    return next(lines, exam.location)


def _is_expandable(shape: torch.Size, to: torch.Size) -> bool:
    if len(shape) > len(to):
        return False
    padded = (1,) * (len(to) - len(shape)) + tuple(shape)
    return all(a in (1, b) for a, b in zip(padded, to, strict=True))


def _dims_to_sum(shape: torch.Size, larger: torch.Size) -> tuple[int, ...]:
    padded = (1,) * (len(larger) - len(shape)) + tuple(shape)
    ahead = len(larger) - len(shape)
    return tuple(
        d
        for d, (a, b) in enumerate(zip(padded, larger, strict=True))
        if d < ahead or (a == 1 and b != 1)
    )


def _transposed_dims(
    exam: Examination, position: int, x: Tensor, gradient: Tensor
) -> tuple[int, int] | None:
    """Return the two dims of the returned gradient whose exchange makes the gradient right; None if there are none."""
    leaves = exam.subject.leaves
    number = next((n for n, leaf in enumerate(leaves) if leaf.position == position), None)
    if number is None or leaves[number].value.shape != x.shape or gradient.dim() != x.dim():
        return None
    precision = Precision(
        torch.float64, 1e-6, rtol=1e-2, atol=1e-4
    )  # the raw gradient has the original dtype
    for dims in combinations(range(x.dim()), 2):
        transposed = gradient.detach().transpose(*dims)
        if transposed.shape == x.shape:
            values = exam.values_of(exam.in_double, exam.first_run)
            at = [leaf.value for leaf in exam.in_double.leaves]
            weights = [
                w.to(torch.complex128 if w.is_complex() else torch.float64)
                for w in exam.first_run.weights
            ]
            wide = transposed.to(at[number].dtype)
            if compare_elements(values, at, weights, number, wide, precision).is_right:
                return dims
    return None


def _decimal_digits(dtype: torch.dtype) -> float:
    return (
        float(-torch.log10(torch.tensor(torch.finfo(dtype).eps)))
        if dtype.is_floating_point or dtype.is_complex
        else 0.0
    )
