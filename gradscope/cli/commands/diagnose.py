"""`gradscope diagnose`: what is wrong with a live, ended or recorded run.

The exit code is 0 without warnings or errors, and 1 with one.
"""

from gradscope.cli.exit_codes import DONE, WRONG
from gradscope.cli.output import print_json, print_lines
from gradscope.history import read_history

__all__ = ["diagnose"]


def diagnose(run: str, *, as_json: bool) -> int:
    """Print the verdict, and return the exit code. `run` is the name of a run or the path of a recording.

    Raises NothingToConnectError if there is neither a run nor a recording of this name, and RecordingError if
    the recording cannot be read.
    """
    history = read_history(run)
    verdict, others = history.verdict, history.failures
    if as_json:
        shown = [{"step": e.step, "level": e.level, "code": e.code, "text": e.text} for e in others]
        print_json(verdict.as_json() | {"events": shown})
    else:
        print_lines(*verdict.lines(), *(["", "Events"] if others else []))
        print_lines(*(f"  step {event.step}: {event.text}" for event in others))
    return WRONG if verdict.has_problem else DONE
