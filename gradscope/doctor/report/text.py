"""A report as a person reads it in a terminal: plain text, no colour."""

import textwrap
from typing import Final

from gradscope.doctor.report.report import Finding, Report, Step

__all__ = ["render"]

_WIDTH: Final = 100
_MARKS: Final = {"passed": "ok", "failed": "FAILED", "skipped": "skipped"}


def render(report: Report) -> str:
    """Return the report: verdict, findings, steps with their numbers, checklist, notes."""
    lines = [_verdict(report)]
    for number, finding in enumerate(report.findings, 1):
        lines += ["", *_finding(number, finding)]
    lines += ["", "Steps"] if report.steps else []
    for step in report.steps:
        lines += _step(step)
    lines += ["", "Checklist"] if report.checklist else []
    lines += [
        f"  [{_mark(i.is_met)}] {i.text}" + (f" ({', '.join(i.codes)})" if i.codes else "")
        for i in report.checklist
    ]
    if report.notes:
        lines += [
            "",
            "Notes",
            *(line for note in report.notes for line in _wrapped(note, "  - ", "    ")),
        ]
    return "\n".join(lines)


def _verdict(report: Report) -> str:
    if not report.findings:
        return f"{report.name}: nothing found"
    first = report.findings[0]
    return f"{report.name}: {first.severity}: {first.code}" + (
        f" (and {len(report.findings) - 1} more)" if len(report.findings) > 1 else ""
    )


def _finding(number: int, finding: Finding) -> list[str]:
    lines = _wrapped(f"{number}. {finding.severity} {finding.code}: {finding.message}", "", "   ")
    lines += _wrapped(f"cause: {finding.cause}", "   ", "          ")
    lines += _wrapped(f"fix:   {finding.fix}", "   ", "          ")
    if finding.where:
        lines.append(f"   where: {finding.where} (seen by {finding.seen_by})")
    for evidence in finding.evidence:
        lines += _wrapped(evidence, "   - ", "     ")
    return lines


def _step(step: Step) -> list[str]:
    head = f"  {step.number}. {step.title}: {_MARKS[step.status]} in {step.time_s * 1e3:.1f} ms"
    lines = [head + (f" ({step.note})" if step.note else "")]
    for name, value in step.numbers.items():
        lines += _wrapped(f"{name}: {_number(value)}", "     ", "       ")
    return lines


def _number(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list):
        return "[" + ", ".join(_number(v) for v in value) + "]"
    return str(value)


def _mark(is_met: bool | None) -> str:
    return {True: "x", False: "!", None: "-"}[is_met]


def _wrapped(text: str, first: str, rest: str) -> list[str]:
    return textwrap.wrap(
        text, _WIDTH, initial_indent=first, subsequent_indent=rest, break_on_hyphens=False
    )
