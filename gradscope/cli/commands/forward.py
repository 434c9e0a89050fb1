"""`gradscope forward`: sends the numbers and findings of a run to a tracker."""

import contextlib
import sys
from collections.abc import Sequence
from dataclasses import asdict

from gradscope.cli.exit_codes import DONE, WRONG
from gradscope.cli.output import print_result
from gradscope.errors import GradscopeError
from gradscope.trackers import Destination, forward

__all__ = ["forward_run"]


def forward_run(run: str, destination: Destination, *, layers: Sequence[str], as_json: bool) -> int:
    """Forward a run until it ends, print how much was forwarded, and return the exit code."""
    try:
        with contextlib.redirect_stdout(sys.stderr):  # what a tracker prints
            done = forward(run, destination, layers=layers)
    except GradscopeError:
        raise
    except Exception as error:  # noqa: BLE001 - whatever the client of a tracker raises when it starts
        sys.stderr.write(
            f"gradscope: {destination.tracker} cannot be used: {type(error).__name__}: {error}\n"
        )
        return WRONG
    failed = f", {done.failures} failures of {destination.tracker}" if done.failures else ""
    print_result(
        {"run": run, "to": destination.tracker, **asdict(done)},
        as_json,
        f"forwarded {done.steps} observed steps, {done.points} points, {done.findings} findings{failed}",
    )
    return WRONG if done.failures else DONE
