"""`gradscope diagnose`: what is wrong with a live, ended or recorded run.

The exit code is 0 without warnings or errors, and 1 with one.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TypeAlias

from gradscope.cli.connection import connect_to
from gradscope.cli.exit_codes import DONE, WRONG
from gradscope.cli.output import print_lines
from gradscope.errors import NothingToConnectError
from gradscope.findings import Finding, Verdict, unreported
from gradscope.protocol import Backfill, Event
from gradscope.recording import RecordingInfo, list_recordings, open_recording
from gradscope.recording.schema import SUFFIX

__all__ = ["diagnose"]

_TIMEOUT_S = 10.0

_Known: TypeAlias = tuple[list[Event], str, int]
"""The events of a run, its name, and the number of its steps."""


def diagnose(run: str, *, as_json: bool) -> int:
    """Print the verdict, and return the exit code. `run` is the name of a run or the path of a recording.

    Raises NothingToConnectError if there is neither a run nor a recording of this name, and RecordingError if
    the recording cannot be read.
    """
    is_path = run.endswith(SUFFIX) or Path(run).is_file()
    events, name, steps = _of_file(Path(run)) if is_path else _of_name(run)
    verdict = _verdict(name, events, steps)
    others = _others(events)
    if as_json:
        shown = [{"step": e.step, "level": e.level, "code": e.code, "text": e.text} for e in others]
        print_lines(json.dumps(verdict.as_json() | {"events": shown}, indent=2))
    else:
        print_lines(*verdict.lines(), *(["", "Events"] if others else []))
        print_lines(*(f"  step {event.step}: {event.text}" for event in others))
    return WRONG if verdict.has_problem else DONE


def _of_file(path: Path) -> _Known:
    with open_recording(path) as recording:
        last = recording.info.last_step
        return list(recording.events()), recording.info.run, 0 if last is None else last + 1


def _of_name(run: str) -> _Known:
    """Return what is known from the hub's events, and from the recording, which has all of them."""
    recorded = next((info for info in list_recordings() if info.run == run and not info.problem), None)
    try:
        events, steps = _ask_hub(run)
    except NothingToConnectError:
        if recorded is None:
            raise
        return _of_file(recorded.path)
    return [*_recorded_events(recorded), *events], run, steps


def _ask_hub(run: str) -> tuple[list[Event], int]:
    events: list[Event] = []
    with connect_to(run, want="observe") as client:
        client.watch(run)
        while messages := client.receive(_TIMEOUT_S):
            events += [message for message in messages if isinstance(message, Event)]
            if any(isinstance(message, Backfill) and message.state == "end" for message in messages):
                break
        steps = [info.step for info in client.runs() if info.run == run and info.step is not None]
    return events, max(steps, default=-1) + 1


def _recorded_events(info: RecordingInfo | None) -> list[Event]:
    if info is None:
        return []
    with open_recording(info.path) as recording:
        return list(recording.events())


def _others(events: Iterable[Event]) -> list[Event]:
    """Return the warnings and errors that are not findings, each once, such as the exception that ended the run."""
    known = {(e.time_s, e.rank, e.text): e for e in events if e.finding is None and e.level != "info"}
    return list(known.values())


def _verdict(run: str, events: Iterable[Event], steps: int) -> Verdict:
    """Return the verdict from the events of a run that has ended `steps` steps, as far as they are known."""
    found: dict[tuple[str, tuple[str, ...], int | None], Finding] = {}
    checked = None
    for event in events:
        if event.finding is not None:
            finding = event.finding
            found[finding.code, finding.layers, finding.found_step] = finding
        if event.checked is not None and (checked is None or event.checked.steps >= checked.steps):
            checked = event.checked
    return Verdict.of(run, checked or unreported(steps), found.values())
