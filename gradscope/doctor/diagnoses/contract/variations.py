"""Runs variations of the call: other memory layouts, fewer arguments or needed gradients, one row and no rows."""

import inspect
from collections.abc import Iterator
from dataclasses import replace
from itertools import combinations
from typing import Any, Final

import torch
from torch import Tensor
from torch.autograd import Function

from gradscope.doctor.diagnoses.contract.failures import failure_finding, named
from gradscope.doctor.diagnoses.gradients.wrong_gradient import plain_wrong_gradient
from gradscope.doctor.examination import Examination
from gradscope.doctor.numerics.agreement import agree
from gradscope.doctor.subject.batches import with_first_rows
from gradscope.doctor.subject.run import Failure, ForwardBackwardRun, run_subject, weights_like
from gradscope.doctor.subject.subject import Subject
from gradscope.findings import Finding, finding

__all__ = [
    "find_batch_failures",
    "find_layout_failures",
    "find_option_failures",
    "find_subset_failures",
]

_ROUNDINGS: Final = 1e3  # another layout may change the order of summation


def find_layout_failures(exam: Examination) -> Iterator[Finding]:
    """Run the Function with non-contiguous inputs and gradients, and compare with contiguous ones."""
    if not exam.are_gradients_reproducible or exam.random_parts:
        return  # random numbers are drawn in the order of the memory
    if any(call.dirty_inputs for call in exam.first_run.calls):
        return  # an input marked as dirty cannot be a view
    yield from _find_noncontiguous_failures(exam)
    yield from _find_expanded_failures(exam)


def _find_noncontiguous_failures(exam: Examination) -> Iterator[Finding]:
    variations = [
        ("gradients", run_subject(exam.subject, weigh=lambda y: _with_other_strides(weights_like(y))))
    ]
    if not exam.first_run.has_sparse_gradients:  # autograd cannot transpose a sparse gradient
        variations.insert(0, ("inputs", run_subject(exam.subject, prepare=_with_other_strides)))
    for what, outcome in variations:
        difference = _describe_difference(exam.first_run, outcome)
        if difference:
            yield finding(
                "fails-on-noncontiguous",
                f"non-contiguous {what}: {difference}",
                where=outcome.failure.where if outcome.failure else exam.location,
                evidence=named(difference),
            )


def _find_expanded_failures(exam: Examination) -> Iterator[Finding]:
    outcome = run_subject(exam.subject, weigh=_stride_zero)
    difference = _describe_difference(run_subject(exam.subject, weigh=torch.ones_like), outcome)
    if difference:
        yield finding(
            "fails-on-expanded-gradient",
            f"a gradient of stride 0, as from sum().backward(): {difference}",
            where=outcome.failure.where if outcome.failure else exam.location,
            evidence=named(difference),
        )


def _with_other_strides(tensor: Tensor) -> Tensor:
    """Return the same values transposed in memory; with a stride of 2 if there is one dim."""
    if tensor.dim() > 1:
        return tensor.transpose(0, -1).contiguous().transpose(0, -1)
    return torch.stack([tensor, tensor.detach()], dim=-1)[..., 0]


def _stride_zero(output: Tensor) -> Tensor:
    return torch.ones((), dtype=output.dtype, device=output.device).expand(output.shape)


def _describe_difference(expected: ForwardBackwardRun, got: ForwardBackwardRun) -> str:
    if got.failure is not None:
        return str(got.failure).splitlines()[0]
    if not agree(expected.outputs, got.outputs, roundings=_ROUNDINGS):
        return "the outputs differ from those of dense tensors"
    if not agree(expected.gradients, got.gradients, roundings=_ROUNDINGS):
        return "the gradients differ from those of dense tensors"
    return ""


_ALL_SUBSETS: Final = 5


def find_subset_failures(exam: Examination) -> Iterator[Finding]:
    """Disable the gradients of some inputs, and check that the remaining gradients do not change."""
    if not exam.are_gradients_reproducible:
        return
    for needed in _subsets_of_needed([leaf.is_needed for leaf in exam.subject.leaves]):
        names = ", ".join(leaf.name for leaf, n in zip(exam.subject.leaves, needed, strict=True) if n)
        outcome = run_subject(exam.subject, needed=needed)
        if outcome.failure is not None:
            yield failure_finding(
                outcome.failure, exam.location, on=f"only {names} requires a gradient"
            )
            continue
        for leaf, n, before, now in zip(
            exam.subject.leaves, needed, exam.first_run.gradients, outcome.gradients, strict=True
        ):
            if (
                n
                and before is not None
                and (now is None or not torch.allclose(before, now, rtol=1e-3, atol=1e-5))
            ):
                code = "missing-gradient" if now is None else "wrong-gradient"
                yield finding(
                    code,
                    f"only {names} requires a gradient: that of {leaf.name} is "
                    + ("None" if now is None else "different from that with all inputs"),
                    cause="the gradient of one input depends on whether another one needs a gradient",
                    fix="check each ctx.needs_input_grad[i] separately",
                    where=exam.location,
                )


