"""The closing checklist: each line is met, not met, or does not apply, by the codes that were found."""

from collections.abc import Sequence
from typing import Final

from gradscope.doctor.examination import Examination
from gradscope.doctor.report.report import CheckItem, Finding

__all__ = ["close"]

_WRONG: Final = (
    "wrong-gradient",
    "wrong-gradient-sign",
    "wrong-gradient-scale",
    "missing-transpose",
    "missing-gradient",
)

_LINES: Final[tuple[tuple[str, tuple[str, ...], str], ...]] = (
    ("forward runs and is finite", ("forward-raises", "forward-nonfinite"), ""),
    (
        "tensors go through save_for_backward, and nothing else does",
        ("saved-on-ctx", "non-tensor-saved"),
        "functions",
    ),
    ("saved_tensors is read in backward only", ("saved-tensors-in-forward",), "functions"),
    ("inputs are not changed in place", ("forward-inplace-input",), "functions"),
    (
        "grad_output and saved tensors are not changed",
        ("grad-output-modified", "saved-tensor-modified"),
        "functions",
    ),
    ("one gradient is returned for each argument", ("wrong-gradient-count",), "functions"),
    (
        "each gradient has the shape, dtype and device of its argument",
        (
            "gradient-shape-mismatch",
            "broadcast-not-reduced",
            "gradient-dtype-mismatch",
            "gradient-device-mismatch",
        ),
        "functions",
    ),
    ("needs_input_grad is looked at", ("ignores-needs-input-grad",), "several inputs"),
    (".detach() and not .data", ("uses-data",), "source"),
    ("the gradient is the derivative", (*_WRONG, "gradient-by-design"), "numbers"),
    ("an approximate gradient was measured", ("approximate-poor",), "approximate"),
    (
        "the second derivative was looked at",
        ("graph-broken", "not-twice-differentiable", "wrong-second-gradient"),
        "second order",
    ),
    (
        "it runs on other layouts and on an empty batch",
        ("fails-on-noncontiguous", "fails-on-expanded-gradient", "fails-on-empty"),
        "numbers",
    ),
    ("it is deterministic", ("nondeterministic",), "repeatable"),
    ("PyTorch has no such operation already", ("reimplements-builtin",), "built-in"),
)


def close(exam: Examination, findings: Sequence[Finding]) -> tuple[CheckItem, ...]:
    """Return the checklist; a code that became evidence of another counts as well."""
    named = {finding.code for finding in findings}
    named |= {line.split(" ")[0].rstrip(":") for finding in findings for line in finding.evidence}
    items = []
    for text, codes, condition in _LINES:
        hit = tuple(code for code in codes if code in named)
        is_met = None if not hit and not _applies(exam, condition) else not hit
        items.append(CheckItem(text, is_met, hit))
    functions = len(exam.subject.functions)
    items.append(CheckItem("it is examined by itself", functions == 1 if functions else None, ()))
    return tuple(items)


def _applies(exam: Examination, condition: str) -> bool:
    has_calls, has_numbers = bool(exam.given.calls), not exam.blocked
    return {
        "": True,
        "repeatable": not exam.is_approximate or exam.are_gradients_repeatable,
        "functions": has_calls,
        "several inputs": has_calls and sum(leaf.is_needed for leaf in exam.subject.leaves) > 1,
        "source": bool(exam.facts),
        "numbers": has_numbers and not exam.is_approximate,
        "approximate": has_numbers and exam.is_approximate,
        "second order": "second order" in exam.done,
        "built-in": "built-in" in exam.done,
    }[condition]
