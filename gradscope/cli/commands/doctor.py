"""`gradscope doctor`: examines the autograd Functions of a file."""

import contextlib
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from gradscope.cli import exit_codes
from gradscope.cli.output import print_lines
from gradscope.errors import UsageError

if TYPE_CHECKING:
    from gradscope.doctor import Report

__all__ = ["ReportForm", "run_doctor", "split_target"]

ReportForm: TypeAlias = Literal["text", "json", "sarif"]


def run_doctor(
    target: str,
    *,
    form: ReportForm,
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
    print_lines(_format(reports, path, form))
    return exit_codes.DONE if all(report.ok for report in reports) else exit_codes.WRONG


def _format(reports: list["Report"], path: Path, form: ReportForm) -> str:
    from gradscope.doctor.report.sarif import sarif_log  # noqa: PLC0415 - loads torch

    if form == "json":
        return json.dumps([report.to_dict() for report in reports], indent=2)
    if form == "sarif":
        return json.dumps(sarif_log(reports, path), indent=2)
    return "\n\n".join(str(report) for report in reports)


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
