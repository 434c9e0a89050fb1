"""`Scope`: gradscope's presence in one training process, and a person's handle on it."""

import logging
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Self

import torch
from torch import nn

from gradscope.agent.attending import Attending
from gradscope.agent.changes import Changes
from gradscope.agent.commands.dispatcher import CommandDispatcher
from gradscope.agent.commands.intervention_commands import Modules
from gradscope.agent.focusing import Focusing
from gradscope.agent.inspection.custom_functions import FunctionTracker
from gradscope.agent.link.crash_report import CrashReporter, account_of
from gradscope.agent.link.messages import (
    interventions_message,
    manifest_message,
    step_message,
    with_actions,
)
from gradscope.agent.link.publisher import Publisher
from gradscope.agent.link.scalars import ScalarLog
from gradscope.agent.looking import Looking
from gradscope.agent.measured import Measured
from gradscope.agent.observation.clipping import ClippingPlugin
from gradscope.agent.observation.measurement import FinishedStep
from gradscope.agent.run.faults import Faults
from gradscope.agent.run.identity import hello_of
from gradscope.agent.run.settings import Settings
from gradscope.agent.step.engine import StepEngine
from gradscope.budget import Sampler
from gradscope.columns import Table
from gradscope.errors import NotMeasuredError, UsageError
from gradscope.hooks import LayerInfo
from gradscope.intervene import AuditLog, Ledger
from gradscope.protocol import Ack, Event, Message

if TYPE_CHECKING:
    from gradscope.doctor import Report

__all__ = ["Scope"]

_log = logging.getLogger("gradscope")


