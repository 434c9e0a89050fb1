"""Text of a run as HTML: escaped, without control characters; tables, pairs and numbers."""

import math
import time
from collections.abc import Iterable, Sequence
from html import escape

__all__ = [
    "clock_text",
    "duration_text",
    "html_code",
    "html_pairs",
    "html_table",
    "html_text",
    "number_text",
    "plain_text",
]


def html_table(
    titles: Sequence[str], rows: Iterable[Sequence[str]], numeric: Sequence[int] = ()
) -> str:
    """Return a table; the cells of the columns in `numeric` are aligned to the right."""
    kinds = [' class="n"' if place in numeric else "" for place in range(len(titles))]
    head = "".join(
        f"<th{kind}>{html_text(title)}</th>" for kind, title in zip(kinds, titles, strict=True)
    )
    body = "".join(
        "<tr>"
        + "".join(f"<td{kind}>{html_text(cell)}</td>" for kind, cell in zip(kinds, row, strict=True))
        + "</tr>"
        for row in rows
    )
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def html_pairs(pairs: Iterable[tuple[str, str]]) -> str:
    """Return names with their texts; pairs without a text are left out."""
    shown = (f"<dt>{html_text(name)}</dt><dd>{html_text(value)}</dd>" for name, value in pairs if value)
    return f"<dl>{''.join(shown)}</dl>"


def html_text(text: str) -> str:
    """Return text for HTML; what stands between backticks becomes code."""
    pieces = escape(plain_text(text)).split("`")
    if len(pieces) % 2 == 0:
        return "`".join(pieces)
    return "".join(
        f"<code>{piece}</code>" if place % 2 else piece for place, piece in enumerate(pieces)
    )


def html_code(text: str) -> str:
    """Return text as code."""
    return f"<code>{escape(plain_text(text))}</code>"


def plain_text(text: str) -> str:
    """Return text in which control characters are replaced, also the ones that change the direction of text."""
    return "".join(c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in text)


def number_text(value: float) -> str:
    """Return a number with four digits."""
    if not math.isfinite(value):
        return str(value)
    if value == int(value) and abs(value) < 1e6:
        return f"{int(value):,}"
    return f"{value:.4g}"


def clock_text(time_s: float) -> str:
    """Return a time as date and time of day; empty if it is not known."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(time_s)) if time_s else ""


def duration_text(seconds: float) -> str:
    """Return a duration as text in seconds, minutes, or hours and minutes."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = int(seconds // 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60:02d} min"
