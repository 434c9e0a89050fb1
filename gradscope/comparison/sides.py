"""`Side`: one rank of a recorded run, as one side of a comparison."""

import dataclasses
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from gradscope.columns import Block
from gradscope.errors import NothingToConnectError, RecordingError, UsageError
from gradscope.protocol import Layer, Manifest, Step, StepFacts, unpack_layers
from gradscope.protocol.bodies import unpack_block
from gradscope.recording import Recording, list_recordings, open_recording, round_statistics

__all__ = ["Side", "SideStep", "open_side"]

_RANK = re.compile(r"^(?P<run>.+):rank(?P<rank>\d+)$")
_NO_FACTS = StepFacts()


@dataclass(frozen=True, slots=True)
class SideStep:
    """An observed step: its rows, and the names of the layers that the rows refer to.

    is_rounded: whether the recording keeps its statistics rounded, as `Recording.rounded_step_numbers` says.
    """

    step: int
    names: tuple[str, ...]
    block: Block
    facts: StepFacts
    is_rounded: bool = False

    def rounded(self) -> "SideStep":
        """Return the step with its statistics rounded, as in a recording."""
        if self.is_rounded:
            return self
        block = dataclasses.replace(self.block, values=round_statistics(self.block.values))
        return dataclasses.replace(self, block=block, is_rounded=True)

    def layers_in_eval(self) -> frozenset[str]:
        """Return the names of the layers in eval mode."""
        return frozenset(self.names[i] for i in self.facts.eval_layers if i < len(self.names))


class Side:
    """One rank of a recording. Use it as a context manager."""

    def __init__(self, recording: Recording, rank: int) -> None:
        self.recording = recording
        self.rank = rank
        self.info = recording.info
        manifests = [each for each in recording.manifests() if each.rank == rank]
        if not manifests:
            known = sorted({each.rank for each in recording.manifests()})
            recorded = (
                f"recorded: rank {', '.join(map(str, known))}" if known else "nothing is recorded yet"
            )
            raise RecordingError(f"run {self.info.run!r} has no rank {rank}; {recorded}")
        self.manifest: Manifest = manifests[0]
        self._layers: Mapping[int, tuple[Layer, ...]] = {
            each.revision: unpack_layers(each) for each in manifests
        }

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The layers of the model, as of its first step."""
        return self._layers[self.manifest.revision]

    @property
    def environment(self) -> Mapping[str, Any]:  # Any: what JSON takes
        """What the process ran with, as in `Recording.environment`; empty if that is not recorded."""
        return self.recording.environment(self.rank)

    def steps(self) -> Iterator[SideStep]:
        """Yield the observed steps in order."""
        names = {
            revision: tuple(layer.name for layer in layers) for revision, layers in self._layers.items()
        }
        rounded = frozenset(self.recording.rounded_step_numbers())
        for message in self.recording.steps():
            if message.rank == self.rank and message.layers == "all":
                yield _side_step(message, names, is_rounded=message.step in rounded)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.recording.close()


def open_side(run: str) -> Side:
    """Open a side: the name of a run or the path of a recording, and after `:rank` the number of a rank (default: 0).

    Raises NothingToConnectError if there is no such run, and RecordingError if its recording cannot be read.
    """
    match = _RANK.match(run)
    name, rank = (match["run"], int(match["rank"])) if match else (run, 0)
    recording = open_recording(_path_of(name))
    try:
        return Side(recording, rank)
    except BaseException:
        recording.close()
        raise


def _path_of(run: str) -> Path:
    path = Path(run)
    if path.is_file() or path.suffix == ".gradscope":
        return path
    for info in list_recordings():
        if info.run == run:
            return info.path
    raise NothingToConnectError(
        f"there is no recording of a run {run!r}; `gradscope ls` lists the runs and the paths of recordings"
    )


def _side_step(message: Step, names: Mapping[int, tuple[str, ...]], *, is_rounded: bool) -> SideStep:
    known = names.get(message.manifest_revision)
    block = unpack_block(message)
    if known is None or (len(block) and int(block.layer.max()) >= len(known)):
        raise RecordingError(
            f"step {message.step} refers to a manifest {message.manifest_revision} that is not recorded"
        )
    return SideStep(message.step, known, block, message.facts or _NO_FACTS, is_rounded)


def check_range(first: int | None, last: int | None) -> None:
    """Raise UsageError for a range of steps that is empty or begins below 0."""
    if (first is not None and first < 0) or (first is not None and last is not None and last < first):
        raise UsageError(f"expected a range of steps from 0 on, got {first} to {last}")
