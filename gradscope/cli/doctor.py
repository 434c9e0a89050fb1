"""`gradscope doctor`: the autograd Functions of a file, examined one by one."""

import contextlib
import json
import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

from gradscope.cli import outcome
from gradscope.cli.output import say
from gradscope.errors import MissingTorchError, UsageError

if TYPE_CHECKING:
    from gradscope.doctor import Report

__all__ = ["run_doctor", "split_target"]

_PATIENCE_S: Final = 2.0
"""How long an examination may take before the terminal is told that it goes on."""

_BETWEEN_S: Final = 1.0


def run_doctor(
    target: str,
    *,
    as_json: bool,
    is_isolated: bool,
    approximate: bool,
    second_order: bool,
    timeout_s: float | None,
) -> int:
    """Print the reports on FILE.py or FILE.py:NAME, and return the exit code."""
    if timeout_s is not None and not is_isolated:
        raise UsageError("--timeout needs --isolate: only a process of its own can be stopped")
    if timeout_s is not None and timeout_s <= 0:
        raise UsageError(f"--timeout must be more than 0 seconds, got {timeout_s:g}")
    path, name = split_target(target)
    if not path.is_file():
        raise UsageError(f"expected a Python file, found none at {path}; check the path")
    with _what_is_printed_goes_to_stderr(), _progress(f"examining {target}"):
        if is_isolated:
            reports = _examine_isolated(path, name, approximate, second_order, timeout_s)
        else:
            reports = _examine(path, name, approximate, second_order)
    if as_json:
        say(json.dumps([report.to_dict() for report in reports], indent=2))
    else:
        say("\n\n".join(str(report) for report in reports))
    return outcome.DONE if all(report.ok for report in reports) else outcome.WRONG


def split_target(target: str) -> tuple[Path, str | None]:
    """Return the file and the name of the Function in it; no name where there is such a file."""
    path, colon, name = target.rpartition(":")
    if not colon or Path(target).exists():
        return Path(target), None
    if not name.isidentifier():
        raise UsageError(
            f"expected FILE.py or FILE.py:NAME with the name of a Function, got {target!r}"
        )
    return Path(path), name


def _examine(path: Path, name: str | None, approximate: bool, second_order: bool) -> list["Report"]:
    with _missing_torch_in_words():
        from gradscope.doctor import examine_file  # noqa: PLC0415 - loads torch
    return examine_file(path, name, approximate=approximate, second_order=second_order)


def _examine_isolated(
    path: Path, name: str | None, approximate: bool, second_order: bool, timeout_s: float | None
) -> list["Report"]:
    with _missing_torch_in_words():
        from gradscope.doctor import examine_file_isolated  # noqa: PLC0415 - loads torch
    limit = {} if timeout_s is None else {"timeout_s": timeout_s}
    return examine_file_isolated(
        path, name, approximate=approximate, second_order=second_order, **limit
    )


@contextlib.contextmanager
def _missing_torch_in_words() -> Iterator[None]:
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise MissingTorchError(
            "gradscope doctor needs torch, which is not installed here: pip install torch"
        ) from error


@contextlib.contextmanager
def _what_is_printed_goes_to_stderr() -> Iterator[None]:
    """Keep stdout for the reports: the examined file may print, from Python or from below it."""
    sys.stdout.flush()
    kept = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    try:
        yield
    finally:
        sys.stdout.flush()
        os.dup2(kept, sys.stdout.fileno())
        os.close(kept)


@contextlib.contextmanager
def _progress(what: str) -> Iterator[None]:
    """Say on a terminal's stderr, after a while, that the work goes on; take the line away after it."""
    if not sys.stderr.isatty():
        yield
        return
    is_over = threading.Event()
    teller = threading.Thread(
        target=_tell, args=(what, is_over), name="gradscope-progress", daemon=True
    )
    teller.start()
    try:
        yield
    finally:
        is_over.set()
        teller.join()


def _tell(what: str, is_over: threading.Event) -> None:
    began_s = time.monotonic()
    wait_s, has_told = _PATIENCE_S, False
    while not is_over.wait(wait_s):
        wait_s, has_told = _BETWEEN_S, True
        sys.stderr.write(f"\r{what}: {time.monotonic() - began_s:.0f} s")
        sys.stderr.flush()
    if has_told:
        sys.stderr.write("\r\x1b[K")
        sys.stderr.flush()
