"""`Code`: one kind of finding, with its default severity and the findings that it explains.

A diagnosis declares its codes next to its function. `diagnoses/registry.py` lists them all, from causes to
consequences.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final

from gradscope.doctor.report.report import Finding

__all__ = ["LAYOUT", "SECOND_ORDER", "SEVERITIES", "WRONG_VALUE", "Code", "order_findings"]

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
    """One kind of finding.

    fault, found_by: the fault and how the doctor finds it, for the table of codes.
    explains: the codes, and groups of codes, whose findings are consequences of this one.
    group: the group that this code belongs to, if any.
    """

    name: str
    severity: str
    fault: str
    found_by: str
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


def order_findings(findings: Iterable[Finding], codes: Mapping[str, Code]) -> tuple[Finding, ...]:
    """Return the causes, ordered by severity and then by position in `codes`; consequences become their evidence.

    codes: all codes by name, from causes to consequences.
    """
    ranks = {name: rank for rank, name in enumerate(codes)}
    unique = {(f.code, f.where, f.message): f for f in findings}.values()
    causes: list[Finding] = []
    for finding in sorted(unique, key=lambda f: ranks[f.code]):
        code = codes[finding.code]
        explained_by = (i for i, c in enumerate(causes) if code.is_explained_by(codes[c.code]))
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
