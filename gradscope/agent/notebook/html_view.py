"""The verdict of a run and its newest observed step as a static HTML table, without scripts."""

from collections.abc import Mapping
from html import escape
from typing import Final

from gradscope.columns import Stats, Table
from gradscope.findings import Verdict

__all__ = ["html_of"]

_COLUMNS: Final = (
    ("σ out", "out", "std"),  # noqa: RUF001 - as in the terminal
    ("‖∇out‖", "grad", "norm"),
    ("‖w‖", "param", "norm"),
    ("‖∇w‖", "param_grad", "norm"),
)
_COLORS: Final = {"error": "#b00020", "warning": "#8a5300", "hint": "#3367a6"}
"""Readable on white and, by their own background, in dark themes."""

_LAYERS_LIMIT: Final = 200
"""Rows of the table; a notebook with more of them becomes slow."""

_NUMBER: Final = "text-align:right;padding:2px 8px;font-variant-numeric:tabular-nums"
_NAME: Final = "text-align:left;padding:2px 8px;font-family:monospace"


def html_of(verdict: Verdict, step: int, table: Table | None) -> str:
    """Return the HTML. table: the newest observed step; None before the first one."""
    parts = [
        f"<div><b>{escape(verdict.run)}</b>, step {step}",
        f"<p style='margin:4px 0'>{escape(verdict.headline)}</p>",
    ]
    for finding in verdict.findings:
        color = _COLORS.get(finding.severity, _COLORS["hint"])
        label = f"background:{color};color:white;padding:0 6px;border-radius:3px"
        parts.append(
            f"<details style='margin:2px 0'><summary><span style='{label}'>{escape(finding.severity)}</span> "
            f"<b>{escape(finding.code)}</b> {escape(finding.message)}</summary>"
            f"<div style='margin-left:24px'>{escape(finding.cause)}<br>{escape(finding.fix)}</div></details>"
        )
    if table is None:
        parts.append("<p>No step has been observed yet.</p>")
    else:
        parts += _table_lines(table)
    return "\n".join([*parts, "</div>"])


def _table_lines(table: Table) -> list[str]:
    titles = ["layer", *(title for title, _, _ in _COLUMNS), "Δw/w"]
    styles = [_NAME, *[_NUMBER] * (len(titles) - 1)]
    head = "".join(
        f"<th style='{style}'>{title}</th>" for title, style in zip(titles, styles, strict=True)
    )
    caption = f"observed in step {table.step}; · is not measured"
    lines = [
        "<table style='border-collapse:collapse'>",
        f"<caption style='text-align:left'>{caption}</caption><thead><tr>{head}</tr></thead><tbody>",
    ]
    for name in list(table)[:_LAYERS_LIMIT]:
        kinds = table[name]
        values = [_number(kinds, kind, statistic) for _, kind, statistic in _COLUMNS]
        cells = [name or "(model)", *values, _update_ratio(kinds)]
        row = "".join(
            f"<td style='{style}'>{escape(cell)}</td>"
            for cell, style in zip(cells, styles, strict=True)
        )
        lines.append(f"<tr>{row}</tr>")
    lines.append("</tbody></table>")
    if len(table) > _LAYERS_LIMIT:
        lines.append(f"<p>… and {len(table) - _LAYERS_LIMIT} more layers</p>")
    return lines


def _number(kinds: Mapping[str, Stats], kind: str, statistic: str) -> str:
    return f"{getattr(kinds[kind], statistic):.3g}" if kind in kinds else "·"


def _update_ratio(kinds: Mapping[str, Stats]) -> str:
    if "update" not in kinds or "param" not in kinds or not kinds["param"].norm:
        return "·"
    return f"{kinds['update'].norm / kinds['param'].norm:.3g}"
