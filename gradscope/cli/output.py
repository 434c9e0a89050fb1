"""Prints results to stdout: lines and tables of plain text, and JSON. Says what terminal stdout is."""

import json
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = [
    "has_colors",
    "is_terminal",
    "print_json",
    "print_lines",
    "print_result",
    "table_lines",
    "width",
]

JSON_VERSION = 1
"""The version of the JSON documents. A key may be added within a version."""

_NUMERIC = frozenset("0123456789.-+e%")


def print_lines(*lines: str) -> None:
    """Write lines to stdout and flush, so that the reader of a pipe receives them at once."""
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    sys.stdout.flush()


def print_json(document: Mapping[str, Any], *, indent: int | None = 2) -> None:  # Any: what JSON takes
    """Write a document, with the version of the documents of all commands if it has none."""
    from gradscope.findings import plain_value  # noqa: PLC0415 - --help needs none of it

    whole = {"version": JSON_VERSION, **plain_value(document)}
    print_lines(json.dumps(whole, indent=indent, allow_nan=False))


def print_result(
    document: Mapping[str, Any],  # Any: what JSON takes
    as_json: bool,
    *lines: str,
    indent: int | None = 2,
) -> None:
    """Write the result of a command, either as a document or as lines."""
    if as_json:
        print_json(document, indent=indent)
    else:
        print_lines(*lines)


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


def is_terminal() -> bool:
    """Return whether stdin and stdout are a terminal that can show a full screen (not "dumb")."""
    return sys.stdin.isatty() and sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb"


def has_colors() -> bool:
    """Return whether stdout may have colours (see no-color.org)."""
    is_dumb = os.environ.get("TERM", "dumb") == "dumb"
    return sys.stdout.isatty() and not is_dumb and not os.environ.get("NO_COLOR")


def width() -> int:
    """Return the number of columns of stdout; 120 for a pipe."""
    return shutil.get_terminal_size((120, 32)).columns


def _is_number(cell: str) -> bool:
    return cell == "-" or (cell[:1] in "0123456789-" and set(cell) <= _NUMERIC)
