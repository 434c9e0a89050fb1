"""`Code`: one kind of finding, with its default severity and the findings that it explains.

The codes are declared from causes to consequences: a code precedes the codes that it explains. Among findings of one
severity, the report shows the finding with the earlier code first. Diagnoses write `codes.WRONG_GRADIENT`.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final

from gradscope.doctor.report.report import Finding

__all__ = ["CODES", "LAYOUT", "SECOND_ORDER", "SEVERITIES", "WRONG_VALUE", "Code", "order_findings"]

SEVERITIES: Final = ("error", "warning", "hint", "info")
"""From severe to harmless. error: gradients or values are wrong, or the function raises. warning: the function works
in this run, but fails or is slow in other cases. hint: worth knowing; a correct function may have it."""

WRONG_VALUE: Final = "wrong value"
"""Group of the codes for gradients that are not the derivative."""

SECOND_ORDER: Final = "second order"
"""Group of the codes about second derivatives."""

LAYOUT: Final = "layout"
"""Group of the codes about other memory layouts and empty batches."""


@dataclass(frozen=True, slots=True)
class Code:
    """One kind of finding. `diagnoses/README.md` describes each.

    explains: the codes, and groups of codes, whose findings are consequences of this one.
    group: the group that this code belongs to, if any.
    """

    name: str
    severity: str
    explains: tuple[str, ...] = ()
    group: str = ""

    def finding(
        self,
        message: str,
        *,
        cause: str,
        fix: str,
        where: str = "",
        severity: str | None = None,
        evidence: Iterable[str] = (),
        seen_by: str = "running",
    ) -> Finding:
        """Return a finding of this code, with the default severity unless another is given."""
        return Finding(
            self.name, severity or self.severity, message, cause, fix, where, tuple(evidence), seen_by
        )

    def is_explained_by(self, cause: "Code") -> bool:
        """Return whether a finding of this code is a consequence, or a repetition, of a finding of `cause`."""
        return self.name == cause.name or self.name in cause.explains or self.group in cause.explains


NON_TENSOR_SAVED: Final = Code("non-tensor-saved", "error", explains=("forward-raises",))
SAVED_TENSORS_IN_FORWARD: Final = Code(
    "saved-tensors-in-forward", "error", explains=("forward-raises", "forward-nonfinite")
)
FORWARD_INPLACE_INPUT: Final = Code(
    "forward-inplace-input",
    "error",
    explains=(
        "forward-raises",
        "backward-raises",
        "input-returned-as-is",
        "nondeterministic",
        WRONG_VALUE,
        SECOND_ORDER,
        LAYOUT,
    ),
)
GRAD_OUTPUT_MODIFIED: Final = Code(
    "grad-output-modified",
    "error",
    explains=("backward-raises", "nondeterministic", WRONG_VALUE, SECOND_ORDER, LAYOUT),
)
SAVED_TENSOR_MODIFIED: Final = Code(
    "saved-tensor-modified",
    "error",
    explains=("backward-raises", "nondeterministic", WRONG_VALUE, SECOND_ORDER, LAYOUT),
)
FORWARD_RAISES: Final = Code("forward-raises", "error")
FORWARD_NONFINITE: Final = Code("forward-nonfinite", "error", explains=("gradient-nonfinite",))
WRONG_GRADIENT_COUNT: Final = Code("wrong-gradient-count", "error", explains=("backward-raises",))
MISSING_TRANSPOSE: Final = Code(
    "missing-transpose",
    "error",
    explains=("backward-raises", "gradient-shape-mismatch", SECOND_ORDER, LAYOUT),
    group=WRONG_VALUE,
)
GRADIENT_SHAPE_MISMATCH: Final = Code("gradient-shape-mismatch", "error", explains=("backward-raises",))
GRADIENT_DEVICE_MISMATCH: Final = Code(
    "gradient-device-mismatch", "warning", explains=("backward-raises", WRONG_VALUE)
)
BACKWARD_RAISES: Final = Code("backward-raises", "error")
GRADIENT_NONFINITE: Final = Code(
    "gradient-nonfinite", "error", explains=("gradient-too-large", "gradient-too-small")
)
BROADCAST_NOT_REDUCED: Final = Code(
    "broadcast-not-reduced", "error", explains=(WRONG_VALUE, SECOND_ORDER)
)
GRADIENT_DTYPE_MISMATCH: Final = Code(
    "gradient-dtype-mismatch", "warning", explains=(WRONG_VALUE, SECOND_ORDER)
)
MISSING_GRADIENT: Final = Code("missing-gradient", "error", explains=(SECOND_ORDER, LAYOUT))
WRONG_GRADIENT_SIGN: Final = Code(
    "wrong-gradient-sign", "error", explains=(SECOND_ORDER,), group=WRONG_VALUE
)
WRONG_GRADIENT_SCALE: Final = Code(
    "wrong-gradient-scale", "error", explains=(SECOND_ORDER,), group=WRONG_VALUE
)
WRONG_GRADIENT: Final = Code("wrong-gradient", "error", explains=(SECOND_ORDER,), group=WRONG_VALUE)
APPROXIMATE_POOR: Final = Code("approximate-poor", "error")
USES_DATA: Final = Code("uses-data", "warning", explains=("graph-broken",))
SAVED_ON_CTX: Final = Code("saved-on-ctx", "warning", explains=("graph-broken",))
GRAPH_BROKEN: Final = Code("graph-broken", "warning", group=SECOND_ORDER)
WRONG_SECOND_GRADIENT: Final = Code("wrong-second-gradient", "error", group=SECOND_ORDER)
FAILS_ON_NONCONTIGUOUS: Final = Code("fails-on-noncontiguous", "error", group=LAYOUT)
FAILS_ON_EXPANDED_GRADIENT: Final = Code("fails-on-expanded-gradient", "error", group=LAYOUT)
NONDETERMINISTIC: Final = Code("nondeterministic", "warning")
NOT_TWICE_DIFFERENTIABLE: Final = Code("not-twice-differentiable", "warning", group=SECOND_ORDER)
FAILS_ON_EMPTY: Final = Code("fails-on-empty", "warning", group=LAYOUT)
BACKWARD_NEVER_CALLED: Final = Code("backward-never-called", "warning")
GRADIENT_TOO_LARGE: Final = Code("gradient-too-large", "warning")
GRADIENT_TOO_SMALL: Final = Code("gradient-too-small", "warning")
IGNORES_NEEDS_INPUT_GRAD: Final = Code("ignores-needs-input-grad", "hint")
APPROXIMATE_NOTICEABLE: Final = Code("approximate-noticeable", "hint")
GRADIENT_BY_DESIGN: Final = Code("gradient-by-design", "hint")
INPUT_RETURNED_AS_IS: Final = Code("input-returned-as-is", "hint")
REIMPLEMENTS_BUILTIN: Final = Code("reimplements-builtin", "hint")

CODES: Final[Mapping[str, Code]] = {
    value.name: value for value in tuple(globals().values()) if isinstance(value, Code)
}


def order_findings(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Return the causes, ordered by severity and then by position in `CODES`; consequences become their evidence."""
    ranks = {name: rank for rank, name in enumerate(CODES)}
    unique = {(f.code, f.where, f.message): f for f in findings}.values()
    causes: list[Finding] = []
    for finding in sorted(unique, key=lambda f: ranks[f.code]):
        code = CODES[finding.code]
        explained_by = (i for i, c in enumerate(causes) if code.is_explained_by(CODES[c.code]))
        index = next(explained_by, None)
        if index is None:
            causes.append(finding)
        else:
            causes[index] = _with_evidence(causes[index], finding)
    return tuple(sorted(causes, key=lambda f: (SEVERITIES.index(f.severity), ranks[f.code])))


def _with_evidence(cause: Finding, consequence: Finding) -> Finding:
    """Return the cause with the consequence as evidence, and the higher severity of the two."""
    place = f" ({consequence.where})" if consequence.where else ""
    line = f"{consequence.code}{place}: {consequence.message}"
    is_confirmed = cause.seen_by == "reading" and consequence.seen_by != "reading"
    return replace(
        cause,
        severity=min(cause.severity, consequence.severity, key=SEVERITIES.index),
        evidence=(*cause.evidence, line, *consequence.evidence),
        seen_by="reading, confirmed by running" if is_confirmed else cause.seen_by,
    )
