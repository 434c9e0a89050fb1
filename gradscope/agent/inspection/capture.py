"""Captures: copies of whole tensors of chosen layers, on the host.

A capture costs a copy of each tensor, and on CUDA the time of that copy. It is an explicit request and does
not count against the budget. It does not change the training. All captures of a run hold at most 256 MiB.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, Self, TypeAlias, cast, get_args

import torch
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from gradscope.agent.run.context import RunContext
from gradscope.agent.step.engine import StepEngine
from gradscope.agent.step.plugins import StepPlugin
from gradscope.errors import UsageError
from gradscope.hooks import (
    GradientHook,
    OutputHook,
    find_tensors,
    hidden_from_modes,
    is_recomputing,
    is_transforming,
    local_part,
    parameters_of,
    watch_gradient,
)

__all__ = ["Capture", "CapturedTensor", "Captures", "What", "check_what"]

What: TypeAlias = Literal["activation", "gradient", "param_grad"]

_LIMIT_BYTES: Final = 256 * 2**20


@dataclass(frozen=True, slots=True)
class CapturedTensor:
    """A copy of a tensor in host memory.

    `name` distinguishes the tensors of one layer: a path in the layer's output, or a parameter name. If
    a layer is called several times in a step, there is one tensor for each call, in order.
    """

    step: int
    layer: str
    what: What
    name: str
    tensor: torch.Tensor


class Capture:
    """A capture that the script has started. Active until `remove()`; also a context manager."""

    def __init__(
        self,
        layers: Sequence[str],
        what: What,
        every: int,
        keep: int,
        remove: Callable[["Capture"], None],
    ) -> None:
        self.layers = tuple(layers)
        self.what = what
        self.every = every
        self.keep = keep
        self.skipped: tuple[str, ...] = ()
        """The newest eight reasons why tensors were not captured."""
        self._remove = remove
        self._steps: dict[int, list[CapturedTensor]] = {}

    def tensors(self) -> tuple[CapturedTensor, ...]:
        """Return the tensors of the newest `keep` captured steps, oldest step first."""
        return tuple(each for step in list(self._steps.values()) for each in step)

    @property
    def size_bytes(self) -> int:
        """Total size of the captured tensors, in bytes."""
        return sum(each.tensor.nbytes for each in self.tensors())

    def remove(self) -> None:
        """Stop capturing. The captured tensors stay available."""
        self._remove(self)

    def put(self, captured: CapturedTensor) -> None:
        """Add a tensor, and remove the oldest steps beyond `keep`."""
        self._steps.setdefault(captured.step, []).append(captured)
        while len(self._steps) > self.keep:
            del self._steps[next(iter(self._steps))]

    def skip(self, why: str) -> None:
        """Record why a tensor was not captured."""
        if why not in self.skipped:
            self.skipped = (*self.skipped[-7:], why)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.remove()

    def __repr__(self) -> str:
        return f"<capture of {self.what} of {', '.join(self.layers)}: {len(self.tensors())} tensors>"


def check_what(what: object) -> What:
    """Validate the kind of tensor to capture. Raises UsageError if it is unknown."""
    if what not in get_args(What):
        raise UsageError(f"expected what to be one of {', '.join(get_args(What))}, got {what!r}")
    return cast("What", what)


class Captures(StepPlugin):
    """The captures of one run. A hook is installed only in steps in which a capture is due."""

    name = "captures"

    def __init__(self, run: RunContext, engine: StepEngine) -> None:
        self._run = run
        self._engine = engine
        self._captures: tuple[Capture, ...] = ()
        self._due: tuple[Capture, ...] = ()
        self._hook = OutputHook(self._on_output)
        self._tensor_hooks: list[RemovableHandle] = []
        self._step = 0
        self._step_ids = itertools.count()
        self._step_id = -1

    def add(self, layers: Sequence[str], what: What, *, every: int, keep: int) -> Capture:
        """Add a capture that starts with the next step."""
        for name, value in (("every", every), ("keep", keep)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise UsageError(f"expected {name} to be an integer of at least 1, got {value!r}")
        capture = Capture(layers, what, every, keep, self.remove)
        self._captures = (*self._captures, capture)
        self._run.plan_again()
        return capture

    def remove(self, capture: Capture) -> None:
        """Stop a capture."""
        self._captures = tuple(each for each in self._captures if each is not capture)

    def next_active_step(self, step: int) -> int | None:
        """Return the next step in which a tensor is captured."""
        if self._due or self._tensor_hooks:
            return step
        return min((step + -step % each.every for each in self._captures), default=None)

    def begin(self, step: int, *, is_observed: bool) -> None:  # noqa: ARG002 - the signature of a plugin
        """Install the hook if a capture is due in this step."""
        self.start(step)

    def start(self, step: int) -> None:
        """Start the captures of a step. May be called after `begin`, as long as no layer has computed."""
        self._step, self._step_id = step, next(self._step_ids)
        if not self._captures:
            return
        self._due = tuple(each for each in self._captures if step % each.every == 0)
        wanted = {layer for each in self._due if each.what != "param_grad" for layer in each.layers}
        known = self._engine.tracker.modules() if wanted else {}
        modules = {name: module for name, module in known.items() if name in wanted}
        if modules:
            self._hook.watch(modules)
        else:
            self._hook.remove()

    def before_optimizer(self, optimizer: Optimizer) -> None:
        """Capture the gradients that the optimizer receives."""
        wanted = [each for each in self._due if each.what == "param_grad"]
        if not wanted:
            return
        mine = {id(parameter) for parameter in parameters_of(optimizer)}
        modules = self._engine.tracker.modules()
        for capture in wanted:
            for layer in capture.layers:
                module = modules.get(layer)
                for name, parameter in module.named_parameters(recurse=False) if module else ():
                    if id(parameter) in mine and parameter.grad is not None:
                        self._store(capture, layer, name, parameter.grad)

    def end(self, step: int, step_time_s: float, *, is_observed: bool) -> None:  # noqa: ARG002 - the signature of a plugin
        """Remove the hooks."""
        self._step_id = -1
        if self._due or self._tensor_hooks:
            self._remove_hooks()

    def _remove_hooks(self) -> None:
        self._due = ()
        self._hook.remove()
        for handle in self._tensor_hooks:
            handle.remove()
        self._tensor_hooks.clear()

    def close(self) -> None:
        """Remove the hooks and all captures."""
        self._captures, self._step_id = (), -1
        self._remove_hooks()

    def _on_output(self, layer: str, output: Any) -> None:  # Any: whatever a module returns
        if not torch.is_grad_enabled() or is_recomputing():
            return
        try:
            with hidden_from_modes():
                for path, tensor in find_tensors(output):
                    self._capture_output(layer, path, tensor)
        except Exception as error:  # noqa: BLE001 - an error in gradscope must not stop the training
            self._switch_off(error)

    def _capture_output(self, layer: str, path: str, tensor: torch.Tensor) -> None:
        for capture in self._due:
            if layer not in capture.layers:
                continue
            if is_transforming():
                capture.skip(
                    f"{layer} ran inside a torch.func transform, where tensors cannot be copied"
                )
            elif capture.what == "activation":
                self._store(capture, layer, path, tensor)
            elif capture.what == "gradient" and tensor.requires_grad:
                token = self._step_id, capture, layer, path
                handle = watch_gradient(tensor, GradientHook(self._on_gradient, token))
                if handle is not None:
                    self._tensor_hooks.append(handle)

    def _on_gradient(self, token: tuple[int, Capture, str, str], gradient: torch.Tensor) -> None:
        step_id, capture, layer, path = token
        if step_id != self._step_id:
            return
        try:
            with hidden_from_modes():
                self._store(capture, layer, path, gradient)
        except Exception as error:  # noqa: BLE001 - an error in gradscope must not stop the training
            self._switch_off(error)

    def _store(self, capture: Capture, layer: str, name: str, tensor: torch.Tensor) -> None:
        try:
            local = local_part(tensor).detach()
            if local.layout is not torch.strided:
                local = local.to_dense()
            if local.is_meta:
                raise NotImplementedError("a meta tensor has no elements")  # noqa: TRY301 - a reason like torch's own
        except (RuntimeError, NotImplementedError, TypeError) as error:
            capture.skip(
                f"{layer} {name}: a tensor of type {type(tensor).__name__} cannot be copied: {error}"
            )
            return
        if sum(each.size_bytes for each in self._captures) + local.nbytes > _LIMIT_BYTES:
            capture.skip(
                f"{layer} {name}: {local.nbytes} more bytes would exceed the {_LIMIT_BYTES} bytes that all "
                "captures of a run may hold; capture fewer layers, or keep fewer steps"
            )
            return
        copy = local.to("cpu", copy=True).resolve_conj().resolve_neg()
        capture.put(CapturedTensor(self._step, layer, capture.what, name, copy))

    def _switch_off(self, error: Exception) -> None:
        self._captures = self._due = ()
        self._hook.remove()
        self._run.faults.report("captures", error, "All captures have stopped.")
