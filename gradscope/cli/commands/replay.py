"""`gradscope replay`: the terminal UI on a recording."""

import importlib

from gradscope.cli import exit_codes, output
from gradscope.cli.output import print_lines
from gradscope.errors import UsageError
from gradscope.history import recording_path
from gradscope.recording import open_recording

__all__ = ["open_replay"]


def open_replay(run: str, *, step: int | None, tab: str, against: str | None = None) -> int:
    """Open the recording of a run in the UI, or print the table of a step without a terminal. Return the exit code.

    against: a run to compare with.

    Raises NothingToConnectError if there is no such run, RecordingError if it has no readable recording, and
    UsageError if the step is out of its range.
    """
    path, other = recording_path(run), recording_path(against) if against else None
    with open_recording(path) as recording:
        info = recording.info
        first, last = info.first_step or 0, info.last_step
        if step is not None and last is not None and not first <= step <= last:
            raise UsageError(
                f"expected --step between {first} and {last}, the steps of the recording; got {step}"
            )
        if not output.is_terminal():
            if other is not None:
                raise UsageError(
                    "--against needs a terminal; gradscope diff prints where two runs differ"
                )
            plain = importlib.import_module("gradscope_tui.plain")
            text = plain.render_recorded(
                recording, color=output.has_colors(), width=output.width(), tab=tab, step=step
            )
            print_lines(text.rstrip("\n"))
            return exit_codes.DONE
    tui = importlib.import_module("gradscope_tui")
    return int(tui.run_app(None, tab=tab, recording=path, step=step, against=other))
