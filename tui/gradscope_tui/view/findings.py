"""The Findings tab as rows and text: findings, other events, what was not checked; and the line with the verdict."""

import textwrap
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace

from gradscope.findings import Finding, Severity, Verdict
from gradscope.findings.text import SIGNS, evidence_text, finding_text, when_text
from gradscope.names import counted
from gradscope_tui.store.journal import Entry
from gradscope_tui.view.cell import Cell, Line, Role, fit, printable
from gradscope_tui.view.columns import TextColumn, in_columns

__all__ = [
    "ListedRow",
    "evidence_lines",
    "findings_text",
    "list_findings",
    "verdict_cells",
    "verdict_line",
]

_COLUMNS = (
    TextColumn("severity", 9, 6),
    TextColumn("finding", 14, 5),
    TextColumn("layers", 8, 3, keep_end=True),
    TextColumn("since", 0, 2),
    TextColumn("found", 0, 4),
    TextColumn("message", 24, 1),
)
_ROLES: dict[str, Role] = {"error": "above3", "warning": "warning", "hint": "dim", "info": "normal"}
_HEALTHY = "✔"
_KEYS = ((100, " {} opens it · {} its layer "), (40, " {} {} "))
"""The keys that open the finding and its layer, from which width of the line on."""

_PADDING = 2
"""Columns next to the text below the list."""


@dataclass(frozen=True, slots=True)
class ListedRow:
    """One row of the tab. `text` is the whole text, `layer` the layer to show in detail; "" if there is none.

    key: equal for the same row of a later list. finding: that of the row; None for other rows. cause: the key of
    the finding that has consequences or others like it, for itself and for each of them. is_wide: one text over
    all columns.
    A title has an empty key and cannot be chosen.
    """

    line: Line
    key: str = ""
    text: str = ""
    layer: str = ""
    finding: Finding | None = None
    cause: str = ""
    is_wide: bool = False


def list_findings(
    verdict: Verdict, events: Iterable[Entry], unfolded: Collection[str], width: int
) -> tuple[list[ListedRow], Line]:
    """Return the rows in the order of the verdict, and the line of titles.

    unfolded: the keys of the findings whose consequences have rows of their own, below them.
    """
    text_width = width - _PADDING
    rows: list[ListedRow] = []
    for first, same, found in _grouped(verdict):
        folded = (*same, *found)
        cause = _key(first) if folded else ""
        is_open = cause in unfolded
        mark = f" {'▾' if is_open else '▸'} {len(folded)}" if folded else ""
        row = _finding_row(first, text_width, found, mark=mark, cause=cause)
        rows.append(row if is_open else _with_same(row, first, same, text_width))
        if is_open:
            rows += [_finding_row(each, text_width, indent="└ ", cause=cause) for each in folded]
    if not verdict.findings:
        text = _wrapped(verdict.headline, text_width)
        rows.append(ListedRow(verdict_line(verdict), "healthy", text, is_wide=True))
    entries = list(events)
    if entries:
        rows.append(_title("Events"))
        rows += [_event_row(entry, text_width) for entry in entries]
    gaps = [printable(gap.text) for gap in verdict.checked.not_checked]
    if gaps:
        rows.append(_title("Not checked"))
        rows += [
            ListedRow((Cell(f"· {gap}", "dim"),), gap, _wrapped(gap, text_width), is_wide=True)
            for gap in gaps
        ]
    lines, titles = in_columns(_COLUMNS, [row.line for row in rows if not row.is_wide], width)
    arranged = iter(lines)
    return [
        _fitted(row, width) if row.is_wide else replace(row, line=next(arranged)) for row in rows
    ], titles


def _grouped(
    verdict: Verdict,
) -> list[tuple[Finding, tuple[Finding, ...], tuple[Finding, ...]]]:
    """Return the first finding of each code and severity, the others like it, and the consequences of all of them.

    A fault of nineteen layers is one line and not nineteen.
    """
    groups: dict[tuple[str, str], list[int]] = {}
    for place, finding in enumerate(verdict.findings):
        groups.setdefault((finding.code, finding.severity), []).append(place)
    return [
        (
            verdict.findings[first],
            tuple(verdict.findings[place] for place in others),
            tuple(found for place in (first, *others) for found in verdict.consequences.get(place, ())),
        )
        for first, *others in groups.values()
    ]


def _with_same(row: ListedRow, first: Finding, same: Collection[Finding], width: int) -> ListedRow:
    """Return the row of a folded group, with the other layers in it."""
    layers = [layer for finding in same for layer in finding.layers]
    if not same or not layers:
        return row
    cells = list(row.line)
    cells[2] = Cell(_layers(replace(first, layers=(*first.layers, *layers))))
    also = printable(f"Also in {', '.join(layer or 'the model' for layer in layers)}.")
    return replace(row, line=tuple(cells), text=f"{row.text}\n{_wrapped(also, width)}")


def findings_text(verdict: Verdict, events: Iterable[Entry], width: int) -> str:
    """Return the whole tab as text: every finding in full, events, and what was not checked."""
    lines = verdict.lines(width)
    entries = list(events)
    if entries:
        lines += ["", "Events"]
    for entry in entries:
        text = " ".join(f"step {entry.step}: {entry.text}".split())
        lines += textwrap.wrap(text, width, initial_indent="  ", subsequent_indent="    ")
    return "\n".join(map(printable, lines)) + "\n"


