"""`Sampler`: chooses the steps to observe, so that observing stays within its part of the budget.

The cost of an observed step is its extra time over the unobserved steps around it, and at least the time measured
inside the hooks, which noise cannot hide. An idle step has a small cost, too. Every n-th step is observed, with the
smallest n for which

    cost of an idle step + cost of an observed step / n  <=  budget * bare step time

A **focus** measures a few layers in additional steps. It uses at most half of the allowed cost of observed steps, with
the smallest interval for that; observed steps get the rest. Focus steps are neither observed nor idle.

**Extra** steps, which a NaN for example requests with `request_steps`, may use in advance what the budget allows in
LARGEST_INTERVAL steps. So may the first steps of a run, in addition, so that they take nothing from a
NaN. Until that is repaid, half of the allowed cost of observed steps repays it.

Medians keep single slow steps from having an effect. The pace of the training is computed from every step; if it
changes, the known costs are discarded.
"""

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from gradscope.budget.budget import (
    BARE_STEP_AFTER,
    COST_WINDOW,
    COSTS_NEEDED,
    DEFAULT_FRACTION,
    EXTRA_STEPS_PART,
    FIRST_INTERVAL,
    FOCUS_BELIEVED_AFTER,
    FOCUS_FALLBACK,
    FOCUS_LEAST_COST,
    FOCUS_PART,
    LARGEST_INTERVAL,
    OTHER_PACE,
    PACE_CHECKED_EVERY,
    PACE_WINDOW,
    SAMPLER_ROUNDING,
    Budget,
    Consumer,
    interval,
)
from gradscope.budget.step_cost import StepCosts, median
from gradscope.errors import UsageError

__all__ = ["Sampler"]

_GAPS = 8
"""The cost that is reported is that at the mean of this many newest intervals."""


@dataclass(frozen=True, slots=True)
class _ObservingInterval:
    """Steps `origin`, `origin` + `every`, and so on. `keeps_bare`: a few steps are always left unobserved."""

    every: int
    origin: int
    keeps_bare: bool

    def next_due(self, step: int) -> int:
        """Return the first step, from this one on, that may be due."""
        since = step - self.origin
        return self.origin if since <= 0 else step + -since % self.every

    def is_due(self, step: int) -> bool:
        """Return whether a step is due."""
        since = step - self.origin
        if since < 0 or since % self.every:
            return False
        return not (
            self.keeps_bare and self.every == 1 and since % (BARE_STEP_AFTER + 1) == BARE_STEP_AFTER
        )


