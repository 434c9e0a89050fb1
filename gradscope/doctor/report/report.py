"""What an examination returns: findings, the five steps, the closing checklist. Pure data."""

import dataclasses
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from gradscope.doctor.report.codes import CODES, SEVERITIES, rank_of

__all__ = ["REPORT_VERSION", "CheckItem", "Finding", "Report", "Step", "found", "order_findings"]

REPORT_VERSION: Final = 1
"""The version of `Report.to_dict`. It grows when a key changes its meaning or goes away."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing found. `where` is a file and line; "" where none is known."""

    code: str
    severity: str
    message: str
    cause: str
    fix: str
    where: str = ""
    evidence: tuple[str, ...] = ()
    seen_by: str = "running"
    """How it was found: "running" the function, "reading" its source, or "reading, confirmed by
    running"."""


@dataclass(frozen=True, slots=True)
class Step:
    """One of the five steps. `status` is "passed", "failed" or "skipped" (then `note` says why)."""

    number: int
    title: str
    status: str
    numbers: Mapping[str, object]
    time_s: float
    note: str = ""


@dataclass(frozen=True, slots=True)
class CheckItem:
    """One line of the closing checklist; `is_met` is None where it does not apply."""

    text: str
    is_met: bool | None
    codes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Report:
    """The report on one function. The first finding is the cause."""

    name: str
    findings: tuple[Finding, ...]
    steps: tuple[Step, ...]
    checklist: tuple[CheckItem, ...]
    notes: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether there is no error. Warnings and hints do not count."""
        return all(finding.severity != "error" for finding in self.findings)

    @property
    def codes(self) -> tuple[str, ...]:
        """The codes of the findings, in their order."""
        return tuple(finding.code for finding in self.findings)

    def __str__(self) -> str:
        from gradscope.doctor.report.text import render  # noqa: PLC0415 - text imports this module

        return render(self)

    def to_dict(self) -> dict[str, Any]:  # Any: what JSON may hold
        """Return plain dicts, lists, strings and finite numbers, with the version of this form.

        The README of this room says what each key holds. JSON has no NaN: such numbers become strings.
        """
        return {"version": REPORT_VERSION, "ok": self.ok, **_plain(dataclasses.asdict(self))}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Report":  # Any: what JSON may hold
        """Return the report that `to_dict` wrote, also after a way through JSON."""
        return cls(
            name=data["name"],
            findings=tuple(
                Finding(**{**finding, "evidence": tuple(finding["evidence"])})
                for finding in data["findings"]
            ),
            steps=tuple(Step(**step) for step in data["steps"]),
            checklist=tuple(
                CheckItem(**{**item, "codes": tuple(item["codes"])}) for item in data["checklist"]
            ),
            notes=tuple(data["notes"]),
        )


def _plain(value: Any) -> Any:  # Any: what a report holds, and the same as JSON has it
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def order_findings(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Return causes only, the root first; each carries what it explains as evidence."""
    once = list({(f.code, f.where, f.message): f for f in findings}.values())
    once.sort(key=lambda f: rank_of(f.code, "error")[1])
    causes: list[Finding] = []
    for finding in once:
        place = next((i for i, c in enumerate(causes) if _explains(c, finding)), None)
        if place is None:
            causes.append(finding)
        else:
            causes[place] = _with_evidence(causes[place], finding)
    return tuple(sorted(causes, key=lambda f: rank_of(f.code, f.severity)))


def _explains(cause: Finding, other: Finding) -> bool:
    is_repeated = cause.code == other.code
    return is_repeated or other.code in CODES[cause.code].explains


def _with_evidence(cause: Finding, other: Finding) -> Finding:
    graver = min(cause.severity, other.severity, key=SEVERITIES.index)
    place = f" ({other.where})" if other.where else ""
    line = f"{other.code}{place}: {other.message}"
    is_confirmed = cause.seen_by == "reading" and other.seen_by != "reading"
    return replace(
        cause,
        severity=graver,
        evidence=(*cause.evidence, line, *other.evidence),
        seen_by="reading, confirmed by running" if is_confirmed else cause.seen_by,
    )


def found(
    code: str,
    message: str,
    *,
    cause: str,
    fix: str,
    where: str = "",
    severity: str | None = None,
    evidence: Iterable[str] = (),
    seen_by: str = "running",
) -> Finding:
    """Return a finding with the usual severity of its code, unless another is given."""
    return Finding(
        code, severity or CODES[code].severity, message, cause, fix, where, tuple(evidence), seen_by
    )