def verdict_cells(verdict: Verdict, width: int, *, keys: tuple[str, str] = ("n", "f")) -> Line:
    """Return the verdict in exactly `width` cells: sign, word and colour give the severity.

    `keys` open the finding, and its layer.
    """
    if not verdict.has_problem:
        (line,) = verdict_line(verdict)
        return (Cell(fit(_cut(line.text, width), width), line.role),)
    (first, same, _), *others = _grouped(verdict)
    more = f" +{counted(len(same), 'layer')}" if any(each.layers for each in same) else ""
    more += f" (and {len(others)} more)" if others else ""
    hint = next((text.format(*keys) for least, text in _KEYS if width >= least), "")
    left = width - len(more) - len(hint)
    text = _cut(f" {SIGNS[first.severity]} {first.severity} {first.code}: {_named(first)}", left)
    role: Role = "bad" if first.severity == "error" else "warning"
    return (Cell(fit(text + more, width - len(hint)), role), *([Cell(hint, "key")] if hint else []))


def verdict_line(verdict: Verdict) -> Line:
    """Return the verdict in full, as one line."""
    if not verdict.has_problem:
        role: Role = "good" if verdict.checked.steps else "dim"
        return (
            Cell(f" {_HEALTHY if verdict.checked.steps else '·'} {printable(verdict.headline)}", role),
        )
    first = verdict.findings[0]
    role = "bad" if first.severity == "error" else "warning"
    return (Cell(f" {SIGNS[first.severity]} {printable(verdict.headline)}", role),)


def evidence_lines(finding: Finding, width: int) -> list[Line]:
    """Return a finding as two lines: its text, and the step at which it began with the measured numbers."""
    role: Role = "bad" if finding.severity == "error" else "warning"
    first = f"{SIGNS[finding.severity]} {finding.code}: {_without_layer(finding)}"
    parts = (when_text(finding), evidence_text(finding.evidence))
    second = printable("  " + "; ".join(part for part in parts if part))
    lines: list[Line] = [(Cell(_cut(printable(first), width), role),)]
    return [*lines, (Cell(_cut(second, width), "dim"),)] if second.strip() else lines


def _title(text: str) -> ListedRow:
    return ListedRow((Cell(text, "header"),), is_wide=True)


def _fitted(row: ListedRow, width: int) -> ListedRow:
    return replace(row, line=tuple(Cell(fit(cell.text, width - 1), cell.role) for cell in row.line))


def _finding_row(
    finding: Finding,
    width: int,
    consequences: Iterable[Finding] = (),
    *,
    mark: str = "",
    indent: str = "",
    cause: str = "",
) -> ListedRow:
    since = finding.found_step if finding.since_step is None else finding.since_step
    action = f"[{finding.action}] " if finding.action else ""
    role = _ROLES[finding.severity]
    line = (
        Cell(f"{indent}{SIGNS[finding.severity]} {finding.severity}{mark}", role),
        Cell(finding.code, role),
        Cell(_layers(finding)),
        Cell("" if since is None else f"{since:,}", "dim"),
        Cell("" if finding.found_step is None else f"{finding.found_step:,}", "dim"),
        Cell(action + _without_layer(finding)),
    )
    text = "\n".join(
        map(printable, finding_text(finding, width=width, consequences=consequences).splitlines())
    )
    return ListedRow(line, _key(finding), text, next(iter(finding.layers), ""), finding, cause)


def _event_row(entry: Entry, width: int) -> ListedRow:
    severity: Severity | str = entry.level
    layer = entry.alert.layer if entry.alert else ""
    action = entry.alert.action if entry.alert and entry.alert.action != "event" else ""
    taken = f"[{action}] " if action else ""
    line = (
        Cell(f"{SIGNS.get(severity, '·')} {severity}", _ROLES[severity]),
        Cell(entry.code),
        Cell(layer or "·"),
        Cell("", "dim"),
        Cell("" if entry.step is None else f"{entry.step:,}", "dim"),
        Cell(taken + " ".join(entry.text.split())),
    )
    text = "\n".join(_wrapped(printable(each), width) for each in (taken + entry.text).splitlines())
    return ListedRow(line, f"{entry.time_s} {entry.code} {entry.text}", text, layer)


def _key(finding: Finding) -> str:
    return f"{finding.code} {finding.layers} {finding.found_step}"


def _layers(finding: Finding) -> str:
    if not finding.layers:
        return "·"
    first, others = finding.layers[0] or "the model", len(finding.layers) - 1
    return f"{first} +{others}" if others else first


def _without_layer(finding: Finding) -> str:
    """Return the message without the name of the layer before it, which has a column of its own."""
    message = " ".join(finding.message.split())
    for layer in finding.layers[:1]:
        message = message.removeprefix(f"`{layer}`: ").removeprefix(f"{layer}: ")
    return message


def _named(finding: Finding) -> str:
    """Return the message, with the first layer before it if the message does not name it."""
    message = printable(" ".join(finding.message.split()))
    layer = next(iter(finding.layers), "")
    return message if not layer or layer in message else f"{printable(layer)}: {message}"


def _cut(text: str, width: int) -> str:
    """Return a text that fits the width, cut after a word."""
    if len(text) <= width:
        return text
    short = text[: max(1, width - 1)]
    if " " in short.strip():
        short = short.rpartition(" ")[0].rstrip(" ,;:(")
    return short + "…"


def _wrapped(text: str, width: int) -> str:
    return "\n".join(textwrap.wrap(text, max(20, width))) or text
