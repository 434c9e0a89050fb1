"""`FlightRecorder`: keeps what a replay of the current step needs, and checks a little in every step.

    forward: inputs, random state ─▶ output: NaN? ─▶ backward: gradient at the output, four gradients of parameters

Nothing is copied, and nothing is kept longer than until the optimizer has stepped.
"""

import functools
import sys
import time
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.utils.hooks import RemovableHandle

from gradscope.agent.diagnosis.batch_log import BatchLog
from gradscope.agent.diagnosis.monitor import FindingMonitor
from gradscope.agent.flight_recorder.active_steps import ActiveSteps
from gradscope.agent.flight_recorder.fault_file import Fault, copy_fault, save_fault
from gradscope.agent.flight_recorder.forward_record import (
    ForwardRecord,
    enabled_autocast,
    versions_of,
)
from gradscope.agent.flight_recorder.isolation import RandomState
from gradscope.agent.flight_recorder.loss_graph import LossGraph
from gradscope.agent.flight_recorder.operations import count_nonfinite, widened
from gradscope.agent.flight_recorder.origin import Origin
from gradscope.agent.flight_recorder.parameter_probes import ParameterProbes
from gradscope.agent.flight_recorder.replay import Replay, replay
from gradscope.agent.flight_recorder.report import finding_of_replay
from gradscope.agent.flight_recorder.source import is_users_code
from gradscope.agent.run.context import RunContext
from gradscope.agent.run.step_counter import sequence_number
from gradscope.agent.step.engine import StepEngine
from gradscope.agent.step.plugins import StepPlugin
from gradscope.errors import UsageError
from gradscope.findings import Severity
from gradscope.hooks import (
    BackwardRootHook,
    GradientHook,
    OuterForwardHook,
    find_tensors,
    hidden_from_modes,
    untraced,
    watch_gradient,
)
from gradscope.observe import native_module

__all__ = ["FlightRecorder"]

_RECORDS: Final = 8
"""Forwards of one step that are kept: micro-batches, or the two of a discriminator."""

_FINISHED_BYTES: Final = 64 << 20
"""Inputs of forwards whose backward pass is over are dropped, the oldest first, beyond this size."""

_GRADIENT_BYTES: Final = 256 << 20
"""A larger gradient at the output is not kept."""

_CHECKED_ELEMENTS: Final = 1 << 14
"""A larger output or gradient is not checked in every step: reading this many float32 takes about 3 µs."""

_OUTPUTS: Final = 16  # tensors in an output whose gradients are kept
_TRACED: Final = 3  # replays in one run
_LEARNING: Final = 3
"""Forwards after which it is known whether the model draws random numbers from Python or NumPy."""

_Seen: TypeAlias = Literal["output", "loss", "gradient"]


class _Holder:
    """Passes any tensor to the check of gradients."""

    __slots__ = ("grad",)

    def __init__(self) -> None:
        self.grad: torch.Tensor | None = None


def _guarded(method: Callable[..., None]) -> Callable[..., None]:
    """Keep the errors of a method that a hook calls away from the script, and add its time to the cost."""

    @functools.wraps(method)
    def run(self: "FlightRecorder", *arguments: Any) -> None:  # Any: those of the method
        began_s = time.perf_counter()
        try:
            with hidden_from_modes():
                method(self, *arguments)
        except Exception as error:  # noqa: BLE001 - gradscope's errors must not stop the training
            self.give_up(error)
        self.add_time(time.perf_counter() - began_s)

    return run


