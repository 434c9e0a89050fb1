"""`Verdict`: the findings of a run in order, causes before their consequences, as text and as JSON."""

import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from gradscope.findings.checked import Checked
from gradscope.findings.codes import CODES
from gradscope.findings.doctor_codes import DOCTOR_CODES
from gradscope.findings.finding import Finding
from gradscope.findings.text import finding_text, first_line, page_command

__all__ = ["VERSION", "Verdict", "merge_repeated"]

VERSION = 1
"""The version of the JSON document."""

_SEVERITIES = ("error", "warning", "hint")
_CODES = CODES | DOCTOR_CODES
_RANKS = {code: rank for rank, code in enumerate(_CODES)}


@dataclass(frozen=True, slots=True)
class Verdict:
    """The findings of one run. `findings` are in order: errors first, then by when they began.

    run: the name of the run. checked: in which steps was checked, and what was not.
    consequences: for each finding, by its position, the findings that it explains; these are not in
        `findings`.
    """

    run: str
    checked: Checked
    findings: tuple[Finding, ...]
    consequences: dict[int, tuple[Finding, ...]] = field(default_factory=dict)

    @classmethod
    def of(cls, run: str, checked: Checked, findings: Iterable[Finding]) -> "Verdict":
        """Return the verdict over findings in any order. A cause is as severe as its gravest consequence."""
        unique: dict[object, Finding] = {}
        for finding in findings:
            unique.setdefault((finding.code, finding.layers, finding.where, finding.message), finding)
        ordered = sorted(merge_repeated(unique.values()), key=_order)
        causes = [_cause(ordered, position) for position in range(len(ordered))]
        consequences: dict[int, list[Finding]] = {}
        for position, finding in enumerate(ordered):
            consequences.setdefault(_root(causes, position), []).append(finding)
        groups = [
            (_with_severity(ordered[root], found), tuple(f for f in found if f is not ordered[root]))
            for root, found in consequences.items()
        ]
        groups.sort(key=lambda group: _order(group[0]))
        return cls(
            run,
            checked,
            tuple(root for root, _ in groups),
            {place: found for place, (_, found) in enumerate(groups) if found},
        )

    @property
    def has_problem(self) -> bool:
        """Whether there is an error or a warning."""
        return any(finding.severity != "hint" for finding in self.findings)

    @property
    def headline(self) -> str:
        """The verdict as one line."""
        if not self.has_problem:
            return self._healthy
        first, others = self.findings[0], len(self.findings) - 1
        more = f" (and {others} more)" if others else ""
        return f"{first_line(first)}{more}"

    @property
    def _healthy(self) -> str:
        if not self.checked.steps:
            return "no verdict yet: no step has ended"
        hints = len(self.findings)
        found = "nothing found"
        if hints:
            found = "no more than 1 hint" if hints == 1 else f"no more than {hints} hints"
        missing = ", ".join(each.what for each in self.checked.not_checked)
        return f"healthy so far: {found} {self.checked.text}" + (
            f"; not checked: {missing}" if missing else ""
        )

    def every(self) -> tuple[Finding, ...]:
        """Return all findings: each cause, and after it what it explains."""
        return tuple(
            finding
            for place, cause in enumerate(self.findings)
            for finding in (cause, *self.consequences.get(place, ()))
        )

    def lines(self, width: int = 100) -> list[str]:
        """Return the verdict and all findings as text, in lines of at most `width` columns."""
        lines = [] if self.has_problem else textwrap.wrap(self.headline, width)
        for place, finding in enumerate(self.findings):
            if lines:
                lines.append("")
            text = finding_text(finding, width=width, consequences=self.consequences.get(place, ()))
            lines += text.splitlines()
        if self.checked.not_checked:
            lines += ["", "Not checked"]
        for gap in self.checked.not_checked:
            lines += textwrap.wrap(
                gap.text, width, initial_indent="  ", subsequent_indent="    ", break_on_hyphens=False
            )
        return lines

    def as_json(self) -> dict[str, Any]:  # Any: what JSON takes
        """Return the verdict as an object for JSON."""
        return {
            "version": VERSION,
            "run": self.run,
            "verdict": self.headline,
            "checked": asdict(self.checked) | {"text": self.checked.text},
            "findings": self.findings_as_json(),
        }

    def findings_as_json(self) -> list[dict[str, Any]]:  # Any: what JSON takes
        """Return all findings for JSON. `explained_by` is the position of the cause; None if there is none."""
        every = [_as_json(finding, None) for finding in self.findings]
        for place, found in self.consequences.items():
            every += [_as_json(finding, place) for finding in found]
        return every


def _as_json(finding: Finding, explained_by: int | None) -> dict[str, Any]:  # Any: what JSON takes
    return finding.as_json() | {"explained_by": explained_by, "page": page_command(finding)}


def merge_repeated(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Return one finding for each code and layers: the first one, with how often it was found."""
    first: dict[tuple[str, tuple[str, ...], str], Finding] = {}
    repeated: dict[tuple[str, tuple[str, ...], str], list[Finding]] = {}
    for finding in findings:
        key = (
            finding.code,
            finding.layers,
            finding.where if finding.found_step is not None else finding.message,
        )
        first.setdefault(key, finding)
        repeated.setdefault(key, []).append(finding)
    return tuple(
        finding if len(repeated[key]) == 1 else _counted(finding, repeated[key])
        for key, finding in first.items()
    )


def _counted(finding: Finding, every: Sequence[Finding]) -> Finding:
    count, last = len(every), every[-1].found_step
    return replace(
        finding,
        message=f"{finding.message} ({count} times, the last in step {last})",
        evidence={**finding.evidence, "times": count},
    )


def _order(finding: Finding) -> tuple[int, int, int]:
    return _SEVERITIES.index(finding.severity), _since(finding), _rank(finding)


def _rank(finding: Finding) -> int:
    """Return the position of the code in the tables. A code of a later version has none and comes last."""
    return _RANKS.get(finding.code, len(_RANKS))


def _since(finding: Finding) -> int:
    since = finding.found_step if finding.since_step is None else finding.since_step
    return since or 0


def _cause(ordered: Sequence[Finding], position: int) -> int | None:
    """Return the position of the first finding in the table of codes that explains the one at `position`."""
    causes = [
        other
        for other, cause in enumerate(ordered)
        if other != position and _explains(cause, ordered[position])
        if cause.code != ordered[position].code or other < position
    ]
    return min(causes, key=lambda other: _rank(ordered[other]), default=None)


def _explains(cause: Finding, finding: Finding) -> bool:
    """Return whether a finding is a consequence of `cause`: the table says so, and it began no earlier."""
    is_later = finding.found_step is None or _since(cause) <= finding.found_step
    return is_later and cause.code in _CODES and finding.code in _CODES[cause.code].explains


def _root(causes: Sequence[int | None], position: int) -> int:
    """Return the position of the finding at the beginning of a chain of causes."""
    seen = {position}
    while (cause := causes[position]) is not None and cause not in seen:
        seen.add(cause)
        position = cause
    return position


def _with_severity(cause: Finding, consequences: Iterable[Finding]) -> Finding:
    gravest = min((finding.severity for finding in consequences), key=_SEVERITIES.index)
    return replace(cause, severity=gravest)
