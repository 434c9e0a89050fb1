"""`Report`: findings, the numbers of the five steps, and the checklist; as text and as JSON."""

import dataclasses
import math
import textwrap
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from gradscope.findings import VERSION, Checked, Finding, Verdict
from gradscope.findings.text import finding_text

__all__ = ["CheckItem", "ExaminationStep", "Report"]

_WIDTH: Final = 100
_MARKS: Final = {"passed": "ok", "failed": "FAILED", "skipped": "skipped"}


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
    """The report on one function.

    verdict: the findings, the most important cause first, and what they explain.
    """

    name: str
    verdict: Verdict
    steps: tuple[ExaminationStep, ...] = ()
    checklist: tuple[CheckItem, ...] = ()
    notes: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        name: str,
        findings: Iterable[Finding] = (),
        *,
        steps: tuple[ExaminationStep, ...] = (),
        checklist: tuple[CheckItem, ...] = (),
        notes: tuple[str, ...] = (),
    ) -> "Report":
        """Return the report with findings in any order."""
        return cls(name, Verdict.of(name, Checked(), findings), steps, checklist, notes)

    @property
    def findings(self) -> tuple[Finding, ...]:
        """The findings that no other finding explains, in order."""
        return self.verdict.findings

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

        `gradscope/findings/README.md` describes the keys. JSON has no NaN or infinity: such values become strings.
        """
        return {
            "version": VERSION,
            "ok": self.ok,
            "name": self.name,
            "findings": self.verdict.findings_as_json(),
            "steps": [_json_values(dataclasses.asdict(step)) for step in self.steps],
            "checklist": [_json_values(dataclasses.asdict(item)) for item in self.checklist],
            "notes": list(self.notes),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Report":  # Any: what JSON may hold
        """Return the report from the result of `to_dict`, also after a round trip through JSON."""
        return cls.of(
            data["name"],
            map(Finding.from_json, data["findings"]),
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
    for place, finding in enumerate(report.findings):
        lines += ["", finding_text(finding, consequences=report.verdict.consequences.get(place, ()))]
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