class FlightRecorder(StepPlugin):
    """Records the forwards of a step, and traces what is not finite. Active from `install` to `close`.

    Add it to the engine after the nonfinite check, which calls `report` if a gradient is not finite.
    """

    name = "the flight recorder"

    def __init__(self, run: RunContext, engine: StepEngine, findings: FindingMonitor) -> None:
        self._run = run
        self._engine = engine
        self._findings = findings
        self._records: deque[ForwardRecord] = deque()
        self._hook = OuterForwardHook(engine.tracker.owns, self._on_enter, self._on_leave)
        self._roots = BackwardRootHook(self._on_backward)
        native = native_module()
        self._find_suspects: Callable[[Any], Any] = _all if native is None else native.find_nonfinite
        self._holder = _Holder()
        self._optimizers: RemovableHandle | None = None
        self._probes = ParameterProbes(self._on_parameter)
        self._active = ActiveSteps(run.sampler, run.counter.step)
        self._leaf_handles: list[RemovableHandle] = []
        self._probed = -1, False  # the model's revision, and whether the probes have hooks
        self._unwatched: tuple[str, int] | None = (
            None  # a kind of loss of which no operation is watched
        )
        self._learned = 0
        self._has_python_random = True
        self._alarms: set[_Seen] = set()
        self._alarm_step = -1
        self._newest_known = -2  # the newest step whose fault was reported or counted
        self._traced = 0
        self._newest_forward = -1
        self.batches = BatchLog()
        """The batches of the newest steps."""
        self.has_scaler = False
        """Whether a loss scaler is in use: then gradients that are not finite are a matter of `ScalerSkips`."""
        self.fault: Fault | None = None
        """What is needed to reproduce the newest step that was traced."""

    def install(self) -> None:
        """Install the hooks. That of optimizers stays: steps end while torch calls all hooks of an optimizer."""
        self._optimizers = register_optimizer_step_post_hook(self._after_any_optimizer)
        self._activate()

    def remove(self) -> None:
        """Remove the hooks and drop everything."""
        self._deactivate()
        if self._optimizers is not None:
            self._optimizers.remove()
            self._optimizers = None

    def _activate(self) -> None:
        self._hook.install()
        self._roots.install()
        self._probed = -1, False

    def _deactivate(self) -> None:
        self._hook.remove()
        self._roots.remove()
        self._probes.remove()
        self.batches.lose_count()
        self.forget()
        self._newest_forward = -1

    def forget(self) -> None:
        """Drop the records."""
        while self._records:
            self._records.popleft().forget()
        while self._leaf_handles:
            self._leaf_handles.pop().remove()

    @property
    def is_between_steps(self) -> bool | None:
        """Whether a step has ended and no forward of the model with gradients has begun since. None if unknown."""
        if self._newest_forward < 0:
            return None
        return self._newest_forward < self._run.counter.step

    def report(
        self,
        step: int,
        parameters: Sequence[str],
        note: str = "",
        *,
        action: str = "",
        severity: Severity = "error",
    ) -> None:
        """Trace and report gradients that are not finite. Call it before the optimizer steps.

        parameters: their names. note: a clause about what becomes of the step. action: as in `Finding`.
        """
        self.dismiss()
        self._traced += 1
        if self._traced > _TRACED:
            found = Replay(None, f"{_TRACED} other steps of this run were traced already")
        else:
            found = self._trace_guarded()
        is_first_check = self._run.counter.check_every <= 1
        made = finding_of_replay(
            found, step=step, parameters=parameters, note=note, is_first_check=is_first_check
        )
        self._findings.report([replace(made, severity=severity, action=action)])

    def _trace_guarded(self) -> Replay:
        try:
            record, found = self.trace()
        except Exception as error:  # noqa: BLE001 - gradscope's errors must not stop the training
            self._run.faults.report("tracing a NaN", error, "The step is reported without its origin.")
            return Replay(None, "the replay failed with an error of gradscope")
        if record is not None:
            self.fault = copy_fault(record, self._run.model(), step=record.step)
        return found

    def save(self, path: Path) -> None:
        """Save the newest step that was traced. Raises UsageError if there is none."""
        if self.fault is None:
            raise UsageError("no NaN or infinity was traced in this run, so there is nothing to save")
        save_fault(self.fault, path)

    def next_active_step(self, step: int) -> int:
        """Return the step with which a run of active or inactive steps begins."""
        return max(step, self._active.next_switch)

    @property
    def words(self) -> str:
        """In which steps the recorder is active, as a clause; empty if in all of them."""
        return self._active.words

    @property
    def sees_more_than_gradients(self) -> bool:
        """Whether the loss or the output of this step is not finite, so that the loss scale is not the cause."""
        return bool(self._alarms - {"gradient"})

    def dismiss(self) -> None:
        """Discard the observations of this step, because they are reported or counted elsewhere.

        If the fault continues from an earlier step, the recorder is suspended.
        """
        self._alarms.clear()
        step = self._run.counter.step
        if self._newest_known == step - 1 and self._active.is_active:
            self._active.suspend()
            self._run.plan_again()
        self._newest_known = step

    def check_gradients(self, step: int, optimizer: Optimizer) -> None:
        """Report the observed faults although the gradients that the optimizer gets are finite."""
        if getattr(optimizer, "found_inf", None) is not None:  # a GradScaler decides about this step
            if self.sees_more_than_gradients:
                self.report(step, (), "a loss scaler decides whether to skip the step")
            return
        if self._is_known():
            self.dismiss()
        elif "loss" in self._alarms:
            self.report(step, (), "the gradients are finite", severity="warning")
        elif "gradient" in self._alarms:
            self.report(
                step, (), "the script has replaced them before the optimizer steps", severity="warning"
            )
        self._alarms.clear()

    def close(self) -> None:
        """Remove the hooks and drop everything."""
        self._report_unused()
        self.remove()

    def _report_unused(self) -> None:
        """Report the observed faults of a step that ended without an optimizer."""
        if self._is_known():
            self.dismiss()
        elif self._alarms and (self.sees_more_than_gradients or not self.has_scaler):
            self.report(self._alarm_step, (), "no optimizer has stepped yet")

    def _is_known(self) -> bool:
        """Return whether the observed fault continues from the step before, or was reported in this step already."""
        return bool(self._alarms) and self._alarm_step <= self._newest_known + 1

    def begin(self, step: int, *, is_observed: bool) -> None:  # noqa: ARG002 - the signature of a plugin
        """Become active or inactive."""
        active = self._active
        if step < active.next_switch:
            return
        was_active, was_suspended = active.is_active, active.is_suspended
        active.switch(step)
        if was_suspended:
            self._newest_known = step - 1  # what is seen in the next step is known
        if active.is_active and not was_active:
            self._activate()
        elif was_active and not active.is_active:
            self._deactivate()

    def trace(self) -> tuple[ForwardRecord | None, Replay]:
        """Replay the records of the step, until one of them has the origin. Call it before the optimizer steps."""
        model = self._run.model()
        if model is None:
            return None, Replay(None, "the model was garbage-collected")
        if not self._active.is_active:
            self._active.resume()
            self._run.plan_again()
            return None, Replay(None, self._active.words or "the flight recorder was not active")
        if not self._records:
            return None, Replay(
                None, "the model's own forward was not called in this step, or was traced"
            )
        names = {id(module): name for name, module in model.named_modules()}
        found: tuple[ForwardRecord | None, Replay] = None, Replay(None, "")
        for record in self._records:
            if record.parameter_version != self._probes.version:
                result = Replay(None, "the parameters were changed before the gradients were checked")
            else:
                record.check_gradients()
                result = replay(record, names)
            if result.origin is not None:
                return record, result
            found = record, result
        return found

    def add_time(self, time_s: float) -> None:
        """Add to the time that the recorder has taken since the newest forward began."""
        if self._active.spent_s:
            self._active.spent_s[-1] += time_s

    # Called by the hooks. Code that runs once in a step runs on cold caches: few and short functions

    @_guarded
    def _on_enter(self, module: nn.Module, args: tuple[Any, ...]) -> None:  # Any: as in torch
        self._active.spent_s.append(0.0)
        counter, tracker = self._run.counter, self._engine.tracker
        step = counter.step
        if self._alarms:
            self._report_unused()
        if self._records:
            self._drop_old(step)
        self._newest_forward = step
        probed, model = (tracker.revision, counter.check_every > 1), self._run.model()
        if self._probed != probed and model is not None:
            self._probed = probed
            self._probes.install(model, has_hooks=counter.check_every > 1)
        frame = sys._getframe(2)  # noqa: SLF001 - inspect.stack() reads all files
        while frame.f_back is not None and not is_users_code(frame.f_code):
            frame = frame.f_back
        self._records.append(
            ForwardRecord(
                step,
                weakref.ref(module),
                args,
                RandomState(has_python=self._has_python_random),
                versions_of(args),
                enabled_autocast(),
                (frame.f_code, frame.f_lineno),
                module.training,
                self._probes.version,
                sequence_number(),
            )
        )
        self.batches.begin(step, args)

    @_guarded
    def _on_leave(
        self, _module: nn.Module, kwargs: dict[str, Any], output: Any
    ) -> None:  # Any: as in torch
        record = self._records[-1] if self._records else None
        if record is None or record.has_returned or output is None:
            return
        record.has_returned, record.end_node = True, sequence_number()
        if kwargs:
            record.kwargs = dict(kwargs)
            record.versions += versions_of(kwargs)
            self.batches.add_keywords(kwargs)
        if self._learned < _LEARNING:
            self._learn(record)
        outputs = ((0, output),) if type(output) is torch.Tensor else _tensors_of(output)
        for place, tensor in outputs:
            if self._is_nan(tensor):
                self._alarm("output")
            if tensor.requires_grad:
                handle = watch_gradient(tensor, GradientHook(self._on_gradient, (record, place)))
                if handle is not None:
                    self._leaf_handles.append(handle)

    @_guarded
    def _on_backward(self, tensors: list[torch.Tensor]) -> None:
        """Check the loss, and watch the operations between the model and the loss. Must not raise."""
        record = self._records[-1] if self._records else None
        loss = tensors[0]
        node = loss.grad_fn if type(loss) is torch.Tensor else None
        if record is None or not record.has_returned or node is None:
            return
        if loss.numel() != 1 or not loss.is_cpu:
            return
        if self._is_nan(loss) if self.has_scaler else self._is_bad(loss):
            record.loss = LossGraph(loss, self._is_of_model).explain_value()
            self._alarm("loss")
            return
        kind = node.name(), node._sequence_nr() - record.end_node  # noqa: SLF001 - no public name
        if kind == self._unwatched:
            return
        graph = LossGraph(loss, self._is_of_model)
        if not graph.watch(self._is_bad, self._on_loss_gradient, self.give_up):
            self._unwatched = kind

    def _on_loss_gradient(self, origin: Origin) -> None:
        if self._records and self._records[-1].loss is None:
            self._records[-1].loss = origin
            self._alarm("gradient")

    def _is_of_model(self, number: int) -> bool:
        return number < self._records[0].first_node or any(
            record.first_node <= number < record.end_node for record in self._records
        )

    @_guarded
    def _on_gradient(self, token: tuple[ForwardRecord, int], gradient: torch.Tensor) -> None:
        record, place = token
        if not record.args and not record.kwargs:
            return
        if gradient.numel() * gradient.element_size() > _GRADIENT_BYTES:
            record.too_large = True
            return
        record.gradients[place] = gradient
        if self._is_bad(gradient):
            record.has_bad_gradient = True
            self._alarm("gradient")

    @_guarded
    def _on_parameter(self, parameter: torch.Tensor) -> None:
        gradient = parameter.grad
        if gradient is not None and self._is_bad(gradient):
            self._alarm("gradient")

    @untraced
    def _after_any_optimizer(
        self, _optimizer: Optimizer, _args: Any, _kwargs: Any
    ) -> None:  # Any: as in torch
        while self._records and self._records[0].is_finished:
            self._records.popleft().forget()

    # What they use

    def _drop_old(self, step: int) -> None:
        records = self._records
        while records and (records[0].step != step or len(records) >= _RECORDS):
            records.popleft().forget()
        while len(records) > 1 and records[0].is_finished:
            if sum(each.size_bytes for each in records) <= _FINISHED_BYTES:
                return
            records.popleft().forget()

    def _learn(self, record: ForwardRecord) -> None:
        self._learned += 1
        after = RandomState(has_python=True)
        is_same = record.random.python == after.python and str(record.random.numpy) == str(after.numpy)
        if not is_same:
            self._learned = sys.maxsize
        elif self._learned == _LEARNING:
            self._has_python_random = False

    def _is_bad(self, tensor: torch.Tensor) -> bool:
        if type(tensor) is not torch.Tensor or tensor.numel() > _CHECKED_ELEMENTS:
            return False
        self._holder.grad = tensor
        places = self._find_suspects([self._holder])
        self._holder.grad = None
        if not places or not tensor.is_cpu or tensor.layout is not torch.strided or tensor.is_nested:
            return False
        return bool(count_nonfinite(tensor))

    def _is_nan(self, tensor: torch.Tensor) -> bool:
        """Return whether a small tensor contains NaN. An infinity in an output may be a mask."""
        return self._is_bad(tensor) and bool(torch.isnan(widened(tensor.detach())).any())

    def _alarm(self, seen: _Seen) -> None:
        """Make the nonfinite check run in this step."""
        self._alarms.add(seen)
        self._alarm_step = self._run.counter.step
        self._run.counter.checks_at = 0
        self._run.plan_again()

    def give_up(self, error: Exception) -> None:
        """Switch the recorder off after an error."""
        self.remove()
        self._active.next_switch = sys.maxsize
        self._run.faults.report("the flight recorder", error, "It is off; training continues.")


def _tensors_of(output: object) -> list[tuple[int, torch.Tensor]]:
    return list(enumerate(tensor for _, tensor in find_tensors(output)))[:_OUTPUTS]


def _all(holders: list[_Holder]) -> list[int]:
    """Return all places: without the native pass, each tensor is checked with torch's operations."""
    return list(range(len(holders)))