def find_option_failures(exam: Examination) -> Iterator[Finding]:
    """Omit arguments that have a default: the last ones together, and each one alone."""
    for left_out, fewer in _calls_with_fewer_arguments(exam.in_double):
        if not any(leaf.is_needed for leaf in fewer.leaves):
            continue
        yield from _find_faults_of_variation(exam, fewer, run_subject(fewer), left_out)


def _find_faults_of_variation(
    exam: Examination, subject: Subject, outcome: ForwardBackwardRun, on: str
) -> Iterator[Finding]:
    """Find an exception, or a gradient that is wrong only in this variation of the call."""
    if outcome.failure is not None:
        yield failure_finding(outcome.failure, exam.location, on=on)
    elif outcome.is_connected and not exam.is_approximate and exam.is_gradient_right:
        for comparison in exam.compare(subject, outcome):
            if not comparison.is_right:
                yield plain_wrong_gradient(subject, comparison, exam.location, on=on)


def _calls_with_fewer_arguments(subject: Subject) -> Iterator[tuple[str, Subject]]:
    """Yield a description of the omitted arguments, and the subject without these."""
    given = _parameters_given(subject)
    optional = [i for i, p in enumerate(given) if p.default is not p.empty]
    for i in optional:
        if not _is_default(subject.arguments[i], given[i].default):
            yield f"{given[i].name} left out", _with_default(subject, i, given[i].default)
    trailing = [i for i in optional if all(j in optional for j in range(i, len(given)))]
    if subject.module is None:  # the parameters of a module follow its inputs
        for i in reversed(trailing):
            names = ", ".join(p.name for p in given[i:])
            yield f"{names} not passed", _without_arguments_from(subject, i)


def _subsets_of_needed(needed: list[bool]) -> list[list[bool]]:
    """Return all proper subsets for up to five inputs; for more inputs, each input alone and all inputs but one."""
    on = [i for i, n in enumerate(needed) if n]
    sizes = range(1, len(on)) if len(on) <= _ALL_SUBSETS else (1, len(on) - 1)
    return [
        [i in chosen for i in range(len(needed))] for size in sizes for chosen in combinations(on, size)
    ]


def _parameters_given(subject: Subject) -> list[inspect.Parameter]:
    """Return the parameters of the signature for which arguments were passed, in order."""
    owner = getattr(subject.call, "__self__", None)
    described: Any = (
        subject.module.forward if subject.module is not None else subject.call
    )  # Any: returned unchanged
    skipped = 0
    if isinstance(owner, type) and issubclass(owner, Function):
        described, skipped = owner.forward, int(owner.setup_context is Function.setup_context)
    try:
        parameters = list(inspect.signature(described).parameters.values())[skipped:]
    except (TypeError, ValueError):
        return []
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    return positional[: subject.input_count]


def _is_default(argument: object, default: object) -> bool:
    is_plain = isinstance(argument, bool | int | float | str | tuple)
    return argument is default or (is_plain and argument == default)


def _with_default(subject: Subject, position: int, default: object) -> Subject:
    arguments = tuple(default if i == position else a for i, a in enumerate(subject.arguments))
    leaves = tuple(leaf for leaf in subject.leaves if leaf.position != position)
    return replace(subject, arguments=arguments, leaves=leaves)


def _without_arguments_from(subject: Subject, position: int) -> Subject:
    leaves = tuple(leaf for leaf in subject.leaves if leaf.position < position)
    return replace(subject, arguments=subject.arguments[:position], leaves=leaves)


def find_batch_failures(exam: Examination) -> Iterator[Finding]:
    """Run on one row of the batch and on no rows, if there is a batch dim."""
    one, none = with_first_rows(exam.in_double, 1), with_first_rows(exam.in_double, 0)
    if one is None or none is None:
        exam.notes.append("no batch dim was found: a batch of 1 and an empty batch were not tried")
        return
    outcome = run_subject(one)
    yield from _find_faults_of_variation(exam, one, outcome, "a batch of 1")
    expected = [(1, *y.shape[1:]) for y in exam.double_run.outputs]
    if outcome.failure is None and [y.shape for y in outcome.outputs] != expected:
        yield finding(
            "fails-on-empty",
            f"a batch of 1: forward returns shapes {[tuple(y.shape) for y in outcome.outputs]}, not {expected}",
            cause="forward drops the batch dim if the batch has one row: squeeze() without a dim does so",
            fix="give squeeze() a dim, such as squeeze(-1)",
            where=exam.location,
        )
    empty = run_subject(none)
    if empty.failure is not None and not _fails_in_torch_too(empty.failure):
        yield finding(
            "fails-on-empty",
            f"an empty batch: {str(empty.failure).splitlines()[0]}",
            where=empty.failure.where or exam.location,
            evidence=named(empty.failure.text),
        )


def _fails_in_torch_too(failure: Failure) -> bool:
    """Return whether forward calls a PyTorch operation that does not accept an empty batch, such as an FFT.

    A shape with -1 that fails is a fault of the function itself.
    """
    is_from_torch = failure.phase == "forward" and failure.text.startswith("RuntimeError")
    return is_from_torch and "reshape tensor of 0 elements" not in failure.text