class Scope(Changes, Measured, Attending, Looking, Focusing):
    """gradscope on one model, from `attach` to `detach`. Also a context manager.

    It holds the model weakly and ends when the model goes. But for `examine`, all methods may be called
    from any thread, and none waits for the device, the link or a viewer.
    """

    _latest: FinishedStep | None = None
    _sequence = 0
    _publisher: Publisher | None = None

    def __init__(self, model: nn.Module, settings: Settings, sampler: Sampler) -> None:
        self.run = settings.run
        self._hello = hello_of(settings.run, settings.recorded_at)
        self._names: list[str] = []
        self._model = weakref.ref(model)
        self._scalars = ScalarLog()
        self._is_off = settings.is_inert
        self._when_detached: list[Callable[[], object]] = []
        self._faults = Faults(lambda code, text: self._tell("warning", code, text))
        self._ledger = Ledger(
            rank=self._hello.rank,
            on_request=self._note_request,
            on_change=self._announce_interventions,
            on_failure=lambda entry, _reason: self._control.request("remove", target=entry.id),
            history=AuditLog(self._tell_deed),
        )
        self._resources = self._make_resources(sampler, settings)
        self._engine = StepEngine(
            model,
            settings,
            sampler=sampler,
            ledger=self._ledger,
            faults=self._faults,
            on_layers=self._on_layers,
            on_observed=self._on_observed,
            on_focus_step=self._on_focus_step,
            on_end=self._on_end,
        )
        self._control = CommandDispatcher(
            self._hello,
            self._ledger,
            self._modules,
            self._answer,
            settle=self._engine.settle_now,
            faults=self._faults,
            is_allowed=settings.is_controllable,
        )
        self._add_parts(model, sampler)
        if not settings.is_inert:
            self._start(settings)

    @property
    def rank(self) -> int:
        """This process's rank; 0 outside of a distributed job."""
        return self._hello.rank

    @property
    def is_detached(self) -> bool:
        """Whether it is over: detached, or made inert by GRADSCOPE=0."""
        return self._is_off

    @property
    def step(self) -> int:
        """The index of the step in progress, which is the number of optimizer steps completed."""
        return self._engine.step

    @property
    def watched_count(self) -> int:
        """The number of layers that are watched."""
        return len(self._watched_names)

    @property
    def measured_by(self) -> str:
        """Which pass reduces the model's tensors, and why it is not a quicker one."""
        return self._manifest.measured_by

    @property
    def endpoint(self) -> str | None:
        """The directory of the hub's sockets; None while there is no hub."""
        address = self._publisher.address if self._publisher is not None else None
        return str(address.directory) if address is not None else None

    @property
    def faults(self) -> dict[str, int]:
        """What went wrong inside gradscope, by part: how often."""
        return self._faults.counts

    def latest(self) -> Table:
        """Return the newest observed step. Raises NotMeasuredError while there is none."""
        if self._latest is None:
            raise NotMeasuredError(
                "no step has been observed yet: a step ends when an optimizer of the model steps, or "
                "with scope.mark_step()"
            )
        return self._latest.table(self.rank)

    def log(self, **values: float | torch.Tensor) -> None:
        """Show numbers of the step in progress, as `scope.log(loss=loss, lr=3e-4)`.

        Tensors of one element are taken without waiting for the device. Raises UsageError for others.
        """
        self._log(values)
        self._met.on_logged(values.values())

    def mark_step(self) -> None:
        """End a step by hand, in a loop without an optimizer."""
        if not self._is_off:
            self._engine.mark_step()

    def examine(self, *inputs: object, **keywords: object) -> "list[Report]":
        """Examine the custom autograd Functions that the model uses, with what it calls them with.

        Give what the training passes to the model; or nothing, for what it was called with in the
        second observed step, or in the next one to begin after the last such call. A copy of the model
        runs on that, outside of the training, which stays bitwise the same; call it from the training's
        own thread. See `gradscope.doctor.examine_model`.

        Raises UsageError where the model is gone, cannot be copied, cannot run on the inputs, or where
        none are given and none are known.
        """
        from gradscope.doctor import examine_model, examine_step_functions  # noqa: PLC0415 - slow to load

        model = self._model()
        if model is None:
            raise UsageError(f"the model of run {self.run!r} is gone; nothing is left to be examined")
        if inputs or keywords:
            return examine_model(model, inputs, keywords)
        met, arguments = self._met.tracked()
        self._met.request()
        return examine_step_functions(model, met.step, met.inside, met.outside, arguments)

    def detach(self) -> None:
        """Take everything off the model and end the link. Nothing stays. May be called again."""
        if self._is_off:
            return
        self._is_off = True
        self._engine.stop()
        if self._publisher is not None:
            self._publisher.stop()
        while self._when_detached:
            self._when_detached.pop()()

    def when_detached(self, callback: Callable[[], object]) -> None:
        """Have a callback called, once, at the end of `detach`."""
        self._when_detached.append(callback)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None and not self._is_off:
            self._on_exception(error)
        self.detach()

    def __repr__(self) -> str:
        state = "detached" if self._is_off else f"at step {self.step}"
        return f"<Scope of run {self.run!r}: {len(self._names)} modules, {state}>"

    def _add_parts(self, model: nn.Module, sampler: Sampler) -> None:
        """Add to the engine what takes part in each step, in the order in which it is to be called."""
        self._control.add_to(self._engine.add, sampler)
        self._attend(sampler, self._model)
        self._look(self._model)
        self._focus_on(sampler)
        self._engine.add(self._resources)
        self._control.register({"measure": self._resources.prepare_measure})
        self._met = FunctionTracker(model, self._faults)
        self._engine.add(self._met)

    def _start(self, settings: Settings) -> None:
        if settings.has_hub:
            self._publisher = Publisher(
                settings.endpoint,
                self._hello,
                announce=self._announcement,
                on_command=self._control.handle,
                on_viewers=self._see_viewers,
            )
            self._publisher.start()
        clipping = ClippingPlugin(self._engine.before_clip, self._log, self._faults)
        self._engine.add(clipping)
        self._engine.start()
        except_hook = CrashReporter(self._on_exception)
        except_hook.install()
        self.when_detached(except_hook.remove)

    def _modules(self) -> Modules:
        return self._engine.modules()

    def _settle_if_fresh(self) -> None:
        """Let a script's request take effect in this step where it has not begun to compute."""
        if not self._is_off and self._engine.is_fresh:
            self._engine.settle_now()

    def _on_layers(self, layers: Sequence[LayerInfo], revision: int) -> None:
        self._names = [layer.name for layer in layers]
        self._watched_names = tuple(layer.name for layer in layers if layer.is_watched)
        self._resources.set_layers(layers, revision)
        model_type = type(self._model()).__name__
        manifest = manifest_message(self.run, self._hello.rank, revision, model_type, layers)
        self._manifest = manifest
        if self._publisher is not None:
            self._publisher.put(lambda: manifest)

    def announce_actions(self) -> None:
        """Tell viewers anew which interventions there are."""
        manifest = self._manifest = with_actions(self._manifest)
        if self._publisher is not None:
            self._publisher.put(lambda: manifest)

    def _on_observed(self, finished: FinishedStep) -> None:
        self._latest = finished
        if self._publisher is not None:
            self._sequence += 1
            make = partial(
                step_message,
                self.run,
                self._hello.rank,
                self._sequence,
                self._publisher.dropped,
                finished,
            )
            self._publisher.put(make, finished.block.nbytes)

    def _log(self, values: Mapping[str, float | torch.Tensor]) -> None:
        self._scalars.log(values, self.step)
        self._engine.stir()

    def _on_end(self, step: int, time_s: float, step_time_s: float) -> None:
        if self._scalars.is_empty and not self._breakpoints.are_set:  # as in nearly all steps
            if self._publisher is not None:
                self._publisher.put_scalars(step, time_s, {"step_time_s": step_time_s})
            return
        self._scalars.end_step(step, time_s, step_time_s)
        rows = self._scalars.ready()
        for row in rows:
            self._see_scalars(row[0], row[2])
            if self._publisher is not None:
                self._publisher.put_scalars(*row)

    def _note_request(self) -> None:
        self._way_back.wake()
        self._engine.stir()

    def _announce_interventions(self) -> None:
        if self._publisher is not None:
            self._publisher.put_now(self._interventions)

    def _interventions(self) -> Message:
        entries, revision = self._ledger.entries(), self._ledger.revision
        return interventions_message(
            self.run,
            self._hello.rank,
            revision,
            self.step,
            entries,
            pause=self._gate.state,
            breakpoints=self.breakpoints,
        )

    def _announcement(self) -> list[Message]:
        return [self._manifest, self._interventions()]

    def _answer(self, ack: Ack) -> None:
        if self._publisher is not None:
            self._publisher.put_now(lambda: ack)

    def _on_exception(self, error: BaseException) -> None:
        """Tell of an exception that ends the run; it goes on as it is."""
        if not isinstance(error, Exception):
            return
        try:
            if self._tell_exhaustion(error):
                return
            account = account_of(error, self._model())
            if account.is_known:
                _log.error("gradscope: %s", account.text)
            self._tell("error", account.code, account.text)
        except Exception as fault:  # noqa: BLE001 - ours must not hide the training's
            self._faults.report("naming an exception", fault, "The exception goes on as it is.")

    def _tell(self, level: str, code: str, text: str) -> None:
        if self._publisher is not None:
            self._publisher.put_now(partial(self._event, level, code, text))

    def _event(self, level: str, code: str, text: str) -> Message:
        return Event(
            run=self.run,
            rank=self._hello.rank,
            step=self.step,
            time_s=time.time(),
            level=level,  # type: ignore[arg-type]  # one of three words, ours
            code=code,
            text=text,
        )
