"""`gradscope doctor`: examines the autograd Functions of a file."""

import contextlib
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gradscope.cli import exit_codes
from gradscope.cli.output import print_lines
from gradscope.errors import UsageError

if TYPE_CHECKING:
    from gradscope.doctor import Report

__all__ = ["run_doctor", "split_target"]


def run_doctor(
    target: str,
    *,
    as_json: bool,
    is_isolated: bool,
    approximate: bool,
    second_order: bool,
    timeout_s: float | None,
) -> int:
    """Print the reports on FILE.py or FILE.py:NAME. Return the exit code."""
    if timeout_s is not None and timeout_s <= 0:
        raise UsageError(f"expected --timeout above 0 seconds, got {timeout_s:g}")
    path, name = split_target(target)
    if not path.is_file():
        raise UsageError(f"expected a Python file, found none at {path}; check the path")
    options: dict[str, Any] = {"approximate": approximate, "second_order": second_order}  # Any: mixed
    if timeout_s is not None:
        options["timeout_s"] = timeout_s
    with _prints_to_stderr():
        reports = _examine(path, name, options, is_isolated=is_isolated)
    if as_json:
        print_lines(json.dumps([report.to_dict() for report in reports], indent=2))
    else:
        print_lines("\n\n".join(str(report) for report in reports))
    return exit_codes.DONE if all(report.ok for report in reports) else exit_codes.WRONG


def split_target(target: str) -> tuple[Path, str | None]:
    """Return the file and the name of the Function; the name is None if `target` is an existing file."""
    path, colon, name = target.rpartition(":")
    if not colon or Path(target).exists():
        return Path(target), None
    if not name.isidentifier():
        raise UsageError(
            f"expected FILE.py or FILE.py:NAME with the name of a Function, got {target!r}"
        )
    return Path(path), name


def _examine(
    path: Path,
    name: str | None,
    options: dict[str, Any],  # Any: as above
    *,
    is_isolated: bool,
) -> list["Report"]:
    from gradscope import doctor  # noqa: PLC0415 - loads torch

    if is_isolated:
        return doctor.examine_file_isolated(path, name, **options)
    return doctor.examine_file(path, name, **{"timeout_s": doctor.TIMEOUT_S} | options)


@contextlib.contextmanager
def _prints_to_stderr() -> Iterator[None]:
    """Redirect the output of the examined file, from Python or C, to stderr; stdout is for the reports."""
    sys.stdout.flush()
    kept = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    try:
        yield
    finally:
        sys.stdout.flush()
        os.dup2(kept, sys.stdout.fileno())
        os.close(kept)
