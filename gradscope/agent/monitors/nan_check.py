"""The sentinel: a look in every step, observed or not, at whether gradients are finite.

One grouped look at the gradients, before the optimizer steps. So the first bad step is known, and
which parameters it struck, although the step was not observed; and these can be kept clean. Where all
of them in each step would cost too much, `rota` says which are looked at and when, unless something is
to be done about what is found.

On a CPU the answer is there at once. On another device it is read a step later, so that nothing waits,
unless the step is to be skipped: then the look waits for the device.
"""

import math
import statistics
import time
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch.optim import Optimizer

from gradscope.agent.monitors.nan_check_schedule import CheckSchedule
from gradscope.agent.monitors.skip_step import HiddenGradients
from gradscope.agent.step.plugins import StepPlugin
from gradscope.hooks import parameters_of
from gradscope.observe import make_find_nonfinite, numbers_of_gradient

__all__ = ["NonfiniteCheck"]

_TOLD_EVERY: Final = 8
"""After so many looks it is told what they take."""

_MEMORY: Final = 5
"""The middle of so many such averages is told: a single slow look is none that costs."""


@dataclass(frozen=True, slots=True)
class _Look:
    """The norms of one device's gradients on their way to the host, and whose they are."""

    step: int
    parameters: tuple[torch.nn.Parameter, ...]
    norms: torch.Tensor
    event: torch.Event | None


class NonfiniteCheck(StepPlugin):
    """Tells `on_bad(step, parameters)` of gradients that are not finite, for each step and optimizer.

    `rota` chooses what to look at where not all is asked for, as `needs_all()` says that it is.
    `is_known_well()`: whether it was measured already that all is finite. `must_wait()`: whether the
    answer is needed before the optimizer steps; `on_bad` then returns whether to skip the step.
    `has_closure()`: whether the optimizer computes its gradients itself: then they are looked at when
    it has stepped, and no step can be skipped. `on_cost(spent_s)` is told, now and then, what the looks
    of one step took on average; it is told to the `rota` as well.
    """

    name = "the sentinel"

    def __init__(
        self,
        on_bad: Callable[[int, Sequence[torch.nn.Parameter]], bool],
        *,
        rota: CheckSchedule,
        needs_all: Callable[[], bool],
        is_known_well: Callable[[], bool],
        must_wait: Callable[[], bool],
        has_closure: Callable[[], bool],
        on_cost: Callable[[float], None],
    ) -> None:
        self._on_bad = on_bad
        self._rota = rota
        self._needs_all = needs_all
        self._is_known_well = is_known_well
        self._must_wait = must_wait
        self._has_closure = has_closure
        self._on_cost = on_cost
        self._find_nonfinite = make_find_nonfinite()
        self._step = -1
        self._every = 1
        self._spent_s = self._part = 0.0
        self._looks = self._steps = 0
        self._costs_s: deque[float] = deque(maxlen=_MEMORY)
        self._late: weakref.WeakSet[Optimizer] | None = None
        self._waiting: deque[_Look] = deque()
        self._withheld = HiddenGradients()

    def begin(self, step: int, *, is_observed: bool) -> None:  # noqa: ARG002 - a part's signature
        """Begin a step."""
        self._withheld.give_back()

    def look(self, step: int, optimizer: Optimizer) -> int:
        """Look at the gradients; where it was asked for, let a bad step pass without them."""
        self._steps += step != self._step
        self._step = step
        if self._has_closure():
            if self._late is None:
                self._late = weakref.WeakSet()
            self._late.add(optimizer)
            self.wake()
        elif not self._is_known_well():
            self._look(optimizer, may_skip=True)
        self._looks += 1
        if self._looks >= _TOLD_EVERY:
            self._learn(self._spent_s / max(1, self._steps), self._part / self._looks)
            self._spent_s, self._part, self._looks, self._steps = 0.0, 0.0, 0, 0
        return step + self._go_on()

    def looked(self, looks: int, looked_s: float) -> None:
        """Learn from looks that were made in C."""
        self._learn(looked_s / looks, 1.0)
        self._go_on()

    def after_optimizer(self, optimizer: Optimizer) -> None:
        """Give back what was taken; look at what only now is there."""
        self._withheld.give_back()
        if self._late is not None and optimizer in self._late:
            self._late.discard(optimizer)
            self._look(optimizer, may_skip=False)

    def end(self, step: int, step_time_s: float, *, is_observed: bool) -> None:  # noqa: ARG002 - as above
        """Take the answers that have come."""
        self._collect(wait=False)
        self.rest_unless(lambda: self._waiting or self._late)

    def close(self) -> None:
        """Take the answers that are left, and give back what was taken."""
        self._withheld.give_back()
        self._collect(wait=True)

    def _learn(self, look_s: float, part: float) -> None:
        """Learn what looks at that part of all take in a step, and tell what looking costs."""
        self._costs_s.append(look_s / self._every)
        self._on_cost(statistics.median_low(self._costs_s))
        self._rota.learn(look_s, part)

    def _go_on(self) -> int:
        """Return in how many steps to look again, and let C do it where it is at all gradients."""
        is_all = self._needs_all()
        self._every = 1 if is_all else self._rota.every
        self.look_every(self._every if is_all or self._rota.is_whole else 0)
        return self._every

    def _look(self, optimizer: Optimizer, *, may_skip: bool) -> None:
        if _is_watched_by_scaler(optimizer):
            return
        began_s = time.perf_counter()
        everything = parameters_of(optimizer)
        parameters, part = everything, 1.0
        if not self._needs_all():
            parameters, part = self._rota.choose(everything, self._step)
        bad, places = self._find(parameters)
        if bad and part < 1.0:
            parameters, part = everything, 1.0
            bad, places = self._find(everything)
        self._part += part
        elsewhere = _by_device([parameters[place] for place in places])
        must_wait = may_skip and bool(elsewhere) and self._must_wait()
        for device, there in elsewhere.items():
            self._waiting.append(_look_on(device, self._step, there))
            self.wake()
        if must_wait:
            while self._waiting and self._waiting[-1].step == self._step:
                bad += _bad_of(self._waiting.pop())
        self._spent_s += time.perf_counter() - began_s
        if bad and self._on_bad(self._step, bad) and may_skip:
            self._withheld.take(optimizer)
            self.wake()

    def _find(self, parameters: list[torch.nn.Parameter]) -> tuple[list[torch.nn.Parameter], list[int]]:
        """Return the bad ones, and the places of those that lie on another device."""
        bad_places, places = self._find_nonfinite(parameters)
        return [parameters[place] for place in bad_places], places

    def _collect(self, *, wait: bool) -> None:
        while self._waiting:
            event = self._waiting[0].event
            if not wait and event is not None and not event.query():
                return
            look = self._waiting.popleft()
            bad = _bad_of(look)
            if bad:
                self._on_bad(look.step, bad)


