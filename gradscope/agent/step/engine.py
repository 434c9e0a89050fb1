"""The step engine: hooks in, finished steps out. Everything here runs in the training's own threads.

A step begins where the one before ended, and ends when the optimizer has stepped:

    begin ─▶ forwards ─▶ backwards ─▶ optimizer: before │ step │ after ─▶ end ─▶ begin …

Between two steps, and nowhere else, interventions come into force and it is decided whether the next
step is observed: as a whole, or the layers in the focus alone (a focus step). Only in such steps, or while
an intervention is in force, does the model have a forward hook. A step in which nothing of all this is
to be done is *at rest*, and so are nearly all: it is counted, and its gradients are looked at.
"""

import time
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from gradscope.agent.interventions.apply_forward import ForwardInterventions
from gradscope.agent.interventions.no_effect_warnings import NoEffectWarnings
from gradscope.agent.observation.loss_scale import LossScale
from gradscope.agent.observation.measurement import FinishedStep
from gradscope.agent.observation.pending_steps import PendingSteps
from gradscope.agent.run.faults import Faults
from gradscope.agent.run.settings import Settings
from gradscope.agent.step.forward_hook import ForwardHookInstaller
from gradscope.agent.step.hook_callbacks import HookCallbacks
from gradscope.agent.step.idle_steps import IdleSteps, OnEnd
from gradscope.agent.step.plugins import StepPlugin, StepPlugins
from gradscope.agent.step.step_counter import StepCounter, make_step_counter, sequence_number
from gradscope.agent.step.wakeups import Roll
from gradscope.budget import Sampler
from gradscope.columns import Block
from gradscope.hooks import (
    Closure,
    LayerInfo,
    OptimizerHook,
    has_compiled,
    hidden_from_modes,
)
from gradscope.intervene import Ledger

__all__ = ["StepEngine"]