class Sampler:
    """Chooses the steps to observe: call `is_due(step)` at the start of a step, `record(...)` at its end.

    `is_shared`: several ranks observe the same steps. Then `wanted` is only this rank's preferred interval, and the
    interval is changed by `adopt`, in the same step on all ranks. The `first_steps` of a run are
    observed, as far as the budget of LARGEST_INTERVAL steps pays for them.
    """

    def __init__(
        self,
        *,
        budget: float | None = DEFAULT_FRACTION,
        every: int | None = None,
        is_shared: bool = False,
        first_steps: int = 0,
    ) -> None:
        if every is not None and (not isinstance(every, int) or every < 1):
            raise UsageError(f"every must be an integer of at least 1, got {every!r}")
        if budget is not None and not 0 < budget < 1:
            raise UsageError(
                f"budget must be a fraction of the step time between 0 and 1, or None, got {budget!r}"
            )
        self.budget = None if every is not None else budget
        """The fraction of the step time that observing may cost; None: no limit."""
        self.is_shared = is_shared
        self.wanted = every or (1 if budget is None else FIRST_INTERVAL)
        """The interval of observed steps that this process would choose."""
        self.wanted_focus = 0
        """The interval of focus steps that this process would choose; 0: none."""
        self._interval: _ObservingInterval | None = None
        self._focus_interval: _ObservingInterval | None = None
        self._focus_share = 0.0
        self._bare_s: deque[float] = deque(maxlen=COST_WINDOW)
        self._idle_s: deque[float] = deque(maxlen=COST_WINDOW)
        self._costs = StepCosts()
        self._focus_costs = StepCosts(believes_after=FOCUS_BELIEVED_AFTER)
        self._pace_s = 0.0
        self._newest_s: deque[float] = deque(maxlen=PACE_WINDOW)
        self._recorded = 0
        self._observed = self._focused = 0
        self._newest_observed: deque[int] = deque(maxlen=_GAPS + 1)
        self._aside_of: dict[str, float] = {}
        self._extra_steps = 0
        self._first_steps = 0 if self.budget is None else first_steps
        self._is_starting = self._first_steps > 0
        self._unpaid_s = 0.0
        self._repaid_s = 0.0
        """The cost of extra steps that is not repaid yet, and what each step repays."""

    @property
    def every(self) -> int:
        """The present interval of observed steps."""
        return self.wanted if self._interval is None else self._interval.every

    @property
    def focus_every(self) -> int:
        """The present interval of focus steps; 0: none."""
        return 0 if self._focus_interval is None else self._focus_interval.every

    @property
    def pace_s(self) -> float:
        """The present step time in seconds, without the time inside the hooks; 0 while unknown."""
        return self._pace_s

    def is_due(self, step: int) -> bool:
        """Return whether to observe this step. The first step is always observed."""
        if self._interval is None:
            self.adopt(self.wanted, step, self.wanted_focus)
            self._extra_steps = max(self._extra_steps, self._first_steps)
        if self._extra_steps and not self._can_pay_extra_step():
            self._extra_steps = 0
        self._is_starting = self._is_starting and self._extra_steps > 0
        return self._extra_steps > 0 or (self._interval is not None and self._interval.is_due(step))

    def is_focus_due(self, step: int) -> bool:
        """Return whether this is a focus step. A step that is fully observed is none."""
        return self._focus_interval is not None and self._focus_interval.is_due(step)

    def next_due(self, step: int) -> int:
        """Return the first step, from this one on, that may be an observed or a focus step."""
        if self._interval is None or self._extra_steps:
            return step
        due = self._interval.next_due(step)
        return due if self._focus_interval is None else min(due, self._focus_interval.next_due(step))

    def adopt(self, every: int, origin: int, focus_every: int = 0) -> None:
        """Set the intervals of observed and of focus steps, counted from `origin`."""
        self._interval = _ObservingInterval(every, origin, keeps_bare=self.budget is not None)
        self._adopt_focus(focus_every if self._focus_share else 0, origin)

    def focus(self, share: float) -> None:
        """Begin a focus on this share of the watched layers; 0 ends it.

        Without a budget every step is a focus step. With one, it begins when the cost of observed steps is known.
        """
        self._focus_share = share
        self._focus_costs.forget(is_cold=True)
        if not share:
            self.wanted_focus = 0
            self._focus_interval = None
        elif self.budget is None:
            self.wanted_focus = 1
            self._adopt_focus(1, 0)

    def request_steps(self, steps: int) -> None:
        """Observe the next `steps` steps; with a budget, only as many as it can pay for in advance."""
        self._extra_steps = max(self._extra_steps, steps)

    def set_aside(self, fraction: float, what: str = "") -> None:
        """Subtract the present cost of another consumer, named `what`, as a fraction of the time."""
        self._aside_of[what] = fraction

    def set_aside_for(self, what: str) -> float:
        """Return the present cost of another consumer, as a fraction of the time; 0 if it has reported none."""
        return self._aside_of.get(what, 0.0)

    def record(
        self,
        step: int,
        step_time_s: float,
        inside_s: float,
        *,
        was_observed: bool,
        was_focus: bool = False,
    ) -> None:
        """Record a finished step: its time, and the part of it that was spent inside the hooks."""
        if was_observed:
            self._observed = step
            self._newest_observed.append(step)
            self._costs.learn(step_time_s, inside_s, self._bare_s)
            if self._extra_steps and self._interval is not None and not self._interval.is_due(step):
                idle_s = median(self._idle_s) if self._idle_s else 0.0
                self._unpaid_s += self._costs.cost_s(idle_s) if self._costs.is_known else inside_s
            self._extra_steps = max(0, self._extra_steps - 1)
        elif was_focus:
            self._focused = step
            self._focus_costs.learn(step_time_s, inside_s, self._bare_s)
        else:
            self._bare_s.append(step_time_s)
            self._idle_s.append(inside_s)
        self._newest_s.append(step_time_s - inside_s)
        self._update_intervals(step, 1, was_observed=was_observed)

    def record_idle_steps(self, step: int, times_s: Sequence[float], inside_s: float) -> None:
        """Record idle steps, the last of which is `step`. inside_s: gradscope's own time in each."""
        self._bare_s.extend(times_s)
        self._idle_s.extend([inside_s] * len(times_s))
        self._newest_s.extend([time_s - inside_s for time_s in times_s])
        self._update_intervals(step, len(times_s), was_observed=False)

    def cost(self) -> float | None:
        """Return the cost as a fraction of the time, at the mean interval of the newest observed steps.

        None while unknown. If there are no idle steps to compare with, it is the time inside the hooks.
        """
        other = self._aside + (self.focus_cost() or 0.0)
        costs, newest, every = self._costs, self._newest_observed, float(self.every)
        if len(newest) > 1:
            every = max(1, (newest[-1] - newest[0]) / (len(newest) - 1))
        if costs.inside_s and not self._bare_s:
            return median(costs.inside_s) / median(costs.whole_s) / every + other
        if not costs.extra_s:
            return None
        idle_s, bare_s = median(self._idle_s), median(self._bare_s)
        return (idle_s + costs.cost_s(idle_s) / every) / max(bare_s - idle_s, 1e-9) + other

    def focus_cost(self) -> float | None:
        """Return the focus's part of `cost`; 0 without a focus, None while unknown."""
        costs, every = self._focus_costs, self.focus_every
        if not every:
            return 0.0
        if costs.inside_s and not self._bare_s:
            return median(costs.inside_s) / median(costs.whole_s) / every
        if not costs.extra_s:
            return None
        idle_s, bare_s = median(self._idle_s), median(self._bare_s)
        return costs.cost_s(idle_s) / every / max(bare_s - idle_s, 1e-9)

    @property
    def _aside(self) -> float:
        return sum(self._aside_of.values())

    def _can_pay_extra_step(self) -> bool:
        """Return whether extra steps have cost less than what may be used in advance, as far as known.

        Ranks measure different costs and must observe the same steps, so several ranks always pay.
        """
        if self.is_shared or not self._unpaid_s:
            return True
        requests = 1 + (self._first_steps > 0 and not self._is_starting)
        advance_s = (
            (self.budget or math.inf) * LARGEST_INTERVAL * (self._pace_s or median(self._newest_s))
        )
        return self._unpaid_s < requests * advance_s

    def _update_intervals(self, step: int, count: int, *, was_observed: bool) -> None:
        """Choose new intervals if it is time, after `count` steps that ended with `step`."""
        self._unpaid_s = max(0.0, self._unpaid_s - count * self._repaid_s)
        checks = self._recorded // PACE_CHECKED_EVERY
        self._recorded += count
        is_check = self._recorded // PACE_CHECKED_EVERY > checks and len(self._newest_s) == PACE_WINDOW
        if is_check:
            self._update_pace()
        if self.budget is None or not (was_observed or is_check):
            return
        self.wanted, self.wanted_focus = self._choose(self.budget)
        if not self.is_shared and self._interval is not None:
            self._apply_chosen_intervals(step)

    def _apply_chosen_intervals(self, step: int) -> None:
        """Apply the chosen intervals from the next steps on."""
        if self.wanted != self.every:
            origin = max(self._observed + self.wanted, step + 1)
            self._interval = _ObservingInterval(self.wanted, origin, keeps_bare=self.budget is not None)
        if self.wanted_focus != self.focus_every:
            self._adopt_focus(self.wanted_focus, max(self._focused + self.wanted_focus, step + 1))

    def _adopt_focus(self, every: int, origin: int) -> None:
        keeps_bare = self.budget is not None
        self._focus_interval = (
            _ObservingInterval(every, origin, keeps_bare=keeps_bare) if every else None
        )

    def _update_pace(self) -> None:
        """Discard the known costs if the pace has changed for three quarters of the newest steps."""
        newest_s = sorted(self._newest_s)
        low_s, middle_s, high_s = (newest_s[PACE_WINDOW * i // 4] for i in (1, 2, 3))
        if self._pace_s and (low_s > OTHER_PACE * self._pace_s or high_s * OTHER_PACE < self._pace_s):
            self._costs.forget()
            self._focus_costs.forget()
            self._bare_s.clear()
            self._idle_s.clear()
            self._pace_s = middle_s
        self._pace_s = 0.8 * self._pace_s + 0.2 * middle_s if self._pace_s else middle_s

    def _choose(self, budget: float) -> tuple[int, int]:
        """Return the intervals of observed steps and of focus steps; 0: none.

        A focus gains nothing if it could not be measured more often than full steps could be without the focus.
        """
        if not self._costs.is_known or len(self._bare_s) < COSTS_NEEDED:
            return FIRST_INTERVAL, 0
        idle_s = median(self._idle_s)
        bare_s = median(self._bare_s) - idle_s
        left_s = max(
            budget * bare_s - idle_s - self._aside * bare_s,
            Budget(budget).share(Consumer.STATISTICS) * bare_s,
        )
        if self._unpaid_s:
            self._repaid_s = EXTRA_STEPS_PART * left_s
            left_s -= self._repaid_s
        whole_s = self._costs.cost_s(idle_s)
        alone = _interval_of(whole_s, left_s)
        if not self._focus_share:
            return alone, 0
        focus_s = whole_s * max(FOCUS_LEAST_COST, self._focus_share)
        if self._focus_costs.is_known:
            focus_s = min(self._focus_costs.cost_s(idle_s), whole_s)
        focus = _interval_of(focus_s, FOCUS_PART * left_s)
        if focus >= alone:
            focus = max(focus, min(FOCUS_FALLBACK * alone, LARGEST_INTERVAL))
        return _interval_of(whole_s, left_s - focus_s / focus), focus


def _interval_of(cost_s: float, left_s: float) -> int:
    return interval(cost_s, left_s * (1.0 + SAMPLER_ROUNDING), largest=LARGEST_INTERVAL)
