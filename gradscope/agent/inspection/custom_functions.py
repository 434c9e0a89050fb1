"""Records the custom autograd Functions that a model uses in one step, and the arguments of the model.

In that step an additional hook reads the inputs and the autograd graph of the output. The hook does not
unpack saved tensors and does not draw random numbers, so the training stays the same. Inputs are copied
only if there is a Function to examine, up to 16 MiB. Larger inputs are available only while the
training keeps them in memory.
"""

import weakref
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor
from torch.autograd import Function
from torch.utils import _pytree

from gradscope.agent.run.context import RunContext
from gradscope.agent.step.plugins import StepPlugin
from gradscope.errors import UsageError
from gradscope.hooks import (
    CallHooks,
    SlotTable,
    find_functions,
    has_compiled,
    hidden_from_modes,
    size_bytes_of,
)

__all__ = ["FunctionTracker", "TrackedFunctions"]

_COPY_LIMIT_BYTES: Final = 16 * 2**20
_Arguments = tuple[tuple[Any, ...], dict[str, Any]]  # Any: whatever a model is called with


@dataclass(slots=True)
class TrackedFunctions:
    """The custom Functions of one step. `outside` are used by the loss only, not inside the model."""

    step: int
    inside: tuple[type[Function], ...] = ()
    outside: tuple[type[Function], ...] = ()
    arguments: Callable[[], _Arguments] | None = None
    """Returns the arguments of the model's call; raises UsageError if they no longer exist."""


class FunctionTracker(StepPlugin):
    """Records the second observed step, and the next observed step after each `request()`.

    The first observed step is skipped: if the model is compiled in that step, it would be traced with
    the additional hook, and compiled a second time without the hook.
    """

    name = "recording custom Functions"
    needs_observed = True

    def __init__(self, run: RunContext) -> None:
        self._run = run
        self._is_first = True
        self._is_wanted = True
        self._tracking: TrackedFunctions | None = None
        self._tracked: TrackedFunctions | None = None
        self._hooks: CallHooks[bool] = CallHooks(
            SlotTable(()), lambda _slot, _args: None, self._on_forward, lambda _slot: None
        )

    def request(self) -> None:
        """Record the next observed step too."""
        self._is_wanted = self.needs_observed = True

    def tracked(self) -> tuple[TrackedFunctions, Callable[[], _Arguments]]:
        """Return the newest recorded step, and a function that returns the model's arguments in that step.

        Raises UsageError if no step has been recorded yet.
        """
        found = (
            self._tracking if self._tracking is not None and self._tracking.arguments else self._tracked
        )
        if found is None or found.arguments is None:
            why = (
                "the model is compiled, so its graph contains no Functions"
                if has_compiled()
                else "none is recorded yet (the second observed step will be)"
            )
            raise UsageError(
                f"scope.examine() uses the Functions of a recorded step, but {why}; pass the arguments of "
                "the model instead: scope.examine(batch)"
            )
        return found, found.arguments

    def next_active_step(self, step: int) -> int | None:  # noqa: ARG002 - the signature of a plugin
        """Return None: this plugin runs in observed steps only (`needs_observed`)."""
        return None

    def begin(self, step: int, *, is_observed: bool) -> None:
        """Install the hook if this step is to be recorded."""
        is_first, self._is_first = self._is_first, self._is_first and not is_observed
        if self._is_wanted and is_observed and not is_first and not has_compiled():
            self._tracking = TrackedFunctions(step)
            model = self._run.model()
            self._hooks.watch(SlotTable([] if model is None else [(model, True)]))
            self._hooks.install()

    def end(self, step: int, step_time_s: float, *, is_observed: bool) -> None:  # noqa: ARG002 - the signature of a plugin
        """Remove the hook, and store the result."""
        self._hooks.remove()
        if self._tracking is not None and self._tracking.arguments is not None:
            self._tracked, self._is_wanted = self._tracking, False
            self.needs_observed = False
        self._tracking = None

    def close(self) -> None:
        """Remove the hook."""
        self._hooks.remove()
        self._tracking = self._tracked = None

    def on_logged(self, values: Iterable[object]) -> None:
        """Find Functions in the graph of logged tensors, usually the loss."""
        tracking = self._tracking
        ends = [v for v in values if isinstance(v, Tensor) and v.grad_fn is not None]
        if tracking is not None and ends:
            self._guarded(lambda: self._track_outside(tracking, ends))

    def _on_forward(
        self, _slot: bool, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
    ) -> None:  # Any: as torch says
        tracking = self._tracking
        if tracking is not None and tracking.arguments is None:
            self._guarded(lambda: self._track_inside(tracking, args, kwargs, output))

    def _track_inside(
        self, tracking: TrackedFunctions, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
    ) -> None:  # Any: as above
        tensors = [t for t in _pytree.tree_leaves(output) if isinstance(t, Tensor)]
        tracking.inside = _functions_behind(tensors)
        tracking.arguments = _argument_source(args, kwargs, is_kept=bool(tracking.inside))

    def _track_outside(self, tracking: TrackedFunctions, ends: list[Tensor]) -> None:
        known = {*tracking.inside, *tracking.outside}
        others = (f for f in _functions_behind(ends) if f.__module__.partition(".")[0] != "gradscope")
        tracking.outside += tuple(
            f for f in others if f not in known
        )  # gradscope's own are interventions

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            with hidden_from_modes(), torch.no_grad():
                work()
        except Exception as error:  # noqa: BLE001 - an error in gradscope must not stop the training
            self._hooks.remove()
            self._tracking, self._is_wanted = None, False
            self._run.faults.report(self.name, error, "scope.examine() needs inputs now.")


def _functions_behind(tensors: Iterable[Tensor]) -> tuple[type[Function], ...]:
    """Return the custom Functions in an autograd graph, each once, except the ones that torch defines."""
    return tuple(f for f in find_functions(tensors) if f.__module__.partition(".")[0] != "torch")


def _argument_source(
    args: tuple[Any, ...], kwargs: Mapping[str, Any], *, is_kept: bool
) -> Callable[[], _Arguments]:
    """Return a function that returns the arguments. Arguments are copied if `is_kept` and small enough."""
    leaves, structure = _pytree.tree_flatten((args, dict(kwargs)))
    size = sum(size_bytes_of(leaf) for leaf in leaves if isinstance(leaf, Tensor))
    is_copied = is_kept and size <= _COPY_LIMIT_BYTES
    held = [_holder(leaf, is_copied=is_copied) for leaf in leaves]

    def arguments() -> _Arguments:
        values = [hold() for hold in held]
        if any(isinstance(leaf, _Deleted) for leaf in values):
            raise UsageError(
                f"the recorded arguments of the model were freed: they had {size / 2**20:.0f} MiB, "
                "and only up to 16 MiB are copied; pass a batch: scope.examine(batch)"
            )
        found: _Arguments = _pytree.tree_unflatten(values, structure)
        return found

    return arguments


class _Deleted:
    """Stands in for a tensor that the training has deleted."""


def _holder(leaf: object, *, is_copied: bool) -> Callable[[], object]:
    if not isinstance(leaf, Tensor):
        return lambda: leaf
    if is_copied:
        try:
            copy = leaf.detach().clone().requires_grad_(leaf.requires_grad)
        except (RuntimeError, NotImplementedError, TypeError):
            pass  # a tensor that torch cannot copy, such as a quantized one
        else:
            return lambda: copy
    reference = weakref.ref(leaf)
    return lambda: _Deleted() if (alive := reference()) is None else alive
