"""The checklist at the end of a report: each line passes, fails or does not apply."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from gradscope.doctor.examination import Examination
from gradscope.doctor.report.codes import Code
from gradscope.doctor.report.report import CheckItem, Finding

__all__ = [
    "ChecklistLine",
    "always",
    "if_approximate",
    "if_compared_with_builtins",
    "if_function_ran",
    "if_numbers_were_compared",
    "if_reproducibility_was_tested",
    "if_second_order_was_examined",
    "if_several_inputs_need_gradients",
    "if_source_was_read",
    "make_checklist",
]


@dataclass(frozen=True, slots=True)
class ChecklistLine:
    """One line. It fails if one of its codes was found; otherwise it passes if it applies."""

    text: str
    codes: tuple[Code, ...]
    applies: Callable[[Examination], bool]


def make_checklist(
    lines: Sequence[ChecklistLine], exam: Examination, findings: Sequence[Finding]
) -> tuple[CheckItem, ...]:
    """Return the checklist. A code that is only evidence of another finding counts as found."""
    found = {finding.code for finding in findings}
    found |= {line.split(" ")[0].rstrip(":") for finding in findings for line in finding.evidence}
    items = []
    for line in lines:
        hits = tuple(code.name for code in line.codes if code.name in found)
        is_met = not hits if hits or line.applies(exam) else None
        items.append(CheckItem(line.text, is_met, hits))
    functions = len(exam.subject.functions)
    items.append(
        CheckItem("one Function was examined alone", functions == 1 if functions else None, ())
    )
    return tuple(items)


def always(exam: Examination) -> bool:  # noqa: ARG001 - a condition takes the examination
    """Apply to every function."""
    return True


def if_function_ran(exam: Examination) -> bool:
    """Apply if an autograd Function ran, so that the calls of its methods were recorded."""
    return bool(exam.first_run.calls)


def if_several_inputs_need_gradients(exam: Examination) -> bool:
    """Apply if a Function ran and more than one input needs a gradient."""
    return if_function_ran(exam) and sum(leaf.is_needed for leaf in exam.subject.leaves) > 1


def if_source_was_read(exam: Examination) -> bool:
    """Apply if the source of a Function could be read."""
    return bool(exam.facts)


def if_numbers_were_compared(exam: Examination) -> bool:
    """Apply if the numerical steps ran and the gradient is meant to be exact."""
    return not exam.skip_reason and not exam.is_approximate


def if_approximate(exam: Examination) -> bool:
    """Apply if the numerical steps ran and the gradient is declared as approximate."""
    return not exam.skip_reason and exam.is_approximate


def if_reproducibility_was_tested(exam: Examination) -> bool:
    """Apply unless the gradient is a random approximation."""
    return not exam.is_approximate or not exam.random_parts


def if_second_order_was_examined(exam: Examination) -> bool:
    """Apply if no earlier fault prevented the second derivative from being examined."""
    return "second order" in exam.covered


def if_compared_with_builtins(exam: Examination) -> bool:
    """Apply if no earlier fault prevented the comparison with PyTorch's operations."""
    return "built-in" in exam.covered
