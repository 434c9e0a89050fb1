"""`Scope`: the handle on one attached model.

Each method calls the object that implements the feature.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from html import escape
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self, Unpack

import torch
from torch import nn
from torch.optim import Optimizer

from gradscope.agent.commands.dispatcher import CommandDispatcher
from gradscope.agent.commands.script_interventions import ScriptInterventions, When
from gradscope.agent.coverage import CoverageMonitor
from gradscope.agent.diagnosis.monitor import FindingMonitor
from gradscope.agent.diagnosis.signals import SignalMonitor
from gradscope.agent.flight_recorder.recorder import FlightRecorder
from gradscope.agent.flight_recorder.scaler_skips import ScalerSkips
from gradscope.agent.inspection.capture import Capture, Captures, check_what
from gradscope.agent.inspection.capture_upload import CaptureUpload
from gradscope.agent.inspection.custom_functions import FunctionTracker
from gradscope.agent.inspection.focus import Focus
from gradscope.agent.inspection.latest_steps import LatestSteps
from gradscope.agent.inspection.resources import ResourcePlugin
from gradscope.agent.inspection.snapshot import Snapshot
from gradscope.agent.interventions.handle import Intervention
from gradscope.agent.link.crash_report import CrashReporter, describe_exception
from gradscope.agent.link.messages import actions_now, state_of
from gradscope.agent.link.process_end import failure
from gradscope.agent.link.publisher import NullPublisher, Publisher
from gradscope.agent.monitors.breakpoints import Breakpoints
from gradscope.agent.monitors.clipping import ClippingPlugin
from gradscope.agent.monitors.logged_scalars import LoggedScalars
from gradscope.agent.monitors.nan_check import NonfiniteCheck
from gradscope.agent.monitors.nan_check_schedule import CheckSchedule
from gradscope.agent.monitors.nan_response import NonfiniteResponse
from gradscope.agent.monitors.pause import Pause, check_lease
from gradscope.agent.monitors.rules import Action, Callback, RuleMonitor
from gradscope.agent.monitors.set_rules import SetRules
from gradscope.agent.notebook.cells import CellObserver
from gradscope.agent.notebook.html_view import html_of
from gradscope.agent.notebook.plot import plot_steps
from gradscope.agent.run.context import RunContext
from gradscope.agent.run.settings import Settings
from gradscope.agent.run.standstill import Standstill
from gradscope.agent.step.engine import StepEngine
from gradscope.budget import Sampler
from gradscope.columns import MemoryTable, Table, TimesTable
from gradscope.errors import NotMeasuredError, UsageError
from gradscope.findings import Finding, Verdict, merge_repeated
from gradscope.hooks import LayerPatterns
from gradscope.intervene import AuditEntry, OwnFunction, action_of
from gradscope.names import match_names
from gradscope.protocol import BreakpointState, Bye, InterventionState
from gradscope.resources import is_out_of_memory
from gradscope.rules import Alert, Rule, check_action, make_rule

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from gradscope.doctor import Report

__all__ = ["Scope"]

_log = logging.getLogger("gradscope")


class Scope:
    """The handle on one model, from `attach` to `detach`. Also a context manager.

    A scope holds a weak reference to the model and ends when the model is garbage-collected. All
    methods except `examine` may be called from any thread. No method waits for the device, the hub or a
    viewer.

    `layers` are patterns as in `attach`. A pattern that matches nothing raises UnknownLayerError, a
    subclass of UsageError; other invalid arguments raise UsageError.
    """

    def __init__(self, model: nn.Module, settings: Settings, sampler: Sampler) -> None:
        self.run, self._is_off = settings.run, settings.is_inert
        self._when_detached: list[Callable[[], object]] = []
        run = self._run = RunContext(model, settings, sampler)
        engine = self._engine = StepEngine(run)
        self._commands = CommandDispatcher(run, engine)
        self._interventions = ScriptInterventions(run, engine)
        self._latest_steps = LatestSteps(run, engine)
        self._pause = Pause(run, self._commands)
        self._breakpoints = Breakpoints(run, engine, self._pause)
        self._rules = RuleMonitor(run, engine, self._commands, self._pause)
        self._set_rules = SetRules(run, engine, self._commands, self._rules)
        schedule = CheckSchedule(sampler)
        self._findings = FindingMonitor(run, engine, is_quiet=settings.is_quiet)
        self._recorder = FlightRecorder(run, engine, self._findings)
        self._scaler_skips = ScalerSkips(run, engine, self._recorder, self._findings)
        response = NonfiniteResponse(run, engine, self._rules, schedule, self._recorder)
        check = NonfiniteCheck(run, engine, schedule, response, self._breakpoints)
        self._scalars = LoggedScalars(run, self._rules, self._breakpoints, self._recorder)
        self._clipping = ClippingPlugin(run, engine, self._scalars)
        self._captures = Captures(run, engine)
        uploads = CaptureUpload(run, engine, self._captures, self._recorder)
        self._snapshot = Snapshot(run, engine)
        self._focus = Focus(run, engine, self._commands)
        self._resources = ResourcePlugin(run, engine)
        self._functions = FunctionTracker(run)
        self._coverage = CoverageMonitor(
            run, engine, self._findings, self._scalars, schedule, self._recorder
        )
        self._signals = SignalMonitor(run, engine, self._findings)
        self._cells = CellObserver(engine, self._report_exception)
        plugins = (
            *(*self._commands.plugins(), *self._latest_steps.plugins()),
            self._scalars,
            self._breakpoints,
            self._pause,
            check,
            self._recorder,
            self._scaler_skips,
            self._rules,
            self._set_rules,
            self._captures,
            uploads,
            self._snapshot,
            self._focus,
            self._resources,
            self._functions,
            self._clipping,
            self._findings,
            self._coverage,
            self._signals,
        )
        for plugin in plugins:  # in the order in which they are called in each step
            engine.add(plugin)
        for part in (self._pause, self._breakpoints, self._set_rules, uploads):
            self._commands.register(part.commands())
        self._commands.register(self._resources.commands() | self._focus.commands())
        self._commands.register(self._snapshot.commands(), is_revising=True)
        if not settings.is_inert:
            self._start()

    # The run

    @property
    def rank(self) -> int:
        """The rank of this process; 0 outside a distributed job."""
        return self._run.hello.rank

    @property
    def is_detached(self) -> bool:
        """Whether the scope is detached, or inert because of GRADSCOPE=0."""
        return self._is_off

    @property
    def step(self) -> int:
        """The index of the step in progress, which is the number of completed steps."""
        self._engine.end_if_stepped()
        return self._engine.step

    @property
    def watched_count(self) -> int:
        """The number of layers that are observed."""
        return len(self._engine.tracker.watched_names)

    @property
    def measured_by(self) -> str:
        """The name of the pass that reduces the model's tensors, and why no faster pass is used."""
        return "" if self._run.manifest is None else self._run.manifest.measured_by

    @property
    def endpoint(self) -> str | None:
        """The directory of the hub's sockets; None while there is no hub."""
        address = self._run.publisher.address
        return str(address.directory) if address is not None else None

    @property
    def faults(self) -> dict[str, int]:
        """The number of errors in each part of gradscope."""
        return self._run.faults.counts

    def mark_step(self) -> None:
        """End a step explicitly, in a loop without an optimizer."""
        if not self._is_off:
            self._engine.mark_step()

    def detach(self) -> None:
        """Remove all hooks from the model and close the link. Calling it again does nothing."""
        self._end_run(lambda publisher: publisher.stop(Bye(reason="detached")))

    def end_with_model(self) -> None:
        """Detach because the model was garbage-collected, or because the process exits."""
        if self._run.model() is None:
            bye = Bye(reason="the model was garbage-collected")
            self._end_run(lambda publisher: publisher.stop_soon(bye))
        else:
            error = self._cells.error
            self._end_run(lambda publisher: publisher.stop(None if error is None else failure(error)))

    def when_detached(self, callback: Callable[[], object]) -> None:
        """Call `callback` once, at the end of `detach`."""
        self._when_detached.append(callback)

    def announce_actions(self) -> None:
        """Send the list of available interventions to viewers again."""
        if self._run.manifest is not None:
            self._run.publish_manifest(self._run.manifest.with_actions(actions_now()))

    # Statistics

    @property
    def findings(self) -> tuple[Finding, ...]:
        """The findings of the run so far. A repeated finding is listed once, with a count."""
        return merge_repeated((*self._findings.findings, *self._rules.findings))

    def diagnose(self) -> Verdict:
        """Return the verdict over all findings: causes before their consequences.

        `.headline` is one line, `.lines()` the whole text, `.as_json()` an object for JSON.
        """
        self._engine.end_if_stepped()
        return Verdict.of(self.run, self._coverage.checked, self.findings)

    def latest(self) -> Table:
        """Return the newest observed step. Raises NotMeasuredError before the first."""
        self._engine.end_if_stepped()
        return self._latest_steps.latest()

    def plot(
        self,
        layers: LayerPatterns | None = None,
        kind: str = "grad",
        *,
        statistic: str = "norm",
        ax: "Axes | None" = None,
    ) -> "Axes":
        """Plot a statistic of layers over the observed steps, and return matplotlib's Axes.

        kind: `out`, `grad`, `param`, `param_grad` or `update`. statistic: `norm`, `mean`, `std`, `rms`, `min` or
            `max`. ax: where to draw; default: a new figure.

        Needs matplotlib. Raises NotMeasuredError if nothing of this kind has been measured yet. In a long run, steps
        are left out so that they need at most 8 MB.
        """
        self._engine.end_if_stepped()
        names = self._engine.tracker.names
        chosen = names if layers is None else match_names(layers, names)
        return plot_steps(self._latest_steps.tables(), chosen, kind, statistic, ax)

    def log(self, **values: float | torch.Tensor) -> None:
        """Log scalars of the step in progress: `scope.log(loss=loss, lr=3e-4)`.

        After an optimizer has stepped, and before the next forward of the model, the scalars belong to the step that
        the optimizer has ended.
        A value is a number or a tensor with one element, which is read without waiting for the device.
        Raises UsageError for other values.
        """
        self._scalars.log(values)
        self._functions.on_logged(values.values())

    def focus(self, *layers: str) -> tuple[str, ...]:
        """Observe these layers in focus steps, from the next step on. Without layers, end the focus.

        layers: names or patterns that match at most 16 layers. They replace the layers of an earlier
            call and are added to the layers that viewers have put in the focus. Returns the names of
            the layers.

        At most half of the budget of observed steps is used for the focus; all layers are then observed
        less often. With `every=N`, each step is a focus step. `latest_focus()` returns the newest focus
        step, and `focus_every` is the interval. Focus steps are rare if the budget does not allow them
        more often than observed steps. With several ranks, call this method on all ranks at the same
        place in the script.

        Raises UsageError under torch.compile.
        """
        chosen = self._focus.check(layers) if layers else ()
        self._focus.set_layers(chosen)
        return chosen

    @property
    def focused(self) -> tuple[str, ...]:
        """The layers in the focus of the script and of all viewers."""
        return self._focus.layers

    @property
    def focus_every(self) -> int:
        """The current interval of focus steps, in steps; 0 if there are none."""
        return self._run.sampler.focus_every

    def latest_focus(self) -> Table:
        """Return the newest focus step, with statistics of the layers in the focus only.

        `every` and `cost` refer to focus steps. Raises NotMeasuredError before the first focus step.
        """
        self._engine.end_if_stepped()
        return self._latest_steps.latest_focus()

    def memory(self) -> MemoryTable:
        """Return the memory by layer: `memory()["fc1"].saved_bytes`; `.total` includes sublayers.

        Raises NotMeasuredError before the first measured step; the message names the step that will be
        measured.
        """
        return self._resources.memory()

    def times(self) -> TimesTable:
        """Return the time by layer: `times()["fc1"].forward_s`, `.backward_s`, `.calls`, `.total`.

        Raises NotMeasuredError before the first measured step; the message names the step that will be
        measured.
        """
        return self._resources.times()

    def measure_now(self) -> None:
        """Measure memory and time of the next step, regardless of the budget."""
        self._resources.request_now()

    def capture(
        self, layers: LayerPatterns, what: str = "activation", *, every: int = 1, keep: int = 1
    ) -> Capture:
        """Copy whole tensors to the host, from this step or the next step on.

        what: "activation" (the layer's output), "gradient" (of the loss with respect to the output,
            after interventions), or "param_grad" (as the optimizer receives it).
        every: capture in every N-th step. keep: keep the tensors of this many captured steps.

        `.tensors()` returns the copies, each with `.step .layer .name .tensor`. All captures of a run
        hold at most 256 MB; `.skipped` lists the tensors that did not fit.
        """
        checked, names = check_what(what), self._engine.tracker.names
        self._engine.end_if_stepped()
        capture = self._captures.add(match_names(layers, names), checked, every=every, keep=keep)
        if self._engine.has_computed_nothing:
            self._captures.start(self._engine.step)
        return capture

    def save_fault(self, path: str | PathLike[str]) -> None:
        """Save what is needed to reproduce the newest NaN that was traced: `python -m gradscope.replay PATH …`.

        The file, in the safetensors format, has the inputs of the forward, the parameters and buffers before the
        step, the gradient at the output and the random states. Raises UsageError if no NaN was traced.
        """
        self._recorder.save(Path(path))

    def examine(self, *inputs: object, **keywords: object) -> "list[Report]":
        """Examine the custom autograd Functions that the model uses, on inputs of the model.

        inputs, keywords: arguments of the model's forward. Default: the arguments recorded in the
            second observed step; each call without arguments also records the next observed step.

        A copy of the model runs on the arguments, so the training stays bitwise the same. Call this
        method from the training thread. See `gradscope.doctor.examine_model`.

        Raises UsageError if the model was garbage-collected, cannot be copied or cannot run on the
        inputs, or if no inputs are given and none were recorded.
        """
        from gradscope.doctor import examine_model, examine_step_functions  # noqa: PLC0415 - slow to load

        model = self._run.model()
        if model is None:
            raise UsageError(
                f"the model of run {self.run!r} was collected; there is nothing to examine"
            )
        if inputs or keywords:
            return examine_model(model, inputs, keywords)
        tracked, arguments = self._functions.tracked()
        self._functions.request()
        return examine_step_functions(model, tracked.step, tracked.inside, tracked.outside, arguments)

    # Interventions

    @property
    def interventions(self) -> tuple[InterventionState, ...]:
        """All active and pending interventions, including who set each and since which step."""
        return tuple(state_of(entry) for entry in self._run.ledger.entries())

    @property
    def history(self) -> tuple[AuditEntry, ...]:
        """The audit log: who set or removed which intervention, and when. Oldest entry first."""
        return self._run.ledger.history.entries()

    def reverse(
        self, layers: LayerPatterns, *, alpha: float = 1.0, **how: Unpack[When]
    ) -> Intervention:
        """Multiply the gradient by -alpha, like a gradient reversal layer."""
        return self._interventions.set("reverse", layers, {"alpha": alpha}, how)

    def scale(self, layers: LayerPatterns, *, factor: float, **how: Unpack[When]) -> Intervention:
        """Multiply the gradient by a factor."""
        return self._interventions.set("scale", layers, {"factor": factor}, how)

    def clip(
        self, layers: LayerPatterns, *, max_norm: float, per: str = "tensor", **how: Unpack[When]
    ) -> Intervention:
        """Rescale the gradient to a Euclidean norm of at most max_norm (0 or greater).

        per: "tensor": each gradient separately; "layer": all gradients of a layer as one vector; "all":
            the gradients of all chosen layers as one vector (at the site "params" only).
        """
        return self._interventions.set("clip", layers, {"max_norm": max_norm, "per": per}, how)

    def clamp(self, layers: LayerPatterns, *, limit: float, **how: Unpack[When]) -> Intervention:
        """Limit each element of the gradient to [-limit, limit]."""
        return self._interventions.set("clamp", layers, {"limit": limit}, how)

    def stop(self, layers: LayerPatterns, **how: Unpack[When]) -> Intervention:
        """Set the gradient to zero, so that no gradient flows through the outputs of these layers."""
        return self._interventions.set("stop", layers, {}, how)

    def noise(
        self,
        layers: LayerPatterns,
        *,
        std: float,
        seed: int = 0,
        relative: bool = False,
        **how: Unpack[When],
    ) -> Intervention:
        """Add Gaussian noise to the gradient, from a separate generator seeded with `seed`.

        relative: std is a fraction of the gradient's standard deviation.
        """
        given = {"std": std, "seed": seed, "relative": relative}
        return self._interventions.set("noise", layers, given, how)

    def replace_nonfinite(
        self, layers: LayerPatterns, *, value: float = 0.0, **how: Unpack[When]
    ) -> Intervention:
        """Replace each NaN and infinity in the gradient by a value."""
        return self._interventions.set("replace_nonfinite", layers, {"value": value}, how)

    def straight_through(self, layers: LayerPatterns, **how: Unpack[When]) -> Intervention:
        """Pass the gradient of a layer's output unchanged to its first input; the layer itself gets zeros."""
        return self._interventions.set("straight_through", layers, {}, how)

    def scale_activation(
        self, layers: LayerPatterns, *, factor: float, **how: Unpack[When]
    ) -> Intervention:
        """Multiply a layer's output by a factor, also in eval mode; autograd does the same with its gradient."""
        return self._interventions.set("scale_activation", layers, {"factor": factor}, how)

    def clamp_activation(
        self, layers: LayerPatterns, *, limit: float, **how: Unpack[When]
    ) -> Intervention:
        """Limit each element of a layer's output; elements beyond the limit get no gradient."""
        return self._interventions.set("clamp_activation", layers, {"limit": limit}, how)

    def zero_activation(self, layers: LayerPatterns, **how: Unpack[When]) -> Intervention:
        """Replace a layer's output by zeros (ablation); the layer gets a gradient of zeros."""
        return self._interventions.set("zero_activation", layers, {}, how)

    def noise_activation(
        self, layers: LayerPatterns, *, std: float, seed: int = 0, **how: Unpack[When]
    ) -> Intervention:
        """Add Gaussian noise to a layer's output; the gradient is unchanged."""
        return self._interventions.set("noise_activation", layers, {"std": std, "seed": seed}, how)

    def round_activation(
        self, layers: LayerPatterns, *, dtype: str = "bfloat16", **how: Unpack[When]
    ) -> Intervention:
        """Round a layer's output to a lower precision; its dtype stays the same.

        dtype: "bfloat16", "float16", "float8_e4m3fn" or "float8_e5m2". The gradient is unchanged.
        """
        return self._interventions.set("round_activation", layers, {"dtype": dtype}, how)

    def intervene(
        self,
        layers: LayerPatterns,
        function: OwnFunction | str,
        *,
        arguments: Mapping[str, object] | None = None,
        **how: Unpack[When],
    ) -> Intervention:
        """Apply a function of your own to the gradient, or install an intervention by its name.

        With a name, `arguments` has its arguments: `scope.intervene("fc1", "scale", arguments={"factor": 0.1})`.
        `function(gradient)` returns a tensor of the same shape and dtype. A subclass of
        torch.autograd.Function is applied to the layer's output (or input) in the forward pass. If the
        function raises, returns another shape or dtype, or produces a new NaN, the gradient stays
        unchanged and the intervention is removed and reported.
        """
        action = function if isinstance(function, str) else action_of(function)
        return self._interventions.set(action, layers, arguments or {}, how)

    def keep_snapshot(
        self,
        *optimizers: Optimizer,
        save: Callable[[int], object] | None = None,
        restore: Callable[[], object] | None = None,
    ) -> None:
        """Keep a snapshot of the training state, taken right before the first intervention takes effect.

        optimizers: optimizers that have not stepped yet; the others are found
            automatically.
        save, restore: `save(step)` and `restore()` replace gradscope's own snapshot.

        A snapshot needs host memory for a copy of the model and the optimizers.
        `gradscope/agent/inspection/snapshot.py` lists the contents.

        Raises UsageError if only one of `save` and `restore` is given, or if an argument is not an
        optimizer.
        """
        for optimizer in optimizers:
            if not isinstance(optimizer, Optimizer):
                raise UsageError(
                    f"keep_snapshot takes torch.optim.Optimizers, got {type(optimizer).__name__}"
                )
        self._snapshot.enable(optimizers, save, restore)

    def restore_snapshot(self) -> None:
        """Remove all interventions and restore the snapshot, bit for bit.

        It takes effect between two steps. Training continues from there; the step count and the data
        loader continue unchanged. Raises UsageError if there is no snapshot.
        """
        self._snapshot.check()
        self._run.ledger.remove_all(lambda _step: self._snapshot.restore())
        self._engine.apply_interventions_before_computing()

    # Rules, breakpoints and the pause

    @property
    def rules(self) -> tuple[tuple[Rule, str], ...]:
        """The active rules, each with the name of its action."""
        return self._rules.rules

    @property
    def alerts(self) -> tuple[Alert, ...]:
        """The newest 200 alerts, oldest first."""
        return self._rules.alerts

    @property
    def breakpoints(self) -> tuple[BreakpointState, ...]:
        """The breakpoints that are set."""
        return self._breakpoints.states()

    @property
    def is_paused(self) -> bool:
        """Whether training is paused, or will be at the next step boundary."""
        return self._pause.is_paused

    def rule(
        self,
        name: str,
        *,
        action: Action = "event",
        threshold: float | tuple[float, float] | None = None,
        patience: int | None = None,
        layers: LayerPatterns | None = None,
    ) -> Rule:
        """Set a rule; it replaces the rule with the same name and layers. All rules are active by default.

        name: one of `gradscope.rules.RULES`, which documents the meaning and the defaults of each; or a condition on
            layers or logged numbers, such as "loss > 10", which has its limit and its layers in its text.
        action: what to do in addition to the alert. "event": nothing; "pause": pause before the next
            step; "skip_step": skip the optimizer step; "clip": clip the layer's gradients to the limit;
            "remove": remove all interventions; "raise": raise AlertError; a function: call it with the
            alert; "off": remove the rule.
        threshold: the limit. patience: how many consecutive observed steps must exceed the limit; None: the
            evidence decides: the further beyond the limit, the fewer steps.
        layers: the layers that the rule checks; None: all.

        The actions "skip_step" and "clip" apply to the same step if that step is observed; `nonfinite`
        applies to every step, but not if an optimizer computes its gradients in a closure.
        "skip_step" also does nothing if gradients are sharded between ranks.
        """
        chosen = None if layers is None else match_names(layers, self._engine.tracker.names)
        rule = make_rule(name, threshold=threshold, patience=patience, layers=chosen)
        if rule.condition is not None:
            rule.condition.check_layers(list(self._engine.tracker.names))
        if not callable(action):
            action = check_action(rule, action, world_size=self._run.hello.world_size)
        self._set_rules.set_by_script(rule, action)
        return rule

    def on_alert(self, callback: Callback) -> None:
        """Call a function with each Alert, in the training thread."""
        if not callable(callback):
            raise UsageError(f"on_alert expects a function of an alert, got {type(callback).__name__}")
        self._rules.on_alert(callback)

    def on_finding(self, callback: Callable[[Finding], object]) -> None:
        """Call a function with each Finding, in the training thread: once for each code and its layers.

        Findings of all kinds are passed on: of rules, of the wiring, the graph and the flight recorder. Example:
        `scope.on_finding(lambda finding: scope.pause() if finding.severity == "error" else None)`. An error in the
        function is reported as a fault, and training continues.
        """
        if not callable(callback):
            raise UsageError(
                f"on_finding expects a function of a finding, got {type(callback).__name__}"
            )
        self._run.on_finding(callback)

    def pause(self, *, lease_s: float | None = None) -> None:
        """Pause training at the next step boundary for `lease_s` seconds: 60 by default, at most 300.

        Training resumes automatically when the lease expires; another call renews the lease. With
        several ranks, call it on all ranks at the same place in the script.
        """
        self._pause.pause(lease_s=check_lease(lease_s))

    def resume(self) -> None:
        """Resume training after a pause."""
        self._pause.resume()

    def breakpoint(self, condition: str, *, lease_s: float | None = None) -> str:
        """Pause training at the first step boundary after a condition becomes true. Return the id.

        Examples: `grad["blocks.3.*"].norm > 100`, `any.nan`, `step == 500`, `loss > 10`; see
        `gradscope/rules/conditions.py`. Conditions on layers are evaluated in observed steps only.
        """
        checked = self._breakpoints.check(condition)
        return self._breakpoints.add(checked, set_by="script", lease_s=check_lease(lease_s)).id

    def remove_breakpoint(self, id: str) -> None:
        """Remove a breakpoint. Raises UsageError if no breakpoint has this id."""
        if not self._breakpoints.remove(id):
            raise UsageError(f"no breakpoint {id!r} is set")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None or self._is_off:
            self.detach()
        else:
            self._report_exception(error)
            self._end_run(lambda publisher: publisher.stop(failure(error)))

    def __repr__(self) -> str:
        state = "detached" if self._is_off else f"at step {self.step}"
        return f"<Scope of run {self.run!r}: {len(self._engine.tracker.names)} modules, {state}>"

    def _repr_html_(self) -> str:
        """Return the verdict and the newest observed step as HTML, for notebooks."""
        try:
            verdict = self.diagnose()
            try:
                table = self.latest()
            except NotMeasuredError:
                table = None
            return html_of(verdict, self.step, table)
        except Exception as error:  # noqa: BLE001 - showing a scope must not fail
            self._run.faults.report("the HTML table", error, "The scope is shown as text.")
            return escape(repr(self))

    def _end_run(self, stop: Callable[[Publisher | NullPublisher], None]) -> None:
        if self._is_off:
            return
        self._is_off = True
        self._engine.stop()
        stop(self._run.publisher)
        while self._when_detached:
            self._when_detached.pop()()

    def _start(self) -> None:
        run = self._run
        run.publisher.start(
            announce=run.announcement,
            on_command=self._commands.handle,
            on_viewers=self._on_viewers,
            heartbeat=Standstill(lambda: run.counter.step, run.model).heartbeat,
        )
        self._clipping.install()
        self._scaler_skips.install()
        self._recorder.install()  # before the engine, whose hook may end the run while torch calls all hooks
        self._engine.start()
        reporter = CrashReporter(self._report_exception)
        reporter.install()
        self._cells.install(at_exit=self.end_with_model)
        self.when_detached(self._cells.remove)
        self.when_detached(reporter.remove)

    def _on_viewers(self, viewers: Sequence[str]) -> None:
        self._run.ledger.note_viewers(viewers)
        self._focus.on_viewers(viewers)
        self._set_rules.on_viewers(viewers)

    def _report_exception(self, error: BaseException) -> None:
        """Report an exception that ends the run. The exception propagates unchanged."""
        if not isinstance(error, Exception):
            return
        try:
            if is_out_of_memory(error):
                text = self._resources.oom_text(error)
                _log.error("gradscope: %s", text)
                self._run.event("error", "out-of-memory", text)
                return
            report = describe_exception(error, self._run.model())
            if report.is_known:
                _log.error("gradscope: %s", report.text)
            self._run.event("error", report.code, report.text)
        except Exception as fault:  # noqa: BLE001 - gradscope's errors must not hide the training's
            self._run.faults.report("naming an exception", fault, "The exception is raised unchanged.")
