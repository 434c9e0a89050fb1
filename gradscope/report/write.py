"""`write_report`: the report of a live, ended or crashed run as one HTML file."""

from collections.abc import Sequence
from pathlib import Path

from gradscope.errors.requirement import require
from gradscope.history import recording_path
from gradscope.paths.output import new_output
from gradscope.recording import open_recording

__all__ = ["write_report"]


def write_report(run: str, path: Path, *, layers: Sequence[str] = (), may_replace: bool = False) -> int:
    """Write the report of a run, and return its size in bytes. `run` is a run's name or the path of a recording.

    layers: names or patterns of the layers that have charts of their own; by default a choice.

    Raises NothingToConnectError if there is no such run, RecordingError if it has no readable recording,
    UnknownLayerError if a pattern matches nothing, and UsageError if `path` cannot be written or matplotlib is missing.
    """
    require("matplotlib", "3.9")
    from gradscope.report.content import read_content  # noqa: PLC0415 - loads matplotlib
    from gradscope.report.page import page_of  # noqa: PLC0415 - as above

    source = recording_path(run)
    with new_output(path, may_replace=may_replace) as unfinished:
        with open_recording(source) as recording:
            page = page_of(read_content(recording, run, layers))
        unfinished.write_text(page, encoding="utf-8", errors="replace")
    return path.stat().st_size
