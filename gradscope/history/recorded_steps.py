"""`recorded_steps`: the observed steps of a recording one after the other, with merged ranks, in constant memory."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from gradscope.client import connect
from gradscope.columns import Block, merge_ranks
from gradscope.errors import GradscopeError, NothingToConnectError, RecordingError
from gradscope.protocol import Manifest, Step, unpack_layers
from gradscope.protocol.bodies import unpack_block
from gradscope.recording import Recording, list_recordings
from gradscope.recording.schema import SUFFIX
from gradscope.transport import hub_address

__all__ = ["RecordedStep", "layer_names", "recorded_steps", "recording_path"]

_AT_A_TIME = 64
"""Observed steps of a range that are read together."""


@dataclass(frozen=True, slots=True)
class RecordedStep:
    """One observed step. Row i of `block` is about `layers[block.layer[i]]`; the rows of several ranks are merged."""

    step: int
    time_s: float
    step_time_s: float | None
    ranks: tuple[int, ...]
    layers: tuple[str, ...]
    block: Block


def recording_path(run: str) -> Path:
    """Return the recording of a run; `run` is its name or the path of the recording itself.

    Raises NothingToConnectError if there is neither a run nor a recording of this name, and RecordingError if the
    run is not recorded.
    """
    if run.endswith(SUFFIX) or Path(run).is_file():
        return Path(run)
    if run.startswith("tcp://") or hub_address().is_remote:
        raise NothingToConnectError(
            f"the recording of {run!r} is on the machine of the run: use this command there, over ssh, or copy the file"
        )
    found = [info for info in list_recordings() if info.run == run]
    readable = next((info.path for info in found if not info.problem), None)
    if readable is not None:
        return readable
    if found:
        raise RecordingError(found[0].problem)
    try:
        connect(run, want="observe", name="the command line").close()
    except NothingToConnectError as error:
        raise NothingToConnectError(f"there is no recording of a run {run!r}: {error}") from None
    raise RecordingError(
        f"the run {run!r} has no recording, so its past steps are not known; attach(record=True) makes one"
    )


def layer_names(recording: Recording) -> tuple[str, ...]:
    """Return the names of the layers of all ranks and revisions, in the order of the newest manifest."""
    manifests = recording.manifests()
    names = [layer.name for each in reversed(manifests) for layer in unpack_layers(each)]
    lowest = min((each.rank for each in manifests), default=0)
    newest = [each for each in manifests if each.rank == lowest][-1:]
    first = [layer.name for each in newest for layer in unpack_layers(each)]
    return tuple(dict.fromkeys([*first, *names]))


def recorded_steps(
    recording: Recording, first: int | None = None, last: int | None = None, *, every: int = 1
) -> Iterator[RecordedStep]:
    """Yield the observed steps from `first` to `last`, both included; by default all.

    every: take only every n-th of the observed steps. A step that does not match its manifest is left out, as in
        the other views of a run.
    """
    names = _names_by_revision(recording.manifests())
    of_step: list[Step] = []
    seen = 0
    for message in recording.steps() if first is last is None else _between(recording, first, last):
        if message.layers != "all":
            continue
        if of_step and of_step[0].step != message.step:
            if seen % every == 0:
                yield from _merged(of_step, names)
            seen += 1
            of_step = []
        of_step.append(message)
    if of_step and seen % every == 0:
        yield from _merged(of_step, names)


def _between(recording: Recording, first: int | None, last: int | None) -> Iterator[Step]:
    """Yield the steps of a range, without reading the steps before it."""
    low, high = first or 0, math.inf if last is None else last
    numbers = [number for number in recording.step_numbers() if low <= number <= high]
    for start in range(0, len(numbers), _AT_A_TIME):
        part = numbers[start : start + _AT_A_TIME]
        yield from recording.steps_between(part[0], part[-1])


def _names_by_revision(manifests: Sequence[Manifest]) -> dict[tuple[int, int], tuple[str, ...]]:
    return {
        (each.rank, each.revision): tuple(layer.name for layer in unpack_layers(each))
        for each in manifests
    }


def _merged(
    steps: Sequence[Step], names: Mapping[tuple[int, int], tuple[str, ...]]
) -> Iterator[RecordedStep]:
    ordered = sorted(steps, key=lambda step: step.rank)
    try:
        parts = [
            (names[step.rank, step.manifest_revision], unpack_block(step))
            for step in ordered
            if (step.rank, step.manifest_revision) in names
        ]
        layers, block = merge_ranks(parts) if len(parts) > 1 else parts[0]
    except (GradscopeError, IndexError):
        return
    if len(block) and int(block.layer.max()) >= len(layers):
        return
    first, ranks = ordered[0], tuple(step.rank for step in ordered)
    yield RecordedStep(first.step, first.time_s, first.step_time_s, ranks, tuple(layers), block)
