"""`Verdict`: the findings of a run in order, causes before their consequences, as text and as JSON."""

import textwrap
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

from gradscope.findings.codes import CODES
from gradscope.findings.finding import Finding

__all__ = ["VERSION", "Verdict"]

VERSION = 1
"""The version of the JSON document."""

_SEVERITIES = ("error", "warning", "hint")
_WIDTH = 100


@dataclass(frozen=True, slots=True)
class Verdict:
    """The findings of one run. `findings` are in order: errors first, then by when they began.

    run: the name of the run. checked: what was checked, as a clause ("in steps 0 to 40").
    consequences: for each finding, by its position, the findings that it explains; these are not in
        `findings`.
    """

    run: str
    checked: str
    findings: tuple[Finding, ...]
    consequences: dict[int, tuple[Finding, ...]] = field(default_factory=dict)

    @classmethod
    def of(cls, run: str, checked: str, findings: Iterable[Finding]) -> "Verdict":
        """Return the verdict over findings in any order."""
        ordered = sorted(findings, key=_order)
        explained = {
            position: next(
                (other for other, cause in enumerate(ordered) if _explains(cause, finding)), None
            )
            for position, finding in enumerate(ordered)
        }
        roots = [position for position, cause in explained.items() if cause is None]
        consequences = {
            place: tuple(
                ordered[position]
                for position in explained
                if _root(explained, position) == root and position != root
            )
            for place, root in enumerate(roots)
        }
        return cls(
            run,
            checked,
            tuple(ordered[root] for root in roots),
            {place: found for place, found in consequences.items() if found},
        )

    @property
    def has_problem(self) -> bool:
        """Whether there is an error or a warning."""
        return any(finding.severity != "hint" for finding in self.findings)

    @property
    def headline(self) -> str:
        """The verdict as one line."""
        if not self.has_problem:
            return f"healthy so far: nothing found {self.checked}"
        first, others = self.findings[0], len(self.findings) - 1
        more = f" (and {others} more)" if others else ""
        return f"{first.severity} {first.code}: {first.message}{more}"

    def lines(self) -> list[str]:
        """Return the verdict and all findings as text, one line of at most 100 columns each."""
        lines = textwrap.wrap(self.headline, _WIDTH)
        for place, finding in enumerate(self.findings):
            if place or not self.has_problem:  # the headline is the first finding if there is a problem
                text = f"{finding.severity} {finding.code}: {finding.message}"
                lines += ["", *_paragraph("", text)]
            lines += _paragraph("  why:  ", finding.cause)
            lines += _paragraph("  next: ", finding.fix)
            for found in self.consequences.get(place, ()):
                lines += _paragraph("  also: ", f"{found.code}: {found.message}")
        return lines

    def as_json(self) -> dict[str, Any]:  # Any: what JSON takes
        """Return the verdict as an object for JSON. `explained_by` is the position of the cause."""
        every = [{**asdict(finding), "explained_by": None} for finding in self.findings]
        for place, found in self.consequences.items():
            every += [{**asdict(finding), "explained_by": place} for finding in found]
        return {
            "version": VERSION,
            "run": self.run,
            "verdict": self.headline,
            "checked": self.checked,
            "findings": every,
        }


def _order(finding: Finding) -> tuple[int, int]:
    since = finding.found_step if finding.since_step is None else finding.since_step
    return _SEVERITIES.index(finding.severity), since


def _explains(cause: Finding, finding: Finding) -> bool:
    """Return whether a finding is a consequence of `cause`: the table says so, and it began no earlier."""
    code = CODES.get(cause.code)
    if code is None or finding.code not in code.explains:
        return False
    return _order(cause)[1] <= finding.found_step


def _root(explained: dict[int, int | None], position: int) -> int:
    """Return the position of the finding at the beginning of a chain of causes."""
    seen = {position}
    while (cause := explained[position]) is not None and cause not in seen:
        seen.add(cause)
        position = cause
    return position


def _paragraph(head: str, text: str) -> list[str]:
    return textwrap.wrap(text, _WIDTH, initial_indent=head, subsequent_indent=" " * len(head))
