"""`StepEngine`: begins and ends steps, and calls the plugins, in the threads of the training.

A step begins when the previous one ends. It ends when the optimizers have stepped (see `step_end.py`):

    begin ─▶ forwards ─▶ backwards ─▶ optimizer: before │ step │ after ─▶ end ─▶ begin …

Interventions take effect only between two steps. The engine also decides there whether the next step is
observed: all layers, or only the layers in the focus. The model has a forward hook only in such steps,
or while an intervention is in force. Most steps are idle: the step counter counts them (see
`idle_steps.py`).
"""

import threading
import time
import weakref
from collections.abc import Sequence
from typing import Any

import torch
from torch.optim import Optimizer

from gradscope.agent.interventions.apply_forward import ForwardInterventions
from gradscope.agent.interventions.no_effect_warnings import NoEffectWarnings
from gradscope.agent.observation.guard import ObservingGuard
from gradscope.agent.observation.loss_scale import LossScale
from gradscope.agent.observation.model_tracker import ModelTracker
from gradscope.agent.observation.observed_step import PendingSteps
from gradscope.agent.run.context import RunContext
from gradscope.agent.run.step_counter import sequence_number
from gradscope.agent.step.idle_steps import IdleSteps
from gradscope.agent.step.model_hooks import ModelHooks
from gradscope.agent.step.no_step_check import NoStepCheck
from gradscope.agent.step.plugins import StepPlugin, StepPlugins
from gradscope.agent.step.step_end import StepEnd
from gradscope.columns import Block
from gradscope.hooks import (
    Closure,
    NextForwardHook,
    OptimizerHook,
    has_compiled,
    hidden_from_modes,
    is_transforming,
    parameters_of,
)

__all__ = ["StepEngine"]


