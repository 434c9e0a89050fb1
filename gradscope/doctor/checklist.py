"""The checklist at the end of a report: each line passes, fails or does not apply."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from gradscope.doctor.examination import Examination
from gradscope.doctor.report.report import CheckItem

__all__ = ["make_checklist"]


@dataclass(frozen=True, slots=True)
class _ChecklistLine:
    """One line. It fails if one of its codes was found; otherwise it passes if it applies."""

    text: str
    codes: tuple[str, ...]
    applies: Callable[[Examination], bool]


def make_checklist(exam: Examination) -> tuple[CheckItem, ...]:
    """Return the checklist. A code counts as found also if another finding explains it."""
    found = {finding.code for finding in exam.findings}
    items = []
    for line in _LINES:
        hits = tuple(code for code in line.codes if code in found)
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
    _ChecklistLine("forward runs and is finite", ("forward-raises", "forward-nonfinite"), _always),
    _ChecklistLine(
        "save_for_backward saves all tensors, and only tensors",
        ("saved-on-ctx", "non-tensor-saved"),
        _if_function_ran,
    ),
    _ChecklistLine(
        "saved_tensors is read only in backward", ("saved-tensors-in-forward",), _if_function_ran
    ),
    _ChecklistLine("inputs are not changed in place", ("forward-inplace-input",), _if_function_ran),
    _ChecklistLine(
        "grad_output and saved tensors are not changed",
        ("grad-output-modified", "saved-tensor-modified"),
        _if_function_ran,
    ),
    _ChecklistLine(
        "one gradient is returned for each argument", ("wrong-gradient-count",), _if_function_ran
    ),
    _ChecklistLine(
        "each gradient has the shape, dtype and device of its argument",
        (
            "gradient-shape-mismatch",
            "broadcast-not-reduced",
            "gradient-dtype-mismatch",
            "gradient-device-mismatch",
        ),
        _if_function_ran,
    ),
    _ChecklistLine(
        "backward checks needs_input_grad",
        ("ignores-needs-input-grad",),
        _if_several_inputs_need_gradients,
    ),
    _ChecklistLine(".detach() is used and not .data", ("uses-data",), _if_source_was_read),
    _ChecklistLine(
        "the gradient is the derivative",
        (
            "wrong-gradient",
            "wrong-gradient-sign",
            "wrong-gradient-scale",
            "missing-transpose",
            "missing-gradient",
            "gradient-by-design",
        ),
        _if_numbers_were_compared,
    ),
    _ChecklistLine("an approximate gradient was measured", ("approximate-poor",), _if_approximate),
    _ChecklistLine(
        "the second derivative is right",
        (
            "graph-broken",
            "not-twice-differentiable",
            "wrong-second-gradient",
        ),
        _if_second_order_was_examined,
    ),
    _ChecklistLine(
        "it runs on other layouts and on an empty batch",
        ("fails-on-noncontiguous", "fails-on-expanded-gradient", "fails-on-empty"),
        _if_numbers_were_compared,
    ),
    _ChecklistLine("it is deterministic", ("nondeterministic",), _if_reproducibility_was_tested),
    _ChecklistLine(
        "PyTorch has no such operation already",
        ("reimplements-builtin",),
        _if_compared_with_builtins,
    ),
)
