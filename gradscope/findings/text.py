"""A finding as text: the only place that decides how a finding reads, for the terminal, stderr and the screen."""

import math
import textwrap
from collections.abc import Iterable, Mapping

from gradscope.findings.codes import CODES
from gradscope.findings.finding import Finding

__all__ = [
    "SIGNS",
    "evidence_text",
    "finding_text",
    "first_line",
    "log_line",
    "page_command",
    "when_text",
]

SIGNS = {"error": "✖", "warning": "▲", "hint": "○"}
"""A sign for each severity, so that colour is not the only difference."""

_NAMED = 6
"""The number of layers that are named; the others are counted."""

_EXPLAINED = 3
"""The number of consequences that are written out; the others are counted."""


def first_line(finding: Finding) -> str:
    """Return severity, code and message in one line."""
    return f"{finding.severity} {finding.code}: {finding.message}"


def log_line(finding: Finding) -> str:
    """Return a finding in one line for stderr: severity, code, message, what to do, and the page."""
    page = page_command(finding)
    return f"gradscope: {first_line(finding)}. {finding.fix}" + (f" More: {page}" if page else "")


def finding_text(finding: Finding, *, width: int = 100, consequences: Iterable[Finding] = ()) -> str:
    """Return a finding in full: message, layers, steps, cause, what to do, evidence and page.

    width: the maximum length of a line. consequences: findings that this one explains; the first three are
        written out.
    """
    lines = _paragraph("", first_line(finding), width)
    if len(finding.layers) > 1:
        lines += _paragraph("  in:    ", _layers_text(finding.layers), width)
    lines += _paragraph("  line:  ", finding.where, width)
    lines += _paragraph("  when:  ", when_text(finding), width)
    if finding.action:
        lines += _paragraph("  rule:  ", f"has the action {finding.action}", width)
    lines += _paragraph("  why:   ", finding.cause, width)
    lines += _paragraph("  next:  ", finding.fix, width)
    if finding.evidence:
        evidence = f"{evidence_text(finding.evidence)} ({finding.confidence})"
        lines += _paragraph("  seen:  ", evidence, width)
    lines += _paragraph("  page:  ", page_command(finding), width)
    explained = list(consequences)
    for found in explained[:_EXPLAINED]:
        lines += _paragraph("  also:  ", f"{found.code}: {found.message}", width)
    if len(explained) > _EXPLAINED:
        codes = ", ".join(dict.fromkeys(found.code for found in explained[_EXPLAINED:]))
        more = f"{len(explained) - _EXPLAINED} more that it explains: {codes}"
        lines += _paragraph("  also:  ", more, width)
    return "\n".join(lines)


def page_command(finding: Finding) -> str:
    """Return the command that prints the page of the finding's code; empty for codes of the doctor."""
    return f"gradscope explain {finding.code}" if finding.code in CODES else ""


def when_text(finding: Finding) -> str:
    """Return since which step, and in which step it was found; empty if no steps were run."""
    if finding.found_step is None:
        return ""
    if finding.since_step is None or finding.since_step == finding.found_step:
        return f"found in step {finding.found_step:,}"
    return f"since step {finding.since_step:,}, found in step {finding.found_step:,}"


def evidence_text(evidence: Mapping[str, float | str]) -> str:
    """Return the numbers behind a finding. The unit is in the name: `update_time_s`."""
    if any(isinstance(value, str) and " " in value for value in evidence.values()):
        return "; ".join(f"{name.replace('_', ' ')}: {_number(v)}" for name, v in evidence.items())
    return ", ".join(f"{name.replace('_', ' ')} {_number(value)}" for name, value in evidence.items())


def _number(value: float | str) -> str:
    if isinstance(value, str):
        return value
    if math.isfinite(value) and value == int(value) and abs(value) < 1e6:
        return f"{int(value):,}"
    return f"{value:.3g}"


def _layers_text(layers: tuple[str, ...]) -> str:
    shown = ", ".join(name or "the model" for name in layers[:_NAMED])
    left = len(layers) - _NAMED
    return f"{shown} and {left} more" if left > 0 else shown


def _paragraph(head: str, text: str, width: int) -> list[str]:
    if not text:
        return []
    return textwrap.wrap(
        text, max(width, 20), initial_indent=head, subsequent_indent=" " * (len(head) or 2)
    )