class StepEngine:
    """Observes one model, between `start` and `stop`.

    Attributes:
        tracker: the model's layers.
        has_closure: whether the optimizer that is stepping computes its gradients in a closure.
    """

    def __init__(self, run: RunContext) -> None:
        self._run = run
        self._counter, self._sampler = run.counter, run.sampler
        self._guard = ObservingGuard(run.faults)
        scale, warnings = LossScale(run.settings.scaler), NoEffectWarnings(run.faults)
        self.tracker = ModelTracker(run, self._guard, scale)
        self._interventions = ForwardInterventions(run, warnings, scale)
        self._optimizers = OptimizerHook(
            self.tracker.parameters,
            self._before_optimizer,
            self._after_optimizer,
            given=run.settings.optimizer,
        )
        self._step_end = StepEnd(run.counter, self._optimizers)
        self._next_forward = NextForwardHook(self.tracker.owns, self._end_before_forward)
        self._hooks = ModelHooks(
            run, self.tracker, self._guard, self._interventions, warnings, self._optimizers
        )
        self._plugins = StepPlugins(run)
        self._no_step = NoStepCheck(run, self.tracker, self._plugins)
        self._idle_steps = IdleSteps(run, self._plugins, self._guard)
        self._pending = PendingSteps(run.sampler)
        self._is_running = False
        self._deciding_s = 0.0
        self._thread = 0
        self._awaits_closure = False
        self.has_closure = False

    def add(self, plugin: StepPlugin) -> None:
        """Add a plugin. It is called from the next step on."""
        self._plugins.add(plugin)

    def start(self) -> None:
        """Install the hooks and begin the first step."""
        counter, given = self._counter, self._run.settings.optimizer
        counter.optimizer = None if given is None else weakref.ref(given)
        counter.on_begin = self._optimizers.on_step_begin
        counter.on_end = self._optimizers.on_step_end
        self._is_running = True
        self._hooks.open()
        self._hooks.listen(self._no_step.on_forward)
        self._optimizers.install(counter.before, counter.after)
        with hidden_from_modes():
            self._begin()

    def stop(self) -> None:
        """Remove all hooks and report the pending steps. Ends a pause."""
        self._is_running = (
            False  # the training thread may be held between two steps, and then continues
        )
        self.end_if_stepped()
        self._next_forward.remove()
        self._optimizers.remove()
        self._hooks.close()
        self._interventions.close()
        self.tracker.abandon()
        with hidden_from_modes():
            self._idle_steps.report()
            self._report_observed(wait=True)
            self._plugins.close()
        self._counter.on_begin = self._counter.on_end = None

    @property
    def step(self) -> int:
        """The step in progress."""
        return self._counter.step

    @property
    def is_observed(self) -> bool:
        """Whether the step in progress is an observed step (all layers)."""
        return self._hooks.is_observed

    @property
    def has_computed_nothing(self) -> bool:
        """Whether this thread has certainly not computed anything in the step in progress.

        Autograd numbers the operations that it records; if the number is unchanged, there were none.
        """
        return sequence_number() == self._counter.began_at

    @property
    def has_only_finite(self) -> bool:
        """Whether all gradients of the optimizer that is about to step are known to be finite."""
        return self.is_observed and self.tracker.measurement.parameters.has_only_finite

    def optimizers(self) -> list[Optimizer]:
        """Return the model's optimizers: the ones that have stepped, and the one given to `attach`."""
        return self._optimizers.stepped_optimizers()

    def peek(self) -> tuple[tuple[str, ...], Block] | None:
        """Return the layers and the statistics of the step so far; None if it is not observed."""
        return self.tracker.measurement.peek() if self.is_observed else None

    def record_inputs(self, inputs: object) -> None:
        """Observe the tensors that the model is called with, if the step is observed."""
        if self.is_observed:
            with hidden_from_modes():
                self._guard.run_timed("inputs", lambda: self.tracker.measurement.record_inputs(inputs))

    def focus(self, layers: Sequence[str]) -> None:
        """Set the layers to observe in focus steps. Call it between two steps."""
        with hidden_from_modes():
            self._guard.run("a focus", lambda: self.tracker.focus(layers))

    def apply_interventions_now(self) -> None:
        """Apply requested interventions at once. The step in progress must not have computed anything yet."""
        with hidden_from_modes():
            self._guard.run("applying interventions", self._settle)
        self._hooks.align()

    def apply_interventions_before_computing(self) -> None:
        """Apply requested interventions at once if the step in progress has not computed anything yet."""
        self.end_if_stepped()
        if self._is_running and self.has_computed_nothing:
            self.apply_interventions_now()

    def end_if_stepped(self) -> None:
        """End the step if its optimizers have stepped, because the script reads the scope or changes it."""
        is_here = self._thread == threading.get_ident()
        if is_here and self._step_end.may_end_before_forward and not is_transforming():
            self._end_before_forward()

    def _end_before_forward(self) -> None:
        """End the step outside an optimizer's step; the script may have chosen inference mode or other modes."""
        self._next_forward.remove()
        with hidden_from_modes(), torch.inference_mode(mode=False):
            self._end()

    def mark_step(self) -> None:
        """End a step explicitly; observe parameters and gradients if no optimizer has stepped."""
        with hidden_from_modes():
            self._next_forward.remove()
            if self._hooks.is_on and not self._step_end.has_stepped:
                self._hooks.follow_modules()
                self._guard.run("following changes of the model", self._hooks.follow_parameters)
                self._guard.run("parameters", self._observe_parameters)
            self._end()

    def before_clip(self, parameters: list[torch.Tensor]) -> bool:
        """Observe gradients that the script is about to clip. Return whether any belongs to the model."""
        hooks = self._hooks
        if hooks.is_on:
            hooks.follow_modules()
            with hidden_from_modes():
                self._guard.run_timed("gradients", lambda: hooks.measurement.before_clip(parameters))
        return self.tracker.measurement.parameters.knows(parameters)

    def _observe_parameters(self) -> None:
        parameters = self._hooks.measurement.parameters
        parameters.before(self.tracker.parameters())
        parameters.forget()

    def _before_optimizer(self, optimizer: Optimizer, closure: Closure | None) -> Closure | None:
        self.has_closure = has_closure = closure is not None
        hooks, ends = self._hooks, self._step_end
        self._next_forward.remove()  # a forward in a closure ends no step
        if ends.is_repeated(optimizer):
            self._end_before_forward()
        ends.begin_optimizer(optimizer)
        if not self._no_step.is_done:
            self._no_step.before_first_optimizer()
        changes_parameters = self._interventions.changes_parameters
        with hidden_from_modes():
            if hooks.is_on:
                hooks.follow_modules()
                self._guard.run("following changes of the model", hooks.follow_parameters)
            if changes_parameters and not has_closure:
                self._change_parameters(optimizer)
            if hooks.is_on and not ends.is_late:
                self._guard.run_timed(
                    "parameters", lambda: self._measure_before(optimizer, has_closure=has_closure)
                )
            self._plugins.call_all("check_gradients", self.step, optimizer)
            is_wrapped = has_closure and (hooks.is_on or changes_parameters or self._plugins.are_active)
            self._awaits_closure = is_wrapped
            if not is_wrapped:
                self._plugins.call("before_optimizer", optimizer)
        return self._wrapped(closure, optimizer) if closure is not None and is_wrapped else None

    def _measure_before(self, optimizer: Optimizer, *, has_closure: bool) -> None:
        if self._optimizers.is_foreign(optimizer):  # it holds copies of the parameters, or inputs
            self._observe_parameters()
        else:
            self._hooks.measurement.before_optimizer(optimizer, has_closure=has_closure)

    def _change_parameters(self, optimizer: Optimizer) -> None:
        if self._interventions.changes_parameters:
            is_on, measurement = self._hooks.is_on, self._hooks.measurement
            see = measurement.parameters.record_arriving if is_on else None
            self._guard.run_timed(
                "interventions on parameters",
                lambda: self._interventions.before_optimizer(optimizer, see),
            )

    def _wrapped(self, closure: Closure, optimizer: Optimizer) -> Closure:
        """Return a closure that also changes and observes the gradients after each call."""

        def evaluate() -> Any:  # Any: whatever the user's closure returns
            value = closure()
            with hidden_from_modes():
                self._change_parameters(optimizer)
                if self._hooks.is_on:
                    parameters = self._hooks.measurement.parameters
                    self._guard.run_timed(
                        "parameters", lambda: parameters.measure_gradients(parameters_of(optimizer))
                    )
                self._call_before_optimizer(optimizer)
            return value

        return evaluate

    def _call_before_optimizer(self, optimizer: Optimizer) -> None:
        """Call the plugins after the first evaluation of a closure: before it, there are no gradients of this step."""
        if self._awaits_closure:
            self._awaits_closure = False
            self._plugins.call("before_optimizer", optimizer)

    def _after_optimizer(self, optimizer: Optimizer) -> None:
        with hidden_from_modes():
            self._call_before_optimizer(optimizer)  # an optimizer need not call its closure
            if self._hooks.is_on:
                self._guard.run_timed("updates", self._hooks.measurement.parameters.after)
            self._plugins.call("after_optimizer", optimizer)
            ends, self._thread = self._step_end, threading.get_ident()
            ends.end_optimizer(optimizer)
            is_idle = self._counter.is_idle() or self._is_idle()
            if (is_idle and ends.is_usual_end(optimizer)) or ends.is_complete():
                self._end()
            elif ends.needs_forward(optimizer, is_idle=is_idle):
                self._next_forward.install()

    def _end(self) -> None:
        """End the step in progress and begin the next."""
        self._step_end.end()
        self._no_step.is_done = True
        self._hooks.listen(None)
        if self._is_idle():
            self._idle_steps.skip()
            return
        self._idle_steps.report()
        hooks, guard, step = self._hooks, self._guard, self.step
        is_observed, is_focus = hooks.is_observed, hooks.is_focus
        if hooks.is_on:
            hooks.count_native()
        began_s = time.perf_counter()
        step_time_s = began_s - self._counter.began_s
        if hooks.is_on:
            guard.run("reading the rows", lambda: self._read_statistics(step_time_s))
        guard.run("warnings", self._warn)
        if self._pending:
            guard.run("reporting an observed step", self._report_observed)
        self._plugins.call_all("ended", step, time.time(), step_time_s)
        self._plugins.call("end", step, step_time_s, is_observed=is_observed)
        now_s = time.perf_counter()
        guard.spent_s += now_s - began_s
        self._sampler.record(
            step,
            now_s - self._counter.began_s,
            guard.spent_s,
            was_observed=is_observed,
            was_focus=is_focus,
        )
        self._deciding_s = time.perf_counter() - now_s
        self._counter.step += 1
        self._begin()

    def _is_idle(self) -> bool:
        """Return whether the step in progress was idle, and the next one is idle too."""
        plugins, next_step = self._plugins, self.step + 1
        if self._hooks.is_on or plugins.are_active:
            return False
        if self._counter.must_plan:  # before the work: a later request sets it again
            plugins.choose_active(next_step)
        return (
            plugins.next_active_step > next_step
            and self._interventions.is_idle
            and not self._pending
            and self._hooks.are_current
            and self._sampler.next_due(next_step) > next_step
        )

    def _begin(self) -> None:
        self._plugins.begin_step(self.step)
        self._plugins.call("at_boundary", self.step)
        if not self._is_running:
            return
        hooks, sampler, step = self._hooks, self._sampler, self.step
        self._counter.began_s = time.perf_counter() - self._deciding_s
        is_focus_due = sampler.is_focus_due(step) and not has_compiled()
        hooks.begin(is_due=sampler.is_due(step), is_focus_due=is_focus_due)
        self._guard.run("applying interventions", self._settle)
        hooks.align()
        if hooks.is_on:
            hooks.measurement.begin()
        self._plugins.begin(step, is_observed=hooks.is_observed)
        self._guard.spent_s = time.perf_counter() - self._counter.began_s
        self._counter.began_at = sequence_number()

    def _settle(self) -> None:
        self._plugins.call("before_settle", self.step)
        self._interventions.settle(self.step, self.tracker.slots)

    def _read_statistics(self, step_time_s: float) -> None:
        self._pending.add(self._hooks.measurement.end(self.step, step_time_s))

    def _warn(self) -> None:
        self._interventions.warn_if_without_effect(self.step, is_observed=self._hooks.is_observed)

    def _report_observed(self, *, wait: bool = False) -> None:
        for observed in self._pending.take_ready(wait=wait):
            self._plugins.call_all("focus_observed" if observed.is_focus else "observed", observed)
