"""Capturing whole tensors of chosen layers: copies on the host, for a look.

A capture costs a copy of each tensor, and on CUDA the time that this takes: it is asked for, and no
part of the budget. Nothing of the training is changed. All captures of a run hold at most 256 MB.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Literal, Self, TypeAlias, cast, get_args

import torch
from torch import nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from gradscope.agent.run.faults import Faults
from gradscope.agent.step.plugins import StepPlugin
from gradscope.errors import UsageError
from gradscope.hooks import (
    GradientHook,
    OutputHook,
    find_tensors,
    hidden_from_modes,
    is_recomputing,
    is_transforming,
    parameters_of,
    watch_gradient,
)

__all__ = ["Capture", "CapturedTensor", "Captures", "What", "check_what"]

What: TypeAlias = Literal["activation", "gradient", "param_grad"]

_LIMIT_BYTES: Final = 256 * 2**20


@dataclass(frozen=True, slots=True)
class CapturedTensor:
    """A copy on the host. `name` tells tensors of one layer apart: a path in its output, a parameter.

    A layer called several times in a step leaves one for each call, in order.
    """

    step: int
    layer: str
    what: What
    name: str
    tensor: torch.Tensor


class Capture:
    """What a script holds of a capture, until `remove()`; a context manager too."""

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
        """Why tensors were not captured, in words; the newest few."""
        self._remove = remove
        self._steps: dict[int, list[CapturedTensor]] = {}

    def tensors(self) -> tuple[CapturedTensor, ...]:
        """Return what was captured in the newest `keep` steps, oldest first."""
        return tuple(each for step in list(self._steps.values()) for each in step)

    @property
    def size_bytes(self) -> int:
        """What is held."""
        return sum(each.tensor.nbytes for each in self.tensors())

    def remove(self) -> None:
        """Capture no longer; what was captured stays here."""
        self._remove(self)

    def put(self, captured: CapturedTensor) -> None:
        """Keep a tensor, and let go of steps that are too old."""
        self._steps.setdefault(captured.step, []).append(captured)
        while len(self._steps) > self.keep:
            del self._steps[next(iter(self._steps))]

    def skip(self, why: str) -> None:
        """Note that a tensor was not captured."""
        if why not in self.skipped:
            self.skipped = (*self.skipped[-7:], why)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.remove()

    def __repr__(self) -> str:
        return f"<capture of {self.what} of {', '.join(self.layers)}: {len(self.tensors())} tensors>"


def check_what(what: object) -> What:
    """Return what is to be captured. Raises UsageError for anything else."""
    if what not in get_args(What):
        raise UsageError(f"what must be one of {', '.join(get_args(What))}, got {what!r}")
    return cast("What", what)


class Captures(StepPlugin):
    """The captures of one run. Its hook is there only in steps in which something is captured."""

    name = "capturing"

    def __init__(self, modules: Callable[[], Mapping[str, nn.Module]], faults: Faults) -> None:
        self._modules = modules
        self._faults = faults
        self._there: tuple[Capture, ...] = ()
        self._due: tuple[Capture, ...] = ()
        self._hook = OutputHook(self._on_output)
        self._leaves: list[RemovableHandle] = []
        self._step = 0
        self._tickets = itertools.count()
        self._ticket = -1

    def add(self, layers: Sequence[str], what: What, *, every: int, keep: int) -> Capture:
        """Capture from the next step on that begins."""
        for name, value in (("every", every), ("keep", keep)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise UsageError(f"{name} must be a whole number of at least 1, got {value!r}")
        capture = Capture(layers, what, every, keep, self.remove)
        self._there = (*self._there, capture)
        self.wake()
        return capture

    def remove(self, capture: Capture) -> None:
        """Capture for it no longer."""
        self._there = tuple(each for each in self._there if each is not capture)

    def begin(self, step: int, *, is_observed: bool) -> None:  # noqa: ARG002 - a part's signature
        """Place the hook where something of this step is to be captured."""
        self.start(step)

    def start(self, step: int) -> None:
        """Begin to capture in a step, also in one that has begun already but has not computed."""
        self._step, self._ticket = step, next(self._tickets)
        if not self._there:
            return
        self._due = tuple(each for each in self._there if step % each.every == 0)
        wanted = {layer for each in self._due if each.what != "param_grad" for layer in each.layers}
        known = self._modules() if wanted else {}
        modules = {name: module for name, module in known.items() if name in wanted}
        if modules:
            self._hook.watch(modules)
        else:
            self._hook.remove()

    def before_optimizer(self, optimizer: Optimizer) -> None:
        """Capture the gradients that the optimizer is given."""
        wanted = [each for each in self._due if each.what == "param_grad"]
        if not wanted:
            return
        mine = {id(parameter) for parameter in parameters_of(optimizer)}
        modules = self._modules()
        for capture in wanted:
            for layer in capture.layers:
                module = modules.get(layer)
                for name, parameter in module.named_parameters(recurse=False) if module else ():
                    if id(parameter) in mine and parameter.grad is not None:
                        self._keep(capture, layer, name, parameter.grad)

    def end(self, step: int, step_time_s: float, *, is_observed: bool) -> None:  # noqa: ARG002 - as above
        """Take the hooks off."""
        self._ticket = -1
        if self._due or self._leaves:
            self._take_off()
        self.rest_unless(lambda: self._there)

    def _take_off(self) -> None:
        self._due = ()
        self._hook.remove()
        for handle in self._leaves:
            handle.remove()
        self._leaves.clear()

    def close(self) -> None:
        """Take the hooks off for good."""
        self._there, self._ticket = (), -1
        self._take_off()

    def _on_output(self, layer: str, output: Any) -> None:  # Any: whatever a module returns
        if not torch.is_grad_enabled() or is_recomputing():
            return
        try:
            with hidden_from_modes():
                for path, tensor in find_tensors(output):
                    self._see(layer, path, tensor)
        except Exception as error:  # noqa: BLE001 - ours must not become the training's
            self._give_up(error)

    def _see(self, layer: str, path: str, tensor: torch.Tensor) -> None:
        for capture in self._due:
            if layer not in capture.layers:
                continue
            if is_transforming():
                capture.skip(f"{layer} ran inside of torch.func: its tensors cannot be copied there")
            elif capture.what == "activation":
                self._keep(capture, layer, path, tensor)
            elif capture.what == "gradient" and tensor.requires_grad:
                token = self._ticket, capture, layer, path
                handle = watch_gradient(tensor, GradientHook(self._on_gradient, token))
                if handle is not None:
                    self._leaves.append(handle)

    def _on_gradient(self, token: tuple[int, Capture, str, str], gradient: torch.Tensor) -> None:
        ticket, capture, layer, path = token
        if ticket != self._ticket:
            return
        try:
            with hidden_from_modes():
                self._keep(capture, layer, path, gradient)
        except Exception as error:  # noqa: BLE001 - as above
            self._give_up(error)

    def _keep(self, capture: Capture, layer: str, name: str, tensor: torch.Tensor) -> None:
        to_local = getattr(tensor, "to_local", None)
        local: torch.Tensor = tensor.detach() if to_local is None else to_local().detach()
        if local.layout is not torch.strided:
            local = local.to_dense()
        if sum(each.size_bytes for each in self._there) + local.nbytes > _LIMIT_BYTES:
            capture.skip(
                f"{layer} {name}: {local.nbytes} bytes more would be over the {_LIMIT_BYTES} that all "
                "captures of a run may hold; capture fewer layers, or keep fewer steps"
            )
            return
        copy = local.to("cpu", copy=True).resolve_conj().resolve_neg()
        capture.put(CapturedTensor(self._step, layer, capture.what, name, copy))

    def _give_up(self, error: Exception) -> None:
        self._there = self._due = ()
        self._hook.remove()
        self._faults.report("capturing", error, "Nothing is captured any more.")
