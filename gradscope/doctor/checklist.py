"""The checklist at the end of a report: each line passes, fails or does not apply."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from gradscope.doctor.examination import Examination
from gradscope.doctor.report import codes
from gradscope.doctor.report.codes import Code
from gradscope.doctor.report.report import CheckItem, Finding

__all__ = ["make_checklist"]


@dataclass(frozen=True, slots=True)
class _ChecklistLine:
    """One line. It fails if one of its codes was found; otherwise it passes if it applies."""

    text: str
    codes: tuple[Code, ...]
    applies: Callable[[Examination], bool]


def make_checklist(exam: Examination, findings: Sequence[Finding]) -> tuple[CheckItem, ...]:
    """Return the checklist. A code that is only evidence of another finding counts as found."""
    found = {finding.code for finding in findings}
    found |= {line.split(" ")[0].rstrip(":") for finding in findings for line in finding.evidence}
    items = []
    for line in _LINES:
        hits = tuple(code.name for code in line.codes if code.name in found)
        is_met = not hits if hits or line.applies(exam) else None
        items.append(CheckItem(line.text, is_met, hits))
    functions = len(exam.subject.functions)
    items.append(
        CheckItem("one Function was examined alone", functions == 1 if functions else None, ())
    )
    return tuple(items)


def _always(exam: Examination) -> bool:  # noqa: ARG001 - a condition takes the examination
    """Apply to every function."""
    return True


def _if_function_ran(exam: Examination) -> bool:
    """Apply if an autograd Function ran, so that the calls of its methods were recorded."""
    return bool(exam.first_run.calls)


def _if_several_inputs_need_gradients(exam: Examination) -> bool:
    """Apply if a Function ran and more than one input needs a gradient."""
    return _if_function_ran(exam) and sum(leaf.is_needed for leaf in exam.subject.leaves) > 1


def _if_source_was_read(exam: Examination) -> bool:
    """Apply if the source of a Function could be read."""
    return bool(exam.facts)


def _if_numbers_were_compared(exam: Examination) -> bool:
    """Apply if the numerical steps ran and the gradient is meant to be exact."""
    return not exam.skip_reason and not exam.is_approximate


def _if_approximate(exam: Examination) -> bool:
    """Apply if the numerical steps ran and the gradient is declared as approximate."""
    return not exam.skip_reason and exam.is_approximate


def _if_reproducibility_was_tested(exam: Examination) -> bool:
    """Apply unless the gradient is a random approximation."""
    return not exam.is_approximate or not exam.random_parts


def _if_second_order_was_examined(exam: Examination) -> bool:
    """Apply if no earlier fault prevented the second derivative from being examined."""
    return "second order" in exam.covered


def _if_compared_with_builtins(exam: Examination) -> bool:
    """Apply if no earlier fault prevented the comparison with PyTorch's operations."""
    return "built-in" in exam.covered


_LINES: Final = (
    _ChecklistLine(
        "forward runs and is finite", (codes.FORWARD_RAISES, codes.FORWARD_NONFINITE), _always
    ),
    _ChecklistLine(
        "save_for_backward saves all tensors, and only tensors",
        (codes.SAVED_ON_CTX, codes.NON_TENSOR_SAVED),
        _if_function_ran,
    ),
    _ChecklistLine(
        "saved_tensors is read only in backward", (codes.SAVED_TENSORS_IN_FORWARD,), _if_function_ran
    ),
    _ChecklistLine("inputs are not changed in place", (codes.FORWARD_INPLACE_INPUT,), _if_function_ran),
    _ChecklistLine(
        "grad_output and saved tensors are not changed",
        (codes.GRAD_OUTPUT_MODIFIED, codes.SAVED_TENSOR_MODIFIED),
        _if_function_ran,
    ),
    _ChecklistLine(
        "one gradient is returned for each argument", (codes.WRONG_GRADIENT_COUNT,), _if_function_ran
    ),
    _ChecklistLine(
        "each gradient has the shape, dtype and device of its argument",
        (
            codes.GRADIENT_SHAPE_MISMATCH,
            codes.BROADCAST_NOT_REDUCED,
            codes.GRADIENT_DTYPE_MISMATCH,
            codes.GRADIENT_DEVICE_MISMATCH,
        ),
        _if_function_ran,
    ),
    _ChecklistLine(
        "backward checks needs_input_grad",
        (codes.IGNORES_NEEDS_INPUT_GRAD,),
        _if_several_inputs_need_gradients,
    ),
    _ChecklistLine(".detach() is used and not .data", (codes.USES_DATA,), _if_source_was_read),
    _ChecklistLine(
        "the gradient is the derivative",
        (
            codes.WRONG_GRADIENT,
            codes.WRONG_GRADIENT_SIGN,
            codes.WRONG_GRADIENT_SCALE,
            codes.MISSING_TRANSPOSE,
            codes.MISSING_GRADIENT,
            codes.GRADIENT_BY_DESIGN,
        ),
        _if_numbers_were_compared,
    ),
    _ChecklistLine("an approximate gradient was measured", (codes.APPROXIMATE_POOR,), _if_approximate),
    _ChecklistLine(
        "the second derivative is right",
        (
            codes.GRAPH_BROKEN,
            codes.NOT_TWICE_DIFFERENTIABLE,
            codes.WRONG_SECOND_GRADIENT,
        ),
        _if_second_order_was_examined,
    ),
    _ChecklistLine(
        "it runs on other layouts and on an empty batch",
        (codes.FAILS_ON_NONCONTIGUOUS, codes.FAILS_ON_EXPANDED_GRADIENT, codes.FAILS_ON_EMPTY),
        _if_numbers_were_compared,
    ),
    _ChecklistLine("it is deterministic", (codes.NONDETERMINISTIC,), _if_reproducibility_was_tested),
    _ChecklistLine(
        "PyTorch has no such operation already",
        (codes.REIMPLEMENTS_BUILTIN,),
        _if_compared_with_builtins,
    ),
)
