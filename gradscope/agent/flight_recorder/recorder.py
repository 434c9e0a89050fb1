"""`FlightRecorder`: keeps what a replay of the current step needs, and checks a little in every step.

    forward: inputs, random state ─▶ output: NaN? ─▶ backward: gradient at the output, four gradients of parameters

Nothing is copied, and nothing is kept longer than until the optimizer has stepped.
"""

import sys
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

import torch
from torch import nn
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.utils.hooks import RemovableHandle

from gradscope.agent.diagnosis.batch_log import BatchLog
from gradscope.agent.diagnosis.monitor import FindingMonitor
from gradscope.agent.flight_recorder.fault_file import Fault, copy_fault, save_fault
from gradscope.agent.flight_recorder.forward_record import (
    ForwardRecord,
    autocast_now,
    tensors_of,
    versions_of,
)
from gradscope.agent.flight_recorder.isolation import RandomState
from gradscope.agent.flight_recorder.loss_graph import LossGraph
from gradscope.agent.flight_recorder.operations import count_nonfinite, widened
from gradscope.agent.flight_recorder.origin import Origin
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

_PROBES: Final = 2
"""Parameters whose gradient is checked in every step: of the first layer, which a NaN of the backward pass reaches, and
of one in the middle, for a model with branches."""

_OUTPUTS: Final = 16
"""Tensors in an output whose gradients are kept."""

_TRACED: Final = 3
"""Replays in one run."""

_LEARNING: Final = 3
"""Forwards after which it is known whether the model draws random numbers from Python or NumPy."""

_Seen: TypeAlias = Literal["output", "loss", "gradient"]


