"""Prints results to stdout: lines and tables of plain text."""

import sys
from collections.abc import Sequence

__all__ = ["say", "table_lines"]

_NUMERIC = frozenset("0123456789.-+e%")


def say(*lines: str) -> None:
    """Write lines to stdout and flush, so that the reader of a pipe receives them at once."""
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    sys.stdout.flush()


def table_lines(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return rows of cells as aligned columns, two spaces apart. Numeric columns are right-aligned."""
    widths = [max(len(row[i]) for row in (headings, *rows)) for i in range(len(headings))]
    is_right = [bool(rows) and all(_is_number(row[i]) for row in rows) for i in range(len(headings))]
    return [
        "  ".join(
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(row, widths, is_right, strict=True)
        ).rstrip()
        for row in (headings, *rows)
    ]


def _is_number(cell: str) -> bool:
    return cell == "-" or (cell[:1] in "0123456789-" and set(cell) <= _NUMERIC)
