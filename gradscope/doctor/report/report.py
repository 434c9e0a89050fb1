"""`Report`: findings, the numbers of the five steps, and the checklist; as text and as JSON."""

import dataclasses
import math
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

__all__ = ["REPORT_VERSION", "CheckItem", "ExaminationStep", "Finding", "Report"]

REPORT_VERSION: Final = 1
"""The version of `Report.to_dict`. It increases when a key changes its meaning or is removed."""
_WIDTH: Final = 100
_MARKS: Final = {"passed": "ok", "failed": "FAILED", "skipped": "skipped"}


@dataclass(frozen=True, slots=True)
class Finding:
    """A fault or a hint. `where` is a file and line; "" if unknown."""

    code: str
    severity: str
    message: str
    cause: str
    fix: str
    where: str = ""
    evidence: tuple[str, ...] = ()
    seen_by: str = "running"
    """How it was found: by "running" the function, by "reading" its source, or by "reading, confirmed by
    running".
    """


@dataclass(frozen=True, slots=True)
class ExaminationStep:
    """One of the five steps. `status` is "passed", "failed" or "skipped"; if "skipped", `note` is the reason."""

    number: int
    title: str
    status: str
    numbers: Mapping[str, object]
    time_s: float
    note: str = ""


@dataclass(frozen=True, slots=True)
class CheckItem:
    """One line of the checklist. `is_met` is None if it does not apply."""

    text: str
    is_met: bool | None
    codes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Report:
    """The report on one function. The first finding is the most important cause."""

    name: str
    findings: tuple[Finding, ...]
    steps: tuple[ExaminationStep, ...]
    checklist: tuple[CheckItem, ...]
    notes: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether there is no error. Warnings and hints do not count."""
        return all(finding.severity != "error" for finding in self.findings)

    @property
    def codes(self) -> tuple[str, ...]:
        """The codes of the findings, in order."""
        return tuple(finding.code for finding in self.findings)

    def __str__(self) -> str:
        """Return the report as text for a terminal: findings, steps with their numbers, checklist, notes."""
        return "\n".join(_lines_of(self))

    def to_dict(self) -> dict[str, Any]:  # Any: what JSON may hold
        """Return the report as dicts, lists, strings and finite numbers, with the format's version.

        The README of the doctor describes the keys. JSON has no NaN or infinity: such values become strings.
        """
        return {"version": REPORT_VERSION, "ok": self.ok, **_json_values(dataclasses.asdict(self))}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Report":  # Any: what JSON may hold
        """Return the report from the result of `to_dict`, also after a round trip through JSON."""
        return cls(
            name=data["name"],
            findings=tuple(
                Finding(**{**finding, "evidence": tuple(finding["evidence"])})
                for finding in data["findings"]
            ),
            steps=tuple(ExaminationStep(**step) for step in data["steps"]),
            checklist=tuple(
                CheckItem(**{**item, "codes": tuple(item["codes"])}) for item in data["checklist"]
            ),
            notes=tuple(data["notes"]),
        )


def _json_values(value: Any) -> Any:  # Any: values of a report, and of JSON
    if isinstance(value, Mapping):
        return {key: _json_values(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_json_values(each) for each in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _lines_of(report: Report) -> list[str]:
    lines = [_verdict(report)]
    for number, finding in enumerate(report.findings, 1):
        lines += ["", *_lines_of_finding(number, finding)]
    lines += ["", "Steps"] if report.steps else []
    for step in report.steps:
        lines += _lines_of_step(step)
    lines += ["", "Checklist"] if report.checklist else []
    lines += [
        f"  [{_checkbox(i.is_met)}] {i.text}" + (f" ({', '.join(i.codes)})" if i.codes else "")
        for i in report.checklist
    ]
    if report.notes:
        lines += [
            "",
            "Notes",
            *(line for note in report.notes for line in _wrap_lines(note, "  - ", "    ")),
        ]
    return lines


def _verdict(report: Report) -> str:
    if not report.findings:
        return f"{report.name}: nothing found"
    first = report.findings[0]
    return f"{report.name}: {first.severity}: {first.code}" + (
        f" (and {len(report.findings) - 1} more)" if len(report.findings) > 1 else ""
    )


def _lines_of_finding(number: int, finding: Finding) -> list[str]:
    lines = _wrap_lines(f"{number}. {finding.severity} {finding.code}: {finding.message}", "", "   ")
    lines += _wrap_lines(f"cause: {finding.cause}", "   ", "          ")
    lines += _wrap_lines(f"fix:   {finding.fix}", "   ", "          ")
    if finding.where:
        lines.append(f"   where: {finding.where} (seen by {finding.seen_by})")
    for evidence in finding.evidence:
        lines += _wrap_lines(evidence, "   - ", "     ")
    return lines


def _lines_of_step(step: ExaminationStep) -> list[str]:
    head = f"  {step.number}. {step.title}: {_MARKS[step.status]} in {step.time_s * 1e3:.1f} ms"
    lines = [head + (f" ({step.note})" if step.note else "")]
    for name, value in step.numbers.items():
        lines += _wrap_lines(f"{name}: {_format_value(value)}", "     ", "       ")
    return lines


def _format_value(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list):
        return "[" + ", ".join(_format_value(v) for v in value) + "]"
    return str(value)


def _checkbox(is_met: bool | None) -> str:
    return {True: "x", False: "!", None: "-"}[is_met]


def _wrap_lines(text: str, first: str, rest: str) -> list[str]:
    return textwrap.wrap(
        text, _WIDTH, initial_indent=first, subsequent_indent=rest, break_on_hyphens=False
    )
