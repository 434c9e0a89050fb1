"""`RunContext`: the state that all parts of one attached run share."""

import logging
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

from torch import nn

from gradscope.agent.link.messages import state_of
from gradscope.agent.link.publisher import NullPublisher, Publisher
from gradscope.agent.run.environment import make_environment
from gradscope.agent.run.faults import Faults
from gradscope.agent.run.identity import make_hello
from gradscope.agent.run.settings import Settings
from gradscope.agent.run.step_counter import make_step_counter
from gradscope.budget import Sampler
from gradscope.findings import Finding
from gradscope.intervene import AuditEntry, AuditLog, Ledger
from gradscope.protocol import (
    BreakpointState,
    ChangeInfo,
    Event,
    Interventions,
    Manifest,
    Message,
    PauseState,
    RuleState,
)

__all__ = ["Hold", "Level", "RunContext"]

_log = logging.getLogger("gradscope")

Level: TypeAlias = Literal["info", "warning", "error"]


@dataclass(frozen=True, slots=True)
class Hold:
    """A pause in progress: training is held before `step`, until the monotonic time `ends_s`."""

    step: int
    ends_s: float
    set_by: str
    reason: str

    def state(self) -> PauseState:
        """Return the hold as viewers receive it, with the remaining seconds."""
        left_s = max(0.0, self.ends_s - time.monotonic())
        return PauseState(self.step, left_s, self.set_by, self.reason)


class RunContext:
    """The state that all parts of one run share. It is created first; each plugin receives it.

    Attributes:
        settings: the arguments of `attach`.
        hello: the identity of this process: run, rank, number of ranks.
        environment: versions, devices, command line and flags of torch, for the recording.
        sampler: chooses the observed steps.
        counter: counts the steps.
        publisher: sends messages to the hub; without a hub, drops them.
        faults: counts errors inside gradscope.
        ledger: the interventions of the run.
        manifest: the newest description of the model; None until the engine has created one.
        hold: the pause in progress; None if training is not held. Written by the pause.
        breakpoints: the breakpoints that are set. Written by the breakpoints.
        rules: the rules that the script and viewers have set. Written by the set rules.
        scaler_skipped_step: the newest step in which a GradScaler has skipped; -1 if none.
        reported_codes, codes_of_rules: the codes of the findings so far, of the finding monitor and of
            the rules, which write them.
    """

    def __init__(self, model: nn.Module, settings: Settings, sampler: Sampler) -> None:
        self._model = weakref.ref(model)
        self.settings = settings
        self.sampler = sampler
        self.hello = make_hello(settings.run, settings.recorded_at)
        self.environment = make_environment(self.hello.run, self.hello.rank)
        self.counter = make_step_counter(settings.start_step)
        self.publisher = (
            Publisher(settings.endpoint, self.hello) if settings.has_hub else NullPublisher()
        )
        self.faults = Faults(lambda code, text: self.event("warning", code, text))
        self.ledger = Ledger(
            rank=self.hello.rank,
            on_request=self.plan_again,
            on_change=self.publish_interventions,
            history=AuditLog(self._report_change),
        )
        self.manifest: Manifest | None = None
        self.hold: Hold | None = None
        self.breakpoints: tuple[BreakpointState, ...] = ()
        self.rules: tuple[RuleState, ...] = ()
        self.scaler_skipped_step = -1
        self.reported_codes: set[str] = set()
        self.codes_of_rules: set[str] = set()
        self._on_finding: list[Callable[[Finding], object]] = []
        self._passed_on: set[tuple[str, tuple[str, ...]]] = set()

    def model(self) -> nn.Module | None:
        """Return the model; None if it was garbage-collected."""
        return self._model()

    def on_finding(self, callback: Callable[[Finding], object]) -> None:
        """Call a function with each new finding, in the training thread."""
        self._on_finding.append(callback)

    def pass_on(self, finding: Finding) -> None:
        """Call the functions of `on_finding`, once for each code and its layers. Their errors are reported."""
        key = finding.code, finding.layers
        if key in self._passed_on:
            return
        self._passed_on.add(key)
        for callback in self._on_finding:
            try:
                callback(finding)
            except Exception as error:  # noqa: BLE001 - a callback must not stop the training
                self.faults.report("a function of on_finding", error, "The finding was reported.")

    def plan_again(self) -> None:
        """Ask all plugins for their next step again, before this step ends. Thread-safe."""
        self.counter.must_plan = True

    def event(self, level: Level, code: str, text: str) -> None:
        """Send an event to the viewers and the recording. Thread-safe."""
        self.publisher.put_and_send(lambda: self._event(level, code, text))

    def publish_interventions(self) -> None:
        """Send the interventions, the pause, the breakpoints and the set rules to the viewers."""
        self.publisher.put_and_send(self._interventions)

    def publish_manifest(self, manifest: Manifest) -> None:
        """Send a description of the model to the viewers; the first one is part of `announcement`."""
        is_first, self.manifest = self.manifest is None, manifest
        if not is_first:
            self.publisher.put(lambda: manifest)

    def announcement(self) -> list[Message]:
        """Return the messages that a new hub must receive first."""
        manifest: list[Message] = [] if self.manifest is None else [self.manifest]
        return [self.environment, *manifest, self._interventions()]

    def _event(self, level: Level, code: str, text: str, change: ChangeInfo | None = None) -> Event:
        return Event(
            run=self.hello.run,
            rank=self.hello.rank,
            step=self.counter.step,
            time_s=time.time(),
            level=level,
            code=code,
            text=text,
            change=change,
        )

    def _interventions(self) -> Interventions:
        hold = self.hold
        return Interventions(
            run=self.hello.run,
            rank=self.hello.rank,
            revision=self.ledger.revision,
            step=self.counter.step,
            entries=tuple(state_of(entry) for entry in self.ledger.entries()),
            pause=None if hold is None else hold.state(),
            breakpoints=self.breakpoints,
            rules=self.rules,
        )

    def _report_change(self, entry: AuditEntry) -> None:
        """Report a change of the interventions; log a failed intervention in the script too."""
        has_failed = entry.what == "failed"
        if has_failed:
            _log.warning("gradscope: %s", entry)
        level: Level = "warning" if has_failed else "info"
        change = ChangeInfo(entry.what, entry.id, entry.text, entry.step, entry.by, entry.origin)
        code = f"intervention.{entry.what}"
        self.publisher.put_and_send(lambda: self._event(level, code, str(entry), change))
