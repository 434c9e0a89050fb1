"""Compares the first steps of a resumed run with its earlier recording, and makes an event of what it finds.

A run is resumed if its agent was attached with a `start_step`. The recording is read in a thread of its own: neither
the training nor the hub waits for it.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from gradscope.errors import GradscopeError
from gradscope.hub.history import Parts
from gradscope.protocol import Event, Hello, Manifest, Message, Scalars, Step, decode, unpack_layers

if TYPE_CHECKING:
    from gradscope.recording import Recording
    from gradscope.rules import EarlierRun, StepOfRun

__all__ = ["Resumptions"]

_STEPS = 3
"""The number of observed steps, and of losses, that are compared."""

_LOSSES_TIMEOUT_S = 2.0
"""Losses arrive a little later than the steps, and not all scripts log them."""


@dataclass(slots=True)
class _Run:
    """The first messages of a resumed run."""

    hello: Hello
    start_step: int = 0
    names: tuple[str, ...] = ()
    steps: list[Step] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    has_losses: threading.Event = field(default_factory=threading.Event)
    is_checked: bool = False
    """No more steps are needed: the check runs or has run, or the run was not resumed."""


class Resumptions:
    """Compares rank 0 of each resumed run once with its recording. `notify` is called if `take_events` has events."""

    def __init__(self, notify: Callable[[], None]) -> None:
        self._notify = notify
        self._runs: dict[str, _Run] = {}
        self._found: deque[Event] = deque()

    def add(
        self, hello: Hello, message: Manifest | Step | Scalars, parts: Parts, recording: str
    ) -> None:
        """Add a message of an agent. `recording`: the path of the run's own recording; empty if there is none."""
        if hello.rank != 0:
            return
        run = self._runs.setdefault(hello.run, _Run(hello))
        if run.hello.started_s != hello.started_s or run.hello.pid != hello.pid:
            run = self._runs[hello.run] = _Run(hello)
        if isinstance(message, Scalars):
            _add_losses(run, message)
        elif not run.is_checked:
            with suppress(GradscopeError):  # a faulty agent
                self._add_whole(run, decode(parts))
            if len(run.steps) == _STEPS:
                run.is_checked = True
                threading.Thread(
                    target=self._check, args=(run, recording), name="gradscope-hub-resume", daemon=True
                ).start()

    def end(self, run: str) -> None:
        """Forget a run."""
        self._runs.pop(run, None)

    def take_events(self) -> Iterator[Event]:
        """Yield the events since the last call."""
        while self._found:
            yield self._found.popleft()

    def _add_whole(self, run: _Run, message: Message) -> None:
        if isinstance(message, Manifest):
            run.names = tuple(layer.name for layer in unpack_layers(message))
        elif isinstance(message, Step):
            facts = message.facts
            is_late = not run.steps and message.seq > 1
            if is_late or facts is None or facts.start_step == 0:
                run.is_checked = True  # not resumed, or the hub has begun later than the run
                return
            run.start_step = facts.start_step
            run.steps.append(message)

    def _check(self, run: _Run, recording: str) -> None:
        from gradscope.recording import open_recording  # noqa: PLC0415 - loads NumPy and sqlite3
        from gradscope.rules import FirstSteps, find_resume_mismatch  # noqa: PLC0415 - as above

        run.has_losses.wait(_LOSSES_TIMEOUT_S)
        try:
            path = _earlier(run.hello, Path(recording).parent if recording else None)
            if path is None:
                return
            with open_recording(path) as opened:
                earlier = _read(opened)
            steps = [_step_of(message, run.names) for message in run.steps]
            found = find_resume_mismatch(
                FirstSteps(run.start_step, steps, run.losses[:_STEPS]), earlier
            )
        except (GradscopeError, OSError, KeyError, IndexError, ValueError):
            return  # a damaged recording, or a faulty agent: there is nothing to compare with
        if found is not None:
            self._found.append(
                Event(
                    run=run.hello.run,
                    rank=0,
                    step=run.steps[-1].step,
                    time_s=time.time(),
                    level="info" if found.severity == "hint" else found.severity,
                    code=f"finding.{found.code}",
                    text=found.message,
                    finding=found,
                )
            )
            self._notify()


def _add_losses(run: _Run, message: Scalars) -> None:
    if len(run.losses) < _STEPS:
        run.losses += [loss for loss in message.values.get("loss", ()) if loss is not None]
        if len(run.losses) >= _STEPS:
            run.has_losses.set()


def _earlier(hello: Hello, directory: Path | None) -> Path | None:
    """Return the newest recording of an earlier process of this run; None if there is none.

    directory: where to search; None: the default directory. The run's own recording is known by its process and not by
        its path, because the recorder takes another path if an earlier run of the same name has this one.
    """
    from gradscope.recording import list_recordings, open_recording  # noqa: PLC0415 - as above

    for info in list_recordings(directory):  # newest first
        if info.run == hello.run and info.steps and info.started_s < hello.started_s:
            with open_recording(info.path) as recording:
                if not recording.has_process(hello.rank, hello.pid, hello.started_s):
                    return info.path
    return None


def _read(recording: "Recording") -> "EarlierRun":
    from gradscope.rules import EarlierRun  # noqa: PLC0415 - as above

    names = {
        each.revision: tuple(layer.name for layer in unpack_layers(each))
        for each in recording.manifests()
        if each.rank == 0
    }
    steps = [
        _step_of(message, names[message.manifest_revision])
        for message in recording.steps()
        if message.rank == 0 and message.layers == "all" and message.manifest_revision in names
    ]
    losses: dict[int, float] = {}
    rates = {each.step: each.learning_rate for each in steps if each.learning_rate is not None}
    for scalars in recording.scalars():
        if scalars.rank == 0:
            for name, by_step in (("loss", losses), ("optimizer_lr", rates)):
                values = zip(scalars.steps, scalars.values.get(name, ()), strict=False)
                by_step.update((step, value) for step, value in values if value is not None)
    return EarlierRun(steps, losses, rates, recording.info.last_step or 0)


def _step_of(message: Step, names: tuple[str, ...]) -> "StepOfRun":
    from gradscope.columns import INPUT_KIND  # noqa: PLC0415 - loads NumPy
    from gradscope.protocol.bodies import unpack_block  # noqa: PLC0415 - as above
    from gradscope.rules import StepOfRun  # noqa: PLC0415 - as above

    block = unpack_block(message)
    numbers: dict[str, dict[str, tuple[float, float, int | None]]] = {"param": {}, "update": {}}
    inputs: list[int] = []
    norms, sums = block.derive("norm"), block.column("sum")
    for row in range(len(block)):
        kind, _, name = block.kinds[int(block.kind[row])].partition(".")
        digest = int(block.digest[row]) or None if block.digest is not None else None
        if kind == INPUT_KIND and digest is not None:
            inputs.append(digest)
        elif kind in numbers and name:
            full = f"{names[int(block.layer[row])]}.{name}"
            numbers[kind][full] = float(sums[row]), float(norms[row]), digest
    facts = message.facts
    return StepOfRun(
        message.step,
        numbers["param"],
        numbers["update"],
        tuple(inputs),
        None if facts is None else facts.hyperparameters.get("lr"),
        None if facts is None else facts.optimizer_state,
    )
