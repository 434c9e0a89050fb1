"""`export_run`: writes the recorded data of a run as a file for other programs, or as TensorBoard's event files."""

import io
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Final, Literal, TypeAlias, get_args

from gradscope.errors import GradscopeError, UsageError
from gradscope.errors.requirement import require
from gradscope.export.selection import Rows, Selection, rows, select
from gradscope.export.tables import write_csv, write_json_lines, write_parquet
from gradscope.history import recording_path
from gradscope.notice import print_notice
from gradscope.paths.output import new_output
from gradscope.recording import Recording, open_recording
from gradscope.trackers import Destination, forward_recorded

__all__ = ["Format", "export_run", "format_of"]

Format: TypeAlias = Literal["csv", "jsonl", "parquet", "tensorboard"]

_SUFFIXES: Final[dict[str, Format]] = {
    ".csv": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
}
_STDOUT: Final = Path("-")


def format_of(path: Path) -> Format:
    """Return the format that a file's name ends with. Raises UsageError for another end."""
    try:
        return _SUFFIXES[path.suffix]
    except KeyError:
        known = ", ".join(get_args(Format))
        raise UsageError(
            f"expected a name that ends with {', '.join(_SUFFIXES)}, or --format {known}; got {path}"
        ) from None


def export_run(
    run: str,
    path: Path,
    form: Format | None = None,
    *,
    layers: Sequence[str] = (),
    kinds: Sequence[str] = (),
    stats: Sequence[str] = (),
    steps: str = "",
    may_replace: bool = False,
) -> int:
    """Export a run, and return the number of rows, or of points for TensorBoard. The file appears whole or not at all.

    run: a run's name or the path of a recording. path: a file, for TensorBoard a directory; "-" is stdout, for csv
    and jsonl. form: by default that of the file's name. layers, kinds, stats, steps: as in `select`; TensorBoard takes
    layers and steps only.

    Raises NothingToConnectError if there is no such run, RecordingError if it has no readable recording, and UsageError
    for a wrong selection, if nothing was observed in it, if a package is missing, or if `path` cannot be written.
    """
    form = form or format_of(path)
    if path == _STDOUT and form not in ("csv", "jsonl"):
        raise UsageError(f"expected --format csv or jsonl for stdout, got {form}")
    if form == "parquet":
        require("pyarrow", "16")
    if form == "tensorboard" and (kinds or stats):
        raise UsageError("--kinds and --stats are for tables; with --format tensorboard, use --layers")
    with open_recording(recording_path(run)) as recording:
        selection = select(recording, layers=layers, kinds=kinds, stats=stats, steps=steps)
        if path == _STDOUT:
            return _write_text(sys.stdout, recording, selection, form)
        with new_output(path, may_replace=may_replace) as unfinished:
            count = _write(unfinished, recording, selection, form, layers)
        for each in recording.lost:
            print_notice(f"gradscope: the recording is damaged, so this is missing: {each}")
        return count


def _write(
    path: Path, recording: Recording, selection: Selection, form: Format, layers: Sequence[str]
) -> int:
    if form == "tensorboard":
        destination = Destination("tensorboard", path.parent, name=path.name)
        done = forward_recorded(
            recording, destination, layers=layers, first=selection.first, last=selection.last
        )
        if done.failures:
            raise GradscopeError(
                f"TensorBoard's writer failed {done.failures} times; nothing was written"
            )
        return done.points
    if form == "parquet":
        return write_parquet(path, selection.stats, _observed(recording, selection))
    with path.open("w", encoding="utf-8", newline="") as file:
        return _write_text(file, recording, selection, form)


def _write_text(
    file: IO[str] | io.TextIOBase, recording: Recording, selection: Selection, form: Format
) -> int:
    write = write_csv if form == "csv" else write_json_lines
    return write(file, selection.stats, _observed(recording, selection))  # type: ignore[arg-type]  # both write text


def _observed(recording: Recording, selection: Selection) -> Iterator[Rows]:
    """Yield the rows; raise UsageError if there is none, so that no empty file looks like a result."""
    is_empty = True
    for each in rows(recording, selection):
        is_empty = False
        yield each
    if is_empty:
        raise UsageError(
            f"nothing to export: {recording.info.run!r} has no observed step with these layers, kinds and steps"
        )
