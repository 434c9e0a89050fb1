"""`Scope`: gradscope's presence in one training process, and a person's handle on it."""

import logging
import time
import weakref
from collections.abc import Callable, Sequence
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Self

import torch
from torch import nn
from torch.amp.grad_scaler import GradScaler
from torch.optim import Optimizer

from gradscope.agent.changes import Changes
from gradscope.agent.control import Control
from gradscope.agent.engine import StepEngine
from gradscope.agent.faults import Faults
from gradscope.agent.frames import interventions_message, manifest_message, step_message
from gradscope.agent.identity import hello_of
from gradscope.agent.measurement import FinishedStep
from gradscope.agent.publisher import Publisher
from gradscope.agent.scalars import ScalarLog
from gradscope.agent.uncaught import ExceptHook, account_of
from gradscope.columns import Table
from gradscope.errors import NotMeasuredError, UsageError
from gradscope.hooks import LayerInfo, LayerPatterns, layers_of
from gradscope.intervene import Ledger
from gradscope.observe import Sampler
from gradscope.protocol import Ack, Event, Message

if TYPE_CHECKING:
    from gradscope.doctor import Report

__all__ = ["Scope"]

_log = logging.getLogger("gradscope")


class Scope(Changes):
    """gradscope on one model, from `attach` to `detach`. Also a context manager.

    It holds the model weakly and ends when the model goes. But for `examine`, all methods may be called
    from any thread, and none waits for the device, the link or a viewer.
    """

    _latest: FinishedStep | None = None
    _sequence = 0
    _publisher: Publisher | None = None

    def __init__(
        self,
        model: nn.Module,
        *,
        layers: LayerPatterns | None,
        optimizer: Optimizer | None,
        sampler: Sampler,
        run: str,
        record: str | None,
        endpoint: str | None,
        has_hub: bool,
        scaler: GradScaler | None,
        is_full: bool,
        is_controllable: bool,
        start_step: int,
        is_inert: bool,
    ) -> None:
        self.run = run
        self._hello = hello_of(run, record)
        self._names: list[str] = []
        self._model = weakref.ref(model)
        self._scalars = ScalarLog()
        self._is_off = is_inert
        self._when_detached: list[Callable[[], object]] = []
        self._faults = Faults(lambda code, text: self._tell("warning", code, text))
        self._ledger = Ledger(rank=self._hello.rank, on_change=self._announce_interventions)
        self._engine = StepEngine(
            model,
            find_layers=lambda model: layers_of(model, layers),
            optimizer=optimizer,
            sampler=sampler,
            ledger=self._ledger,
            faults=self._faults,
            scaler=scaler,
            is_full=is_full,
            start_step=start_step,
            on_layers=self._on_layers,
            on_observed=self._on_observed,
            on_end=self._on_end,
        )
        self._control = Control(
            self._ledger, lambda: self._names, self._answer, is_allowed=is_controllable
        )
        if not is_inert:
            self._start(endpoint, has_hub=has_hub)

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
        return self._watched_count

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
        return Table(self._latest.step, self._latest.names, self._latest.block)

    def log(self, **values: float | torch.Tensor) -> None:
        """Show numbers of the step in progress, as `scope.log(loss=loss, lr=3e-4)`.

        Tensors of one element are taken without waiting for the device. Raises UsageError for others.
        """
        self._scalars.log(values)

    def mark_step(self) -> None:
        """End a step by hand, in a loop without an optimizer."""
        if not self._is_off:
            self._engine.mark_step()

    def examine(self, *inputs: object, **keywords: object) -> "list[Report]":
        """Examine the custom autograd Functions that the model uses, with what it calls them with.

        Give what the training passes to the model. A copy of it runs on that, outside of the training,
        which stays bitwise the same; call it from the training's own thread. A Function that only the
        loss uses, outside of the model, is not among them. See `gradscope.doctor.examine_model`.

        Raises UsageError where the model is gone, cannot be copied, or cannot run on the inputs.
        """
        from gradscope.doctor import examine_model  # noqa: PLC0415 - seldom wanted, and slow to load

        model = self._model()
        if model is None:
            raise UsageError(f"the model of run {self.run!r} is gone; nothing is left to be examined")
        return examine_model(model, inputs, keywords)

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

    def _start(self, endpoint: str | None, *, has_hub: bool) -> None:
        if has_hub:
            self._publisher = Publisher(
                endpoint,
                self._hello,
                announce=self._announcement,
                on_command=self._control.handle,
                on_viewers=self._ledger.see_viewers,
            )
            self._publisher.start()
        self._engine.start()
        except_hook = ExceptHook(self._on_exception)
        except_hook.install()
        self.when_detached(except_hook.remove)

    def _settle_if_fresh(self) -> None:
        """Let a script's request take effect in this step where it has not begun to compute."""
        if not self._is_off and self._engine.is_fresh:
            self._engine.settle_now()

    def _on_layers(self, layers: Sequence[LayerInfo], revision: int) -> None:
        self._names = [layer.name for layer in layers]
        self._watched_count = sum(layer.is_watched for layer in layers)
        model_type = type(self._model()).__name__
        manifest = manifest_message(self.run, self._hello.rank, revision, model_type, layers)
        self._manifest = manifest
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
            self._publisher.put(make)

    def _on_end(self, step: int, step_time_s: float) -> None:
        self._scalars.end_step(step, time.time(), step_time_s)
        rows = self._scalars.ready()
        if self._publisher is not None:
            for row in rows:
                self._publisher.put_scalars(*row)

    def _announce_interventions(self) -> None:
        if self._publisher is not None:
            self._publisher.put_now(self._interventions)

    def _interventions(self) -> Message:
        entries, revision = self._ledger.entries(), self._ledger.revision
        return interventions_message(self.run, self._hello.rank, revision, self.step, entries)

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
