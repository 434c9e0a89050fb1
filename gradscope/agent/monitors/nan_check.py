"""The nonfinite check: checks all gradients for NaN and infinity in every step, observed or not.

One grouped operation checks the gradients before the optimizer steps. The check finds the first
nonfinite step and its parameters even if that step is not observed, and the optimizer step can be
skipped. If checking every step would cost too much, only every N-th step is checked
(`nan_check_schedule`), unless a rule acts on the result.

On a CPU the result is available at once. On another device the result is read one step later, so that
the training does not wait for the device, unless the step may have to be skipped.
"""

import math
import statistics
import time
import weakref
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch.optim import Optimizer

from gradscope.agent.monitors.breakpoints import Breakpoints
from gradscope.agent.monitors.nan_check_schedule import CheckSchedule
from gradscope.agent.monitors.nan_response import NonfiniteResponse
from gradscope.agent.monitors.skip_step import HiddenGradients
from gradscope.agent.run.context import RunContext
from gradscope.agent.step.engine import StepEngine
from gradscope.agent.step.plugins import StepPlugin
from gradscope.hooks import parameters_of
from gradscope.observe import make_find_nonfinite, numbers_of_gradient

__all__ = ["NonfiniteCheck"]

_TOLD_EVERY: Final = 8
"""The average cost is reported after this many checks."""

_MEMORY: Final = 5
"""The median of this many averages is reported, so that a single slow check has no effect."""


@dataclass(frozen=True, slots=True)
class _PendingNorms:
    """The norms of the gradients on one device while they are copied to the host, and their parameters."""

    step: int
    parameters: tuple[torch.nn.Parameter, ...]
    norms: torch.Tensor
    event: torch.Event | None


class NonfiniteCheck(StepPlugin):
    """Checks the gradients of each optimizer, and passes nonfinite gradients to the response.

    Gradients that are computed in a closure are checked after the optimizer's step, which can then not
    be skipped. The cost counts towards the budget.
    """

    name = "the nonfinite check"

    def __init__(
        self,
        run: RunContext,
        engine: StepEngine,
        schedule: CheckSchedule,
        response: NonfiniteResponse,
        breakpoints: Breakpoints,
    ) -> None:
        self._run = run
        self._engine = engine
        self._schedule = schedule
        self._response = response
        self._breakpoints = breakpoints
        self._find_nonfinite = make_find_nonfinite()
        self._step = -1
        self._every = 1
        self._is_all = False
        self._checks_at: weakref.WeakKeyDictionary[Optimizer, int] = weakref.WeakKeyDictionary()
        self._spent_s = 0.0
        self._checks = self._steps = 0
        self._costs_s: deque[float] = deque(maxlen=_MEMORY)
        self._after_step: weakref.WeakSet[Optimizer] | None = None
        self._waiting: deque[_PendingNorms] = deque()
        self._hidden_gradients = HiddenGradients()

    def next_active_step(self, step: int) -> int | None:
        """Return `step` if results are pending, or if the steps to check must be chosen again."""
        has_work = self._waiting or self._after_step or self._hidden_gradients.are_hidden
        return step if has_work or self._is_all != self._needs_all() else None

    def begin(self, step: int, *, is_observed: bool) -> None:  # noqa: ARG002 - the signature of a plugin
        """Begin a step."""
        self._hidden_gradients.restore()

    def check_gradients(self, step: int, optimizer: Optimizer) -> None:
        """Check the gradients if a check is due; hide them from the optimizer if a rule skips the step."""
        if step < self._next_check(optimizer) and self._is_all == self._needs_all():
            return
        self._steps += step != self._step
        self._step = step
        if self._engine.has_closure:
            if self._after_step is None:
                self._after_step = weakref.WeakSet()
            self._after_step.add(optimizer)
            self._run.plan_again()
        elif not self._engine.has_only_finite:
            self._check(optimizer, may_skip=True)
        self._checks += 1
        if self._checks >= _TOLD_EVERY:
            self._learn(self._spent_s / max(1, self._steps))
            self._spent_s, self._checks, self._steps = 0.0, 0, 0
        self._plan_check(optimizer)

    def gradients_checked(self, steps: int, spent_s: float) -> None:
        """Update the cost with checks that the step counter made in C."""
        self._learn(spent_s / steps)
        self._plan_every()

    def after_optimizer(self, optimizer: Optimizer) -> None:
        """Restore hidden gradients; check gradients that were computed in a closure."""
        self._hidden_gradients.restore()
        if self._after_step is not None and optimizer in self._after_step:
            self._after_step.discard(optimizer)
            self._check(optimizer, may_skip=False)

    def end(self, step: int, step_time_s: float, *, is_observed: bool) -> None:  # noqa: ARG002 - the signature of a plugin
        """Handle the results that are on the host."""
        self._collect(wait=False)

    def close(self) -> None:
        """Handle the remaining results, and restore hidden gradients."""
        self._hidden_gradients.restore()
        self._collect(wait=True)

    def _needs_all(self) -> bool:
        """Return whether every step must be checked because a rule or breakpoint acts on the result."""
        return self._response.must_act() or self._breakpoints.are_set

    def _next_check(self, optimizer: Optimizer) -> int:
        counter = self._run.counter
        return counter.checks_at if self._is_counted(optimizer) else self._checks_at.get(optimizer, 0)

    def _plan_check(self, optimizer: Optimizer) -> None:
        self._plan_every()
        if self._is_counted(optimizer):
            self._run.counter.checks_at = self._step + self._every
        else:
            self._checks_at[optimizer] = self._step + self._every

    def _plan_every(self) -> None:
        """Choose how often to check, and set the step counter, which in C checks without calling Python."""
        self._is_all = self._needs_all()
        self._every = 1 if self._is_all else self._schedule.every
        self._run.counter.check_every = self._every

    def _is_counted(self, optimizer: Optimizer) -> bool:
        counted = self._run.counter.optimizer
        return counted is not None and counted() is optimizer

    def _learn(self, spent_s: float) -> None:
        """Update the cost of checking all gradients once, and count it in the budget."""
        self._costs_s.append(spent_s / self._every)
        sampler = self._run.sampler
        if sampler.pace_s > 0:
            cost_s = statistics.median_low(self._costs_s)
            sampler.set_aside(cost_s / sampler.pace_s, "nonfinite check")
        self._schedule.learn(spent_s)

    def _report(self, step: int, bad: Sequence[torch.nn.Parameter]) -> bool:
        """Report nonfinite gradients; return whether to skip the optimizer's step."""
        must_skip = self._response.report(step, bad)
        self._breakpoints.on_nonfinite()
        return must_skip

    def _check(self, optimizer: Optimizer, *, may_skip: bool) -> None:
        if _is_watched_by_scaler(optimizer):
            return
        began_s = time.perf_counter()
        parameters = parameters_of(optimizer)
        bad, places = self._find(parameters)
        elsewhere = _by_device([parameters[place] for place in places])
        must_wait = may_skip and bool(elsewhere) and self._response.must_wait()
        for device, there in elsewhere.items():
            self._waiting.append(_queue_norms(device, self._step, there))
            self._run.plan_again()
        if must_wait:
            while self._waiting and self._waiting[-1].step == self._step:
                bad += _parameters_with_nonfinite(self._waiting.pop())
        self._spent_s += time.perf_counter() - began_s
        if bad and self._report(self._step, bad) and may_skip:
            self._hidden_gradients.hide(optimizer)
            self._run.plan_again()

    def _find(self, parameters: list[torch.nn.Parameter]) -> tuple[list[torch.nn.Parameter], list[int]]:
        """Return the parameters with nonfinite gradients, and the indices of gradients on other devices."""
        bad_places, places = self._find_nonfinite(parameters)
        return [parameters[place] for place in bad_places], places

    def _collect(self, *, wait: bool) -> None:
        while self._waiting:
            event = self._waiting[0].event
            if not wait and event is not None and not event.query():
                return
            look = self._waiting.popleft()
            bad = _parameters_with_nonfinite(look)
            if bad:
                self._report(look.step, bad)


