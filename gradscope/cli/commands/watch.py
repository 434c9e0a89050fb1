"""`gradscope` and `gradscope watch`: open a run in the terminal UI, or print one table."""

import importlib

from gradscope.cli import exit_codes, terminal
from gradscope.cli.output import say
from gradscope.client import connect, find_run, live_runs, only_live_run
from gradscope.errors import NothingToConnectError
from gradscope.recording import RecordingInfo, list_recordings, open_recording

__all__ = ["open_screen", "watch_run"]


def watch_run(run: str | None, *, is_once: bool, is_readonly: bool, tab: str = "layers") -> int:
    """Open the UI on a run, or print one table if there is no terminal. Return the exit code.

    By default it is the only live run. If several runs are live, the UI asks which one.
    """
    if is_once or not terminal.is_terminal():
        return _print_once(run, tab)
    with connect(want="observe", name="gradscope watch") as client:
        runs = client.runs()
    if run is not None:
        find_run(run, runs)
    elif len(live_runs(runs)) < 2:  # several live runs: the UI asks
        run = only_live_run(runs)
    return open_screen(run, is_readonly=is_readonly, tab=tab)


def open_screen(run: str | None, *, is_readonly: bool = False, tab: str = "layers") -> int:
    """Run the terminal UI until the user quits. Return its exit code.

    The UI is started by name, because it is a separate package that gradscope never imports.
    """
    tui = importlib.import_module("gradscope_tui")
    return int(tui.run_app(run, is_readonly=is_readonly, tab=tab))


def _print_once(run: str | None, tab: str) -> int:
    plain = importlib.import_module("gradscope_tui.plain")
    looks = {"color": terminal.has_colors(), "width": terminal.width(), "tab": tab}
    try:
        with connect(want="observe", name="gradscope watch") as client:
            runs = client.runs()
            client.run = only_live_run(runs) if run is None else find_run(run, runs)
            text = plain.render_once(client, **looks)
    except NothingToConnectError:
        found = _recorded(run)
        if found is None:
            raise
        with open_recording(found.path) as recording:
            text = plain.render_recorded(recording, **looks)
    say(text.rstrip("\n"))
    return exit_codes.DONE


def _recorded(run: str | None) -> RecordingInfo | None:
    """Return the newest recording of a run that no hub knows."""
    return next((info for info in list_recordings() if info.run == run and not info.problem), None)
