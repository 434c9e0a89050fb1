"""Plain text tables on stdout."""

import sys
from collections.abc import Sequence

__all__ = ["write_table"]

_NUMERIC = frozenset("0123456789.-+e")


def write_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Write rows of cells in columns, two blanks apart; numbers stand to the right."""
    widths = [max(len(row[i]) for row in (headings, *rows)) for i in range(len(headings))]
    for row in (headings, *rows):
        cells = [
            cell.rjust(width) if _is_number(cell) else cell.ljust(width)
            for cell, width in zip(row, widths, strict=True)
        ]
        sys.stdout.write("  ".join(cells).rstrip() + "\n")


def _is_number(cell: str) -> bool:
    return cell[:1] in "0123456789-" and set(cell) <= _NUMERIC
