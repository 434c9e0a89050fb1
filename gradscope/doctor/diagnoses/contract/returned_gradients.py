"""Checks shape, dtype and device of the gradients that backward returns, before autograd converts them silently."""

from collections.abc import Iterator
from itertools import combinations

import torch
from torch import Tensor

from gradscope.doctor.diagnoses.gradients.repairs import exchanges, find_right_repair
from gradscope.doctor.diagnoses.gradients.transpose import missing_transpose
from gradscope.doctor.examination import Examination
from gradscope.doctor.numerics.finite_differences import compare_elements
from gradscope.doctor.numerics.precision import Precision
from gradscope.doctor.report import codes
from gradscope.doctor.report.report import Finding

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
        return codes.GRADIENT_SHAPE_MISMATCH.finding(
            f"backward returns {shapes}: it is right once {exchange}",
            cause="backward returns the gradients in another order than forward takes its arguments",
            fix=f"return the gradients in the order of the arguments (tried: right once {exchange})",
            where=exam.location,
        )
    if _is_expandable(x.shape, gradient.shape):
        summed = _dims_to_sum(x.shape, gradient.shape)
        return codes.BROADCAST_NOT_REDUCED.finding(
            f"backward returns {shapes}: the broadcast was not summed",
            cause="the argument was broadcast in forward; PyTorch sums such a gradient silently, so "
            "gradcheck passes, but torch.func or a compiled graph may fail",
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
            (f"expected {tuple(x.shape)}, got {tuple(gradient.shape)}",),
        )
    return codes.GRADIENT_SHAPE_MISMATCH.finding(
        f"backward returns {shapes}",
        cause="the gradient must have the shape of its argument; no broadcast explains this one",
        fix="return a gradient of the argument's shape: expand a scalar, expand reduced dims",
        where=exam.location,
        evidence=(f"expected {tuple(x.shape)}, got {tuple(gradient.shape)}",),
    )


def _exchange_that_cures(exam: Examination, position: int) -> str:
    leaves = enumerate(exam.subject.leaves)
    number = next((n for n, leaf in leaves if leaf.position == position), None)
    return "" if number is None else find_right_repair(exam, number, exchanges(exam, number))


def _dtype_and_device_findings(
    exam: Examination, name: str, x: Tensor, gradient: Tensor
) -> Iterator[Finding]:
    if gradient.dtype != x.dtype:
        yield codes.GRADIENT_DTYPE_MISMATCH.finding(
            f"backward returns {gradient.dtype} for {name}, which is {x.dtype}",
            cause="autograd casts it silently: a narrower dtype loses digits, a wider one costs memory",
            fix="return the gradient in the argument's dtype: grad.to(x.dtype)",
            where=_line_of_hard_coded(exam, "dtype"),
            evidence=(
                f"digits kept: {_decimal_digits(gradient.dtype):.1f} of {_decimal_digits(x.dtype):.1f}",
            ),
        )
    if gradient.device != x.device:
        yield codes.GRADIENT_DEVICE_MISMATCH.finding(
            f"backward returns a gradient on {gradient.device} for {name}, which is on {x.device}",
            cause="autograd moves a single number silently in each step, and raises for other tensors",
            fix="create tensors in backward on grad_output.device",
            where=_line_of_hard_coded(exam, "device"),
        )


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