def _is_watched_by_scaler(optimizer: Optimizer) -> bool:
    """Whether a GradScaler has looked already, and the optimizer itself heeds what it found."""
    return getattr(optimizer, "found_inf", None) is not None


def _by_device(
    parameters: Sequence[torch.nn.Parameter],
) -> dict[torch.device, list[torch.nn.Parameter]]:
    """Return parameters by the device of their gradient."""
    groups: dict[torch.device, list[torch.nn.Parameter]] = {}
    for parameter in parameters:
        if parameter.grad is not None:
            groups.setdefault(parameter.grad.device, []).append(parameter)
    return groups


def _look_on(device: torch.device, step: int, parameters: Sequence[torch.nn.Parameter]) -> _Look:
    """Queue the greatest magnitude of each gradient, which cannot overflow, and its way to the host."""
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
    return _Look(step, tuple(ordered), host, event)


def _by_dtype(parameters: Sequence[torch.nn.Parameter]) -> list[list[torch.nn.Parameter]]:
    groups: dict[torch.dtype, list[torch.nn.Parameter]] = {}
    for parameter in parameters:
        groups.setdefault(parameter.dtype, []).append(parameter)
    return list(groups.values())


def _bad_of(look: _Look) -> list[torch.nn.Parameter]:
    if look.event is not None:
        look.event.synchronize()
    is_finite = torch.isfinite(look.norms).tolist()
    return [p for p, is_well in zip(look.parameters, is_finite, strict=True) if not is_well]
