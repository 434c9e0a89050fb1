"""`gradscope ls`: lists the runs that a hub knows and the recordings on disk."""

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias

import msgspec

from gradscope.cli.output import print_json, print_lines, table_lines
from gradscope.client import connect, end_of
from gradscope.columns import bytes_in_words
from gradscope.errors import NothingToConnectError
from gradscope.protocol import RankStates, RunInfo, Runs
from gradscope.protocol.standing_out import standing_out
from gradscope.recording import RecordingInfo, list_recordings
from gradscope.recording.disk_space import files_size_bytes, total_limit_bytes
from gradscope.transport import hub_address

__all__ = ["Listed", "find_runs", "json_of", "match_recordings", "print_runs"]

State: TypeAlias = Literal["live", "ended", "died", "unreadable"]


@dataclass(frozen=True, slots=True)
class Listed:
    """One run: its ranks as the hub reports them, its recording, or both."""

    run: str
    state: State
    step: int | None
    started_s: float
    host: str
    script: str
    reason: str = ""
    ranks: tuple[RunInfo, ...] = ()
    recording: RecordingInfo | None = None
    rank_states: RankStates | None = None


def print_runs(*, as_json: bool, has_sizes: bool = False) -> None:
    """Print all runs: live runs first, then the newest. `has_sizes`: with the sizes of the recordings."""
    listed, counters = find_runs()
    if as_json:
        total = {"size_bytes": _total_bytes(listed), "limit_bytes": total_limit_bytes()}
        sizes = {"recordings": total} if has_sizes else {}
        print_json({"hub": counters, "runs": [json_of(one) for one in listed], **sizes})
    elif listed and has_sizes:
        print_lines(*table_lines(_SIZE_HEADINGS, [_size_row(one) for one in listed]))
        total_bytes, limit = _total_bytes(listed), bytes_in_words(total_limit_bytes())
        print_lines("", f"all recordings: {bytes_in_words(total_bytes)}; the limit is {limit}")
    elif listed:
        print_lines(*table_lines(_HEADINGS, [_table_row(one) for one in listed]))
    else:
        print_lines("no runs yet: start one with `gradscope demo`")


def find_runs() -> tuple[list[Listed], dict[str, int] | None]:
    """Return all runs, live runs first, then the newest; and the counters of the hub, None without a hub."""
    runs, counters, states = _ask_hub()
    listed = match_recordings(runs, [] if hub_address().is_remote else list_recordings())
    return [replace(one, rank_states=states.get(one.run)) for one in listed], counters


def match_recordings(runs: Sequence[RunInfo], recordings: Iterable[RecordingInfo]) -> list[Listed]:
    """Return one entry for each run. A recording is assigned to the run that names its path.

    A recording without an end, whose run is not live, belongs to a run that was killed together with
    its hub.
    """
    by_path = {str(recording.path): recording for recording in recordings}
    listed = []
    for run in dict.fromkeys(info.run for info in runs):
        ranks = tuple(info for info in runs if info.run == run)
        path = next((info.recording for info in ranks if info.recording), "")
        path = path or _path_of(ranks, by_path)
        listed.append(_listed_from_hub(run, ranks, by_path.pop(path, None)))
    listed += [_listed_from_recording(recording) for recording in by_path.values()]
    return sorted(listed, key=lambda one: (one.state != "live", -one.started_s))


def _ask_hub() -> tuple[tuple[RunInfo, ...], dict[str, int] | None, Mapping[str, RankStates]]:
    try:
        with connect(want="observe", name="gradscope ls") as client:
            runs = tuple(client.runs())
            lists = [message for message in client.receive(0) if isinstance(message, Runs)]
            return runs, lists[-1].counters if lists else {}, client.rank_states()
    except NothingToConnectError:
        return (), None, {}


def _path_of(ranks: Sequence[RunInfo], by_path: Mapping[str, RecordingInfo]) -> str:
    """Return the path of the recording that began with one of the ranks, which the hub does not name yet; or ""."""
    began = {(info.run, info.started_s) for info in ranks}
    own = (path for path, each in by_path.items() if (each.run, each.started_s) in began)
    return next(own, "")


def _listed_from_hub(run: str, ranks: tuple[RunInfo, ...], recording: RecordingInfo | None) -> Listed:
    first = ranks[0]
    return Listed(
        run=run,
        state="live" if any(info.is_live for info in ranks) else "ended",
        step=max((info.step for info in ranks if info.step is not None), default=None),
        started_s=first.started_s,
        host=first.host,
        script=first.script,
        reason=end_of(ranks).reason,
        ranks=ranks,
        recording=recording,
    )


def _listed_from_recording(recording: RecordingInfo) -> Listed:
    state: State = "ended" if recording.ended_s is not None else "died"
    return Listed(
        run=recording.run,
        state="unreadable" if recording.problem else state,
        step=recording.last_step,
        started_s=recording.started_s,
        host=recording.host,
        script=recording.script,
        reason=recording.reason or recording.problem,
        recording=recording,
    )


_HEADINGS = ("RUN", "STATE", "STEP", "STARTED", "HOST", "SCRIPT", "RECORDING")


def _table_row(listed: Listed) -> tuple[str, ...]:
    started = time.strftime("%Y-%m-%d %H:%M", time.localtime(listed.started_s))
    return (
        listed.run,
        f"ended: {listed.reason}" if listed.state == "ended" and listed.reason else listed.state,
        "-" if listed.step is None else str(listed.step),
        started if listed.started_s else "-",
        listed.host or "-",
        Path(listed.script).name or "-",
        str(listed.recording.path) if listed.recording else "-",
    )


_SIZE_HEADINGS = ("RUN", "STATE", "SIZE", "STEPS", "REMOVED", "PINNED", "RECORDING")


def _size_row(listed: Listed) -> tuple[str, ...]:
    recording = listed.recording
    if recording is None:
        return listed.run, listed.state, "-", "-", "-", "-", "-"
    is_pinned = "pinned" if recording.is_pinned else "-"
    counts = str(recording.steps), str(recording.removed)
    size = bytes_in_words(files_size_bytes(recording.path))
    return listed.run, listed.state, size, *counts, is_pinned, str(recording.path)


def _total_bytes(listed: Iterable[Listed]) -> int:
    return sum(files_size_bytes(one.recording.path) for one in listed if one.recording)


def json_of(listed: Listed) -> dict[str, Any]:  # Any: what JSON takes
    """Return the entry of a run for JSON."""
    plain = asdict(listed)
    plain["ranks"] = [msgspec.to_builtins(info) for info in listed.ranks]
    states = () if listed.rank_states is None else listed.rank_states.ranks
    reasons = standing_out(states)
    plain["rank_states"] = [
        msgspec.to_builtins(state) | {"stands_out": list(reasons.get(state.rank, ()))}
        for state in states
    ]
    if listed.recording:
        plain["recording"]["path"] = str(listed.recording.path)
    return plain