class StepEngine:
    """Watches one model from `start` to `stop`. It holds the model weakly."""

    def __init__(
        self,
        model: nn.Module,
        settings: Settings,
        *,
        sampler: Sampler,
        ledger: Ledger,
        faults: Faults,
        on_layers: Callable[[Sequence[LayerInfo], int], None],
        on_observed: Callable[[FinishedStep], None],
        on_focus_step: Callable[[FinishedStep], None],
        on_end: OnEnd,
    ) -> None:
        self.has_closure = False
        self._optimizers, self._tally = self._hook(settings)
        self._roll = Roll(self._tally)
        self._sampler = sampler
        idle, scale = NoEffectWarnings(faults), LossScale(settings.scaler)
        self._overlay = ForwardInterventions(ledger, faults, idle, scale.now)
        self._parts = StepPlugins(faults, self._roll)
        self._on_observed, self._on_focus_step, self._on_end = on_observed, on_focus_step, on_end
        self._observing = HookCallbacks(
            model,
            settings,
            overlay=self._overlay,
            idle=idle,
            scale=scale,
            faults=faults,
            on_layers=on_layers,
            look_again=self._look_again,
        )
        self._watched = self._observing.watched
        self._rest = IdleSteps(
            self._tally,
            self._roll,
            sampler,
            self._observing,
            on_end=on_end,
            on_looks=self._parts.looked,
            may_rest=self._may_rest,
        )
        self._hooking = ForwardHookInstaller(self._observing, self._look_again)
        self._delivery = PendingSteps(sampler, self._hand_out)
        self._is_stopped = False
        self._deciding_s = 0.0

    def _hook(self, settings: Settings) -> tuple[OptimizerHook, StepCounter]:
        """Return the hook around optimizers' steps, and the tally that stands before it."""
        given = settings.optimizer
        hook = OptimizerHook(
            lambda: self._watched.parameters(),  # noqa: PLW0108 - there is no model yet
            self._before_optimizer,
            self._after_optimizer,
            given=given,
        )
        tally = make_step_counter(settings.start_step, hook.on_step_begin, hook.on_step_end)
        tally.optimizer = None if given is None else weakref.ref(given)
        return hook, tally

    @property
    def step(self) -> int:
        """The step in progress."""
        return self._tally.step

    def add(self, part: StepPlugin) -> None:
        """Let a part take part in each step that begins from now on."""
        self._parts.add(part)

    def start(self) -> None:
        """Install the hooks and begin the first step."""
        self._hooking.open()
        self._optimizers.install(self._tally.before, self._tally.after)
        with hidden_from_modes():
            self._begin()

    def stop(self) -> None:
        """Take all hooks off, and hand out what is still on its way. A pause ends."""
        self._is_stopped = True  # the training's thread may stand between two steps, and go on
        self._optimizers.remove()
        self._hooking.close()
        self._overlay.close()
        self._watched.abandon()
        with hidden_from_modes():
            self._rest.tell()
            self._delivery.deliver(wait=True)
            self._parts.close()

    def _look_again(self) -> bool:
        """Follow what was changed in the model between two steps; return whether that is done."""
        if self._watched.takes_look():
            with hidden_from_modes():
                self._observing.guarded("following changes of the model", self._follow_modules)
        return not self._watched.wants_looks

    def _follow_modules(self) -> None:
        if self._watched.follow_modules():
            self._optimizers.forget()
            self._overlay.lay(self._watched.plan)
            self._hooking.align()
            self._watched.measurement.begin()

    def _follow_parameters(self) -> None:
        if self._observing.is_focus and self._watched.owns_same_in_focus():
            return
        if self._watched.follow_parameters():
            self._optimizers.forget()

    def modules(self) -> dict[str, nn.Module]:
        """Return the model's modules, by name."""
        return self._watched.plan.modules()

    def stir(self) -> None:
        """Have it seen at the next boundary what was asked for. From any thread."""
        self._roll.stir()

    def optimizers(self) -> list[Optimizer]:
        """Return the model's optimizers: those that have stepped, and the one that was given."""
        return self._optimizers.met()

    def peek(self) -> tuple[tuple[str, ...], Block] | None:
        """Return layers and columns of the step as they stand; None where it is not observed."""
        return self._watched.measurement.peek() if self._observing.is_whole else None

    def focus(self, layers: Sequence[str]) -> None:
        """Measure these layers in focus steps; without layers there are no focus steps. Between two steps."""
        with hidden_from_modes():
            self._observing.guarded("a focus", lambda: self._watched.focus(layers))

    @property
    def is_fresh(self) -> bool:
        """Whether the step in progress has surely not begun to compute, in this thread.

        Autograd numbers the operations it records: an unchanged number means that there were none.
        """
        return sequence_number() == self._tally.began_at

    @property
    def has_only_finite(self) -> bool:
        """Whether all gradients of the optimizer that is about to step are known to be finite."""
        return self._observing.is_whole and self._watched.measurement.has_only_finite

    def settle_now(self) -> None:
        """Let requests take effect at once, where the step in progress has not begun to compute."""
        with hidden_from_modes():
            self._observing.guarded("settling interventions", self._settle)
        self._hooking.align()

    def mark_step(self) -> None:
        """End a step by hand; measure parameters and gradients where no optimizer did."""
        with hidden_from_modes():
            if self._observing.is_on and self._primary() is None:
                self._look_again()
                self._observing.guarded("following changes of the model", self._follow_parameters)
                parameters = self._watched.parameters()
                self._observing.guarded(
                    "parameters", lambda: self._observing.measurement.see_parameters(parameters)
                )
            self._end()

    def _before_optimizer(self, optimizer: Optimizer, closure: Closure | None) -> Closure | None:
        self.has_closure = has_closure = closure is not None
        observing, changes_parameters = self._observing, self._overlay.changes_parameters
        with hidden_from_modes():
            if observing.is_on:
                self._look_again()
                observing.guarded("following changes of the model", self._follow_parameters)
            if changes_parameters and not has_closure:
                self._change_parameters(optimizer)
            if observing.is_on:
                observing.timed(
                    "parameters",
                    lambda: observing.measurement.before_optimizer(optimizer, has_closure=has_closure),
                )
            self._parts.look(self.step, optimizer)
            self._parts.call("before_optimizer", optimizer)
        is_wrapped = has_closure and (observing.is_on or changes_parameters)
        return self._wrapped(closure, optimizer) if closure is not None and is_wrapped else None

    def _change_parameters(self, optimizer: Optimizer) -> None:
        if self._overlay.changes_parameters:
            see = self._observing.measurement.see_arriving_parameters if self._observing.is_on else None
            self._observing.timed(
                "interventions on parameters", lambda: self._overlay.before_optimizer(optimizer, see)
            )

    def before_clip(self, parameters: list[torch.Tensor]) -> bool:
        """Measure gradients that the script is about to clip; return whether any is the model's."""
        if self._observing.is_on:
            self._look_again()
            with hidden_from_modes():
                self._observing.timed(
                    "gradients", lambda: self._observing.measurement.before_clip(parameters)
                )
        return self._watched.measurement.knows(parameters)

    def _wrapped(self, closure: Closure, optimizer: Optimizer) -> Closure:
        """Return a closure that also changes and measures the gradients after each evaluation."""

        def evaluate() -> Any:  # Any: whatever the user's closure returns
            value = closure()
            with hidden_from_modes():
                self._change_parameters(optimizer)
                if self._observing.is_on:
                    self._observing.timed(
                        "parameters", lambda: self._observing.measurement.after_closure(optimizer)
                    )
            return value

        return evaluate

    def _after_optimizer(self, optimizer: Optimizer) -> None:
        with hidden_from_modes():
            if self._observing.is_on:
                self._observing.timed("updates", self._observing.measurement.after_optimizer)
            self._parts.call("after_optimizer", optimizer)
            if self._primary() is None:
                self._tally.optimizer = weakref.ref(optimizer)
            if self._primary() is optimizer:
                self._end()

    def _primary(self) -> Optimizer | None:
        """Return the optimizer whose step ends a step; None while there is none."""
        return None if self._tally.optimizer is None else self._tally.optimizer()

    def _end(self) -> None:
        """End the step in progress and begin the next."""
        if not self._observing.is_on and self._rest.passes():
            return
        observing, step, is_whole = self._observing, self.step, self._observing.is_whole
        if observing.is_on:
            observing.count_in()
        began_s = time.perf_counter()
        step_time_s = began_s - self._tally.began_s
        if observing.is_on:
            observing.guarded("reading the board", lambda: self._harvest(step_time_s))
        observing.guarded("judging a step", self._judge)
        if self._delivery.is_waiting:
            observing.guarded("delivering a step", self._delivery.deliver)
        observing.guarded("ending a step", lambda: self._on_end(step, time.time(), step_time_s))
        self._parts.call("end", step, step_time_s, is_observed=is_whole)
        now_s = time.perf_counter()
        observing.inside_s += now_s - began_s
        self._sampler.record(
            step,
            now_s - self._tally.began_s,
            observing.inside_s,
            was_observed=is_whole,
            was_focus=observing.is_focus,
        )
        self._deciding_s = time.perf_counter() - now_s
        self._tally.step += 1
        self._begin()

    def _may_rest(self) -> bool:
        return self._overlay.is_at_rest and not self._delivery.is_waiting and self._hooking.is_current

    def _begin(self) -> None:
        self._parts.at_boundary(self.step)
        if self._is_stopped:
            return
        observing, sampler, step = self._observing, self._sampler, self.step
        self._tally.began_s = time.perf_counter() - self._deciding_s
        is_focus_due = sampler.is_focus_due(step) and not has_compiled()
        observing.begin(step, is_due=sampler.is_due(step), is_focus_due=is_focus_due)
        observing.guarded("settling interventions", self._settle)
        self._hooking.align()
        if observing.is_on:
            observing.measurement.begin()
        self._parts.begin(step, is_observed=observing.is_whole)
        observing.inside_s = time.perf_counter() - self._tally.began_s
        self._tally.began_at = sequence_number()

    def _settle(self) -> None:
        self._parts.call("before_settle", self.step)
        self._overlay.settle(self.step, self._watched.plan)

    def _harvest(self, step_time_s: float) -> None:
        self._delivery.add(self._observing.measurement.end(self.step, step_time_s))

    def _judge(self) -> None:
        self._overlay.judge(self.step, is_observed=self._observing.is_whole)

    def _hand_out(self, finished: FinishedStep) -> None:
        if finished.is_focus:
            self._on_focus_step(finished)
            return
        self._on_observed(finished)
        self._parts.observed(finished)