def _is_watched_by_scaler(optimizer: Optimizer) -> bool:
    """Return whether a GradScaler has checked the gradients and the optimizer itself skips the step."""
    return getattr(optimizer, "found_inf", None) is not None


def _by_device(
    parameters: Sequence[torch.nn.Parameter],
) -> dict[torch.device, list[torch.nn.Parameter]]:
    """Group parameters by the device of their gradient."""
    groups: dict[torch.device, list[torch.nn.Parameter]] = {}
    for parameter in parameters:
        if parameter.grad is not None:
            groups.setdefault(parameter.grad.device, []).append(parameter)
    return groups


def _queue_norms(
    device: torch.device, step: int, parameters: Sequence[torch.nn.Parameter]
) -> _PendingNorms:
    """Queue the maximum norm of each gradient, which cannot overflow, and its copy to the host."""
    is_cuda = device.type == "cuda"
    wide = torch.float32 if device.type == "mps" else torch.float64
    ordered: list[torch.nn.Parameter] = []
    norms: list[torch.Tensor] = []
    with torch.no_grad():
        for each in _by_dtype(parameters):
            ordered += each
            norms += torch._foreach_norm([numbers_of_gradient(p) for p in each], math.inf)  # noqa: SLF001 - what torch's own clipping uses
        there = torch.stack([norm.to(wide) for norm in norms])
        host = torch.empty(there.shape, dtype=wide, pin_memory=is_cuda)
        host.copy_(there, non_blocking=is_cuda)
    event = None
    if is_cuda:
        event = torch.Event(device)
        event.record(torch.cuda.current_stream(device))
    return _PendingNorms(step, tuple(ordered), host, event)


def _by_dtype(parameters: Sequence[torch.nn.Parameter]) -> list[list[torch.nn.Parameter]]:
    groups: dict[torch.dtype, list[torch.nn.Parameter]] = {}
    for parameter in parameters:
        groups.setdefault(parameter.dtype, []).append(parameter)
    return list(groups.values())


def _parameters_with_nonfinite(look: _PendingNorms) -> list[torch.nn.Parameter]:
    if look.event is not None:
        look.event.synchronize()
    is_finite = torch.isfinite(look.norms).tolist()
    return [p for p, is_well in zip(look.parameters, is_finite, strict=True) if not is_well]