class _Holder:
    """Passes any tensor to the check of gradients."""

    __slots__ = ("grad",)

    def __init__(self) -> None:
        self.grad: torch.Tensor | None = None


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
        self._handles: list[Any] = []  # Any: torch's handles have no common type
        self._leaf_handles: list[RemovableHandle] = []
        self._probes: list[weakref.ref[nn.Parameter]] = []
        self._revision = -1
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
        """Install the hooks."""
        self._hook.install()
        self._roots.install()
        self._handles.append(register_optimizer_step_post_hook(self._after_any_optimizer))

    def remove(self) -> None:
        """Remove the hooks and drop everything."""
        self._hook.remove()
        self._roots.remove()
        while self._handles:
            self._handles.pop().remove()
        self.forget()

    def forget(self) -> None:
        """Drop the records."""
        while self._records:
            self._records.popleft().forget()
        while self._leaf_handles:
            self._leaf_handles.pop().remove()

    @property
    def is_between_steps(self) -> bool:
        """Whether a step has ended and no forward of the model with gradients has begun since. False if unknown."""
        return 0 <= self._newest_forward < self._run.counter.step

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

    def next_active_step(self, step: int) -> int | None:  # noqa: ARG002 - the signature of a plugin
        """Return None: all methods that are needed are always called."""
        return None

    @property
    def sees_more_than_gradients(self) -> bool:
        """Whether the loss or the output of this step is not finite, so that the loss scale is not the cause."""
        return bool(self._alarms - {"gradient"})

    def dismiss(self) -> None:
        """Forget what was seen in this step, because it is reported or counted elsewhere."""
        self._alarms.clear()
        self._newest_known = self._run.counter.step

    def check_gradients(self, step: int, optimizer: Optimizer) -> None:
        """Report what was seen although the gradients that the optimizer gets are finite."""
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
        """Report what was seen in a step that ended without an optimizer."""
        if self._is_known():
            self.dismiss()
        elif self._alarms and (self.sees_more_than_gradients or not self.has_scaler):
            self.report(self._alarm_step, (), "no optimizer has stepped yet")

    def _is_known(self) -> bool:
        """Return whether what was seen continues from the step before, or was reported in this step already."""
        return bool(self._alarms) and self._alarm_step <= self._newest_known + 1

    def trace(self) -> tuple[ForwardRecord | None, Replay]:
        """Replay the records of the step, until one of them has the origin. Call it before the optimizer steps."""
        model = self._run.model()
        if model is None:
            return None, Replay(None, "the model was garbage-collected")
        if not self._records:
            return None, Replay(
                None, "the model's own forward was not called in this step, or was traced"
            )
        names = {id(module): name for name, module in model.named_modules()}
        found: tuple[ForwardRecord | None, Replay] = None, Replay(None, "")
        for record in self._records:
            if record.parameter_version != self._parameter_version():
                result = Replay(None, "the parameters were changed before the gradients were checked")
            else:
                self._complete(record)
                result = replay(record, names)
            if result.origin is not None:
                return record, result
            found = record, result
        return found

    # Called by the hooks

    def _on_enter(self, module: nn.Module, args: tuple[Any, ...]) -> None:  # Any: as in torch
        try:
            with hidden_from_modes():
                self._report_unused()
                self._drop_old()
                self._newest_forward = self._run.counter.step
                if self._revision != self._engine.tracker.revision:
                    self._choose_probes()
                self._records.append(self._record(module, args))
                self.batches.begin(self._run.counter.step, args)
        except Exception as error:  # noqa: BLE001 - gradscope's errors must not stop the training
            self._give_up(error)

    def _on_leave(
        self, _module: nn.Module, kwargs: dict[str, Any], output: Any
    ) -> None:  # Any: as in torch
        try:
            record = self._records[-1] if self._records else None
            if record is not None and not record.has_returned and output is not None:
                with hidden_from_modes():
                    self._complete_record(record, kwargs, output)
        except Exception as error:  # noqa: BLE001 - as above
            self._give_up(error)

    def _complete_record(
        self, record: ForwardRecord, kwargs: dict[str, Any], output: object
    ) -> None:  # Any: as above
        record.has_returned = True
        record.nodes = record.nodes[0], sequence_number()
        if kwargs:
            record.kwargs = dict(kwargs)
            record.versions += versions_of(kwargs)
            self.batches.add_keywords(kwargs)
        if self._learned < _LEARNING:
            self._learn(record)
        self._watch(record, output)

    def _watch(self, record: ForwardRecord, output: object) -> None:
        outputs = ((0, output),) if type(output) is torch.Tensor else _tensors_of(output)
        for place, tensor in outputs:
            if self._is_nan(tensor):
                self._alarm("output")
            if tensor.requires_grad:
                handle = watch_gradient(tensor, GradientHook(self._on_gradient, (record, place)))
                if handle is not None:
                    self._leaf_handles.append(handle)

    def _on_backward(self, tensors: list[torch.Tensor]) -> None:
        """Check the loss, and watch the operations between the model and the loss. Must not raise."""
        record = self._records[-1] if self._records else None
        if record is None or not record.has_returned:
            return
        try:
            with hidden_from_modes():
                self._check_loss(record, tensors[0])
        except Exception as error:  # noqa: BLE001 - as above
            self._give_up(error)

    def _check_loss(self, record: ForwardRecord, loss: torch.Tensor) -> None:
        if (
            type(loss) is not torch.Tensor
            or loss.grad_fn is None
            or loss.numel() != 1
            or not loss.is_cpu
        ):
            return
        graph = LossGraph(loss, self._is_of_model)
        if self._is_nan(loss) if self.has_scaler else self._is_bad(loss):
            record.loss = graph.explain_value()
            self._alarm("loss")
        else:
            graph.watch(self._is_bad, self._on_loss_gradient, self._give_up)

    def _on_loss_gradient(self, origin: Origin) -> None:
        if self._records and self._records[-1].loss is None:
            self._records[-1].loss = origin
            self._alarm("gradient")

    def _is_of_model(self, number: int) -> bool:
        return number < self._records[0].nodes[0] or any(
            first <= number < end for first, end in (record.nodes for record in self._records)
        )

    def _on_gradient(self, token: tuple[ForwardRecord, int], gradient: torch.Tensor) -> None:
        try:
            with hidden_from_modes():
                self._keep_gradient(*token, gradient)
        except Exception as error:  # noqa: BLE001 - as above
            self._give_up(error)

    def _keep_gradient(self, record: ForwardRecord, place: int, gradient: torch.Tensor) -> None:
        if not record.args and not record.kwargs:
            return
        if gradient.numel() * gradient.element_size() > _GRADIENT_BYTES:
            record.too_large = True
            return
        record.gradients[place] = gradient
        if self._is_bad(gradient):
            record.has_bad_gradient = True
            self._alarm("gradient")

    def _on_parameter(self, parameter: torch.Tensor) -> None:
        try:
            with hidden_from_modes():
                gradient = parameter.grad
                if gradient is not None and self._is_bad(gradient):
                    self._alarm("gradient")
        except Exception as error:  # noqa: BLE001 - as above
            self._give_up(error)

    @untraced
    def _after_any_optimizer(
        self, _optimizer: Optimizer, _args: Any, _kwargs: Any
    ) -> None:  # Any: as in torch
        while self._records and self._records[0].is_finished:
            self._records.popleft().forget()

    # What they use

    def _record(self, module: nn.Module, args: tuple[Any, ...]) -> ForwardRecord:  # Any: as in torch
        frame = sys._getframe(2)  # noqa: SLF001 - inspect.stack() reads all files
        while frame.f_back is not None and not is_users_code(frame.f_code):
            frame = frame.f_back
        return ForwardRecord(
            step=self._run.counter.step,
            module=weakref.ref(module),
            args=args,
            random=RandomState(has_python=self._has_python_random),
            versions=versions_of(args),
            autocast=autocast_now() if torch._C._is_any_autocast_enabled() else [],  # noqa: SLF001 - no public name, and fast
            called_at=(frame.f_code, frame.f_lineno),
            is_training=module.training,
            parameter_version=self._parameter_version(),
            nodes=(sequence_number(), 0),
        )

    def _drop_old(self) -> None:
        step, records = self._run.counter.step, self._records
        while records and (records[0].step != step or len(records) >= _RECORDS):
            records.popleft().forget()
        while len(records) > 1 and records[0].is_finished and self._size_bytes() > _FINISHED_BYTES:
            records.popleft().forget()

    def _size_bytes(self) -> int:
        return sum(
            t.numel() * t.element_size() for r in self._records for t in tensors_of((r.args, r.kwargs))
        )

    def _parameter_version(self) -> int:
        parameter = self._probes[0]() if self._probes else None
        return -1 if parameter is None else parameter._version  # noqa: SLF001 - torch counts the changes of a tensor

    def _learn(self, record: ForwardRecord) -> None:
        self._learned += 1
        after = RandomState(has_python=True)
        is_same = record.random.python == after.python and str(record.random.numpy) == str(after.numpy)
        if not is_same:
            self._learned = sys.maxsize
        elif self._learned == _LEARNING:
            self._has_python_random = False

    def _complete(self, record: ForwardRecord) -> None:
        """Check a gradient that was too large to be checked in every step."""
        record.has_bad_gradient |= any(
            not bool(torch.isfinite(widened(g)).all()) for g in record.gradients.values()
        )

    def _choose_probes(self) -> None:
        """Install hooks on the smallest parameter of the first layer and of one in the middle."""
        self._revision = self._engine.tracker.revision
        model = self._run.model()
        while len(self._handles) > 1:
            self._handles.pop().remove()
        self._probes = []
        layers = [] if model is None else list(_smallest_parameters(model))
        for parameter in layers[: 1 if len(layers) < 3 else None : max(1, len(layers) // 2)][:_PROBES]:
            self._probes.append(weakref.ref(parameter))
            handle = parameter.register_post_accumulate_grad_hook(self._on_parameter)  # type: ignore[no-untyped-call]  # torch does not annotate it
            self._handles.append(handle)

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

    def _give_up(self, error: Exception) -> None:
        self.remove()
        self._newest_forward = -1
        self._run.faults.report("the flight recorder", error, "It is off; training continues.")


def _tensors_of(output: object) -> list[tuple[int, torch.Tensor]]:
    return list(enumerate(tensor for _, tensor in find_tensors(output)))[:_OUTPUTS]


def _all(holders: list[_Holder]) -> list[int]:
    """Return all places: without the native pass, each tensor is checked with torch's operations."""
    return list(range(len(holders)))


def _can_be_hooked(parameter: torch.Tensor) -> bool:
    return parameter.requires_grad and parameter.is_leaf and not is_lazy(parameter)


def _smallest_parameters(model: nn.Module) -> list[nn.Parameter]:
    """Return the smallest trainable parameter of each module that has one, in order."""
    found = {}
    for module in model.modules():
        parameters = module._parameters.values()  # noqa: SLF001 - far faster than named_parameters()
        own = [p for p in parameters if p is not None and _can_be_hooked(p)]
        if own:
            smallest = min(own, key=torch.Tensor.numel)
            found[id(smallest)] = smallest
    return list(found.values())
