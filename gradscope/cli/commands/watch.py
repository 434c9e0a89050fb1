"""`gradscope` and `gradscope watch`: open a run in the terminal UI, or print one table."""

import importlib
from collections.abc import Sequence
from pathlib import Path

from gradscope.cli import exit_codes, output
from gradscope.cli.commands.snapshot import print_snapshot
from gradscope.cli.output import print_lines
from gradscope.client import connect, live_runs, only_live_run
from gradscope.errors import NothingToConnectError
from gradscope.protocol import RunInfo
from gradscope.recording import list_recordings, open_recording
from gradscope.transport import hub_address

__all__ = ["live_run", "open_screen", "print_as_json", "watch_run"]


def watch_run(run: str | None, *, is_once: bool, is_readonly: bool, tab: str = "layers") -> int:
    """Open the UI on a run, or print one table if there is no terminal. Return the exit code.

    By default it is the only live run. If several runs are live, the UI asks which one.
    """
    if is_once or not output.is_terminal():
        return _print_once(run, tab)
    run = live_run(run)
    return open_screen(run, is_readonly=is_readonly, tab=tab)


def live_run(run: str | None) -> str | None:
    """Return the run to open: by default the only live one; None if several are live, so that the UI asks.

    Raises NothingToConnectError if there is none.
    """
    try:
        with connect(run, want="observe", name="gradscope watch") as client:
            runs = client.runs()
    except NothingToConnectError as error:
        if _recorded(run) is None:
            raise
        raise NothingToConnectError(
            f"{error}. A recording of {run!r} exists; open it with: gradscope replay {run}"
        ) from None
    return only_live_run(runs) if run is None and len(live_runs(runs)) < 2 else run


def print_as_json(run: str | None) -> None:
    """Print the snapshot of a run, by default of the only live one."""
    if run is None:
        with connect(want="observe", name="gradscope watch") as client:
            run = only_live_run(client.runs())
    print_snapshot(run, as_json=True)


def open_screen(run: str | None, *, is_readonly: bool = False, tab: str = "layers") -> int:
    """Run the terminal UI until the user quits. Return its exit code.

    The UI is started by name, because it is a separate package that gradscope never imports.
    """
    tui = importlib.import_module("gradscope_tui")
    return int(tui.run_app(run, is_readonly=is_readonly, tab=tab))


def _print_once(run: str | None, tab: str) -> int:
    plain = importlib.import_module("gradscope_tui.plain")
    looks = {"color": output.has_colors(), "width": output.width(), "tab": tab}
    try:
        with connect(run, want="observe", name="gradscope watch") as client:
            client.run = client.run or only_live_run(client.runs())
            path = _recording_of_ended(client.runs(), client.run)
            if path is None:
                text = plain.render_once(client, **looks)
    except NothingToConnectError:
        path = _recorded(run)
        if path is None:
            raise
    if path is not None:
        with open_recording(path) as recording:
            text = plain.render_recorded(recording, **looks)
    print_lines(text.rstrip("\n"))
    return exit_codes.DONE


def _recording_of_ended(runs: Sequence[RunInfo], run: str) -> Path | None:
    """Return the recording of a run that has ended; None if it is live or was not recorded."""
    if hub_address().is_remote:
        return None  # it is on that machine
    ranks = [info for info in runs if info.run == run]
    is_live = any(info.is_live for info in ranks)
    return None if is_live else next((Path(i.recording) for i in ranks if i.recording), None)


def _recorded(run: str | None) -> Path | None:
    """Return the newest recording of a run that no hub knows."""
    if hub_address().is_remote:
        return None
    return next((i.path for i in list_recordings() if i.run == run and not i.problem), None)
