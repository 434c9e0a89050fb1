"""`RunHistory`: the messages of a run, from the hub as far as it has kept them, and from the recording."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias

from gradscope.client import connect, end_of
from gradscope.client.state import RankSteps, RunState
from gradscope.columns import Table
from gradscope.errors import NothingToConnectError
from gradscope.findings import Finding, Verdict, unreported
from gradscope.protocol import (
    Backfill,
    Event,
    Interventions,
    Layer,
    Manifest,
    Message,
    RunInfo,
    Scalars,
    Step,
    unpack_layers,
)
from gradscope.recording import Recording, RecordingInfo, list_recordings, open_recording
from gradscope.recording.schema import SUFFIX
from gradscope.transport import hub_address

__all__ = ["RunHistory", "State", "read_history"]

State: TypeAlias = Literal["live", "ended", "died"]
"""died: killed together with the hub, so nothing reported the end."""

_TIMEOUT_S = 10.0


@dataclass(slots=True)
class RunHistory:
    """The messages of a run. `steps` is the number of steps that have ended, `reason` how the run ended.

    tables: some observed steps with merged ranks, oldest first. scalars: by name and step.
    """

    run: str
    state: State = "live"
    reason: str = ""
    steps: int = 0
    model: str = ""
    layers: tuple[Layer, ...] = ()
    tables: list[Table] = field(default_factory=list)
    scalars: dict[str, dict[int, float]] = field(default_factory=dict)
    events: list[Event] = field(default_factory=list)
    interventions: Interventions | None = None

    @property
    def verdict(self) -> Verdict:
        """The verdict over all findings."""
        found: dict[tuple[str, tuple[str, ...], int | None], Finding] = {}
        checked = None
        for event in self.events:
            if event.finding is not None:
                finding = event.finding
                found[finding.code, finding.layers, finding.found_step] = finding
            if event.checked is not None and (checked is None or event.checked.steps >= checked.steps):
                checked = event.checked
        return Verdict.of(self.run, checked or unreported(self.steps), found.values())

    @property
    def failures(self) -> list[Event]:
        """The warnings and errors that are not findings, each once, such as the exception that ended the run."""
        found = (e for e in self.events if e.finding is None and e.level != "info")
        return list({(e.time_s, e.rank, e.text): e for e in found}.values())


def read_history(run: str, *, around: int | None = None, tables: int = 0) -> RunHistory:
    """Read what is known about a run. `run` is the name of a run or the path of a recording.

    around: the number of a step. tables: how many observed steps to read: the one nearest to `around` (default: the
        newest) and those before it.

    Of a run on another machine this is what its hub has kept: recordings here are of other runs.

    Raises NothingToConnectError if there is neither a run nor a recording of this name, and RecordingError if
    the recording cannot be read.
    """
    if run.endswith(SUFFIX) or Path(run).is_file():
        with open_recording(run) as recording:
            return _assemble(
                _of_recording(recording.info), _recorded(recording, around, tables), around, tables
            )
    infos = [] if hub_address().is_remote else list_recordings()
    info = next((each for each in infos if each.run == run and not each.problem), None)
    messages: list[Message] = []
    if info is not None:
        with open_recording(info.path) as recording:
            messages = _recorded(recording, around, tables)
            info = recording.info
    try:
        history, sent = _ask_hub(run)
    except NothingToConnectError:
        if info is None:
            raise
        history, sent = _of_recording(info), []
    return _assemble(history, [*messages, *sent], around, tables)


def _of_recording(info: RecordingInfo) -> RunHistory:
    steps = 0 if info.last_step is None else info.last_step + 1
    return RunHistory(info.run, "died" if info.ended_s is None else "ended", info.reason, steps)


def _recorded(recording: Recording, around: int | None, tables: int) -> list[Message]:
    messages: list[Message] = [*recording.manifests(), *recording.events()]
    if tables:
        messages += [*recording.scalars(), *recording.interventions()]
        messages += recording.steps_near(around, tables)
    return [*messages, *(_loss_of(recording, what) for what in recording.lost)]


def _loss_of(recording: Recording, what: str) -> Event:
    """Return an event that says what a damaged recording has lost."""
    text = f"the recording {recording.path} is damaged; lost: {what}"
    return Event(
        run="", rank=0, step=0, time_s=0.0, level="warning", code="recording-damaged", text=text
    )


def _ask_hub(run: str) -> tuple[RunHistory, list[Message]]:
    messages: list[Message] = []
    with connect(run, want="observe", name="the command line") as client:
        client.watch(run)
        while batch := client.receive(_TIMEOUT_S):
            messages += batch
            if any(isinstance(message, Backfill) and message.state == "end" for message in batch):
                break
        ranks = [info for info in client.runs() if info.run == run]
    return _of_ranks(run, ranks), messages


def _of_ranks(run: str, ranks: list[RunInfo]) -> RunHistory:
    steps = max((info.step for info in ranks if info.step is not None), default=-1) + 1
    is_live = any(info.is_live for info in ranks)
    return RunHistory(run, "live" if is_live else "ended", end_of(ranks).reason if ranks else "", steps)


def _assemble(
    history: RunHistory, messages: Iterable[Message], around: int | None, tables: int
) -> RunHistory:
    """Add messages to a history, older ones first. A step that is there twice is the same."""
    ranks = RunState()
    ranks.watch(history.run)
    steps: dict[int, RankSteps] = {}
    for message in messages:
        if isinstance(message, Manifest):
            ranks.store_message(message)
        elif isinstance(message, Event):
            history.events.append(message)
        elif isinstance(message, Scalars):
            _add_scalars(history.scalars, message)
        elif isinstance(message, Interventions) and message.rank == 0:
            history.interventions = message
        elif isinstance(message, Step) and message.layers == "all":
            steps.setdefault(message.step, {})[message.rank] = message
    manifest = ranks.manifest(0)
    if manifest is not None:
        history.model, history.layers = manifest.model, tuple(unpack_layers(manifest))
    found = [ranks.table(steps[step]) for step in _chosen(steps, around, tables)]
    history.tables = [table for table in found if table is not None]
    return history


def _add_scalars(scalars: dict[str, dict[int, float]], message: Scalars) -> None:
    """Add the scalars of rank 0: with several ranks each one logs its own."""
    if message.rank:
        return
    for name, values in message.values.items():
        by_step = scalars.setdefault(name, {})
        by_step.update((s, v) for s, v in zip(message.steps, values, strict=False) if v is not None)


def _chosen(steps: dict[int, RankSteps], around: int | None, tables: int) -> list[int]:
    """Return the newest steps until `around`, at most `tables`, among the steps that most ranks have reported."""
    most = max(map(len, steps.values()), default=0)
    whole = sorted(step for step, of_ranks in steps.items() if len(of_ranks) == most)
    if not whole or not tables:
        return []
    last = whole[-1] if around is None else min(whole, key=lambda step: abs(step - around))
    return [step for step in whole if step <= last][-tables:]
