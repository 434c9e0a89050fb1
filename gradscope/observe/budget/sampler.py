"""Which steps to observe, so that observing costs no more than a fraction of the time.

A step that is observed costs what it takes longer than the unobserved ones around it, and at least
the time measured inside the hooks themselves, which noise cannot hide. A step at rest costs the little
that is done in it, too. Every n-th step is observed, with the least n for which

    cost of a step at rest + cost of an observed step / n  ≤  budget · bare step time

A **focus** measures a few layers in further steps. It takes at most half of what observed steps may
cost, with the least interval that keeps to that; whole steps get what it leaves. Steps of a focus are
neither observed steps nor steps at rest.

Medians make it deaf to single slow steps. A training that becomes slower or faster is followed: its
pace is learnt from every step, and when it has become another, what was learnt before is forgotten.
"""

import math
from collections import deque
from collections.abc import Sequence

from gradscope.errors import UsageError
from gradscope.observe.budget.interval import ObservingInterval
from gradscope.observe.budget.step_cost import WINDOW, StepCosts, median

__all__ = ["Sampler"]

_FIRST_INTERVAL = 10
_LARGEST_INTERVAL = 1000
_NEEDED = 2
_LOOK_EVERY = 4
"""So often it is asked whether the training has another pace."""

_NEWEST = 8
_OTHER_PACE = 1.5
_ROUNDING = 1e-6
_LEAST_SHARE = 0.25
"""This part of the budget is for observed steps, even where steps at rest take more than theirs."""

_FOCUS_PART = 0.5
"""This part of what observed steps may cost is for a focus, at most."""

_SURE_AFTER = 8
"""Steps of a focus that are to be known before their time is compared with that of others."""

_SELDOM = 8
"""A focus that gains nothing is measured this much less often than whole steps, to see if it does."""

_LEAST_GUESS = 0.1
"""Before a step of a focus was measured it is taken for this part of a whole one, at least."""


class Sampler:
    """Chooses the steps to observe: ask `is_due(step)`, tell `record(...)`.

    `is_shared`: several ranks observe the same steps. Then `wanted` is only what this one would choose,
    and the rhythm changes by `adopt`, in the same step on all of them.
    """

    def __init__(
        self, *, budget: float | None = 0.02, every: int | None = None, is_shared: bool = False
    ) -> None:
        if every is not None and (not isinstance(every, int) or every < 1):
            raise UsageError(f"every must be a whole number of at least 1, got {every!r}")
        if budget is not None and not 0 < budget < 1:
            raise UsageError(
                f"budget must be a fraction of the step time between 0 and 1, or None, got {budget!r}"
            )
        self.budget = None if every is not None else budget
        """The fraction of the step time that observing may cost; None where it is not asked for."""
        self.is_shared = is_shared
        self.wanted = every or (1 if budget is None else _FIRST_INTERVAL)
        """Every how many steps one should be observed, as this process sees it."""
        self.wanted_focus = 0
        """Every how many steps a focus should be measured, as this process sees it; 0 for none."""
        self._rhythm: ObservingInterval | None = None
        self._focus_rhythm: ObservingInterval | None = None
        self._focus_share = 0.0
        self._bare_s: deque[float] = deque(maxlen=WINDOW)
        self._idle_s: deque[float] = deque(maxlen=WINDOW)
        self._costs = StepCosts()
        self._focus_costs = StepCosts(believes_after=_SURE_AFTER)
        self._pace_s = 0.0
        self._newest_s: deque[float] = deque(maxlen=_NEWEST)
        self._recorded = 0
        self._observed = self._focused = 0
        self._aside_of: dict[str, float] = {}
        self._extra_steps = 0

    @property
    def every(self) -> int:
        """Every how many steps one is observed at present."""
        return self.wanted if self._rhythm is None else self._rhythm.every

    @property
    def focus_every(self) -> int:
        """Every how many steps a focus is measured at present; 0 where none is."""
        return 0 if self._focus_rhythm is None else self._focus_rhythm.every

    @property
    def pace_s(self) -> float:
        """How long a step takes at present, less the time inside the hooks; 0 while not known."""
        return self._pace_s

    def is_due(self, step: int) -> bool:
        """Whether to observe this step. The first one asked for is observed."""
        if self._rhythm is None:
            self.adopt(self.wanted, step, self.wanted_focus)
        return self._extra_steps > 0 or (self._rhythm is not None and self._rhythm.is_due(step))

    def is_focus_due(self, step: int) -> bool:
        """Whether to measure the focus in this step, if it is not observed as a whole."""
        return self._focus_rhythm is not None and self._focus_rhythm.is_due(step)

    def next_due(self, step: int) -> int:
        """Return the first step from this one on in which anything may be measured."""
        if self._rhythm is None or self._extra_steps:
            return step
        due = self._rhythm.next_due(step)
        return due if self._focus_rhythm is None else min(due, self._focus_rhythm.next_due(step))

    def adopt(self, every: int, origin: int, focus_every: int = 0) -> None:
        """Observe every so many steps from `origin` on, and measure the focus, where there is one."""
        self._rhythm = ObservingInterval(every, origin, keeps_bare=self.budget is not None)
        self._adopt_focus(focus_every if self._focus_share else 0, origin)

    def focus(self, share: float) -> None:
        """Measure layers in further steps that are this share of all that are watched; 0: no longer.

        Without a budget they are measured in every step. With one it begins when the cost of observed
        steps is known.
        """
        self._focus_share = share
        self._focus_costs.forget(is_cold=True)
        if not share:
            self.wanted_focus = 0
            self._focus_rhythm = None
        elif self.budget is None:
            self.wanted_focus = 1
            self._adopt_focus(1, 0)

    def want(self, steps: int) -> None:
        """Have the next so many steps observed, whatever it costs."""
        self._extra_steps = max(self._extra_steps, steps)

    def set_aside(self, fraction: float, what: str = "") -> None:
        """Count within the budget what other measuring costs at present, as a fraction of the time.

        `what` names it, where there are several.
        """
        self._aside_of[what] = fraction

    def record(
        self,
        step: int,
        step_time_s: float,
        inside_s: float,
        *,
        was_observed: bool,
        was_focus: bool = False,
    ) -> None:
        """Learn from a finished step: its whole time, and that part of it that was gradscope's own."""
        self._extra_steps = max(0, self._extra_steps - was_observed)
        if was_observed:
            self._observed = step
            self._costs.learn(step_time_s, inside_s, self._bare_s)
        elif was_focus:
            self._focused = step
            self._focus_costs.learn(step_time_s, inside_s, self._bare_s)
        else:
            self._bare_s.append(step_time_s)
            self._idle_s.append(inside_s)
        self._newest_s.append(step_time_s - inside_s)
        self._follow(step, 1, was_observed=was_observed)

    def record_rest(self, step: int, times_s: Sequence[float], inside_s: float) -> None:
        """Learn from steps at rest, `step` the last of them. inside_s: that of each."""
        self._bare_s.extend(times_s)
        self._idle_s.extend([inside_s] * len(times_s))
        self._newest_s.extend([time_s - inside_s for time_s in times_s])
        self._follow(step, len(times_s), was_observed=False)

    def cost(self) -> float | None:
        """Return the fraction of the time that gradscope costs at present; None while not known.

        Where no step is at rest there is nothing to compare with: it is the time inside the hooks.
        """
        other = self._aside + (self.focus_cost() or 0.0)
        costs = self._costs
        if costs.inside_s and not self._bare_s:
            return median(costs.inside_s) / median(costs.whole_s) / self.every + other
        if not costs.extra_s:
            return None
        idle_s, bare_s = median(self._idle_s), median(self._bare_s)
        return (idle_s + costs.cost_s(idle_s) / self.every) / max(bare_s - idle_s, 1e-9) + other

    def focus_cost(self) -> float | None:
        """Return that part of `cost` which is the focus's; 0 without one, None while not known."""
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

    def _follow(self, step: int, count: int, *, was_observed: bool) -> None:
        """Choose anew, where it is time to, after so many steps that ended with `step`."""
        looks = self._recorded // _LOOK_EVERY
        self._recorded += count
        is_look = self._recorded // _LOOK_EVERY > looks and len(self._newest_s) == _NEWEST
        if is_look:
            self._follow_pace()
        if self.budget is None or not (was_observed or is_look):
            return
        self.wanted, self.wanted_focus = self._choose(self.budget)
        if not self.is_shared and self._rhythm is not None:
            self._follow_wishes(step)

    def _follow_wishes(self, step: int) -> None:
        """Observe as often as is wanted from the next steps on."""
        if self.wanted != self.every:
            origin = max(self._observed + self.wanted, step + 1)
            self._rhythm = ObservingInterval(self.wanted, origin, keeps_bare=self.budget is not None)
        if self.wanted_focus != self.focus_every:
            self._adopt_focus(self.wanted_focus, max(self._focused + self.wanted_focus, step + 1))

    def _adopt_focus(self, every: int, origin: int) -> None:
        keeps_bare = self.budget is not None
        self._focus_rhythm = ObservingInterval(every, origin, keeps_bare=keeps_bare) if every else None

    def _follow_pace(self) -> None:
        """Forget what was learnt at another pace: three quarters of the newest steps must say so."""
        newest_s = sorted(self._newest_s)
        low_s, middle_s, high_s = (newest_s[_NEWEST * i // 4] for i in (1, 2, 3))
        if self._pace_s and (low_s > _OTHER_PACE * self._pace_s or high_s * _OTHER_PACE < self._pace_s):
            self._costs.forget()
            self._focus_costs.forget()
            self._bare_s.clear()
            self._idle_s.clear()
            self._pace_s = middle_s
        self._pace_s = 0.8 * self._pace_s + 0.2 * middle_s if self._pace_s else middle_s

    def _choose(self, budget: float) -> tuple[int, int]:
        """Return the intervals of observed steps and of the focus; 0 where there is to be none.

        A focus that could be measured no more often than whole steps could be without it gains nothing.
        """
        if not self._costs.is_known or len(self._bare_s) < _NEEDED:
            return _FIRST_INTERVAL, 0
        idle_s = median(self._idle_s)
        bare_s = median(self._bare_s) - idle_s
        left_s = max(budget * bare_s - idle_s - self._aside * bare_s, _LEAST_SHARE * budget * bare_s)
        whole_s = self._costs.cost_s(idle_s)
        alone = _interval(whole_s, left_s)
        if not self._focus_share:
            return alone, 0
        close_s = whole_s * max(_LEAST_GUESS, self._focus_share)
        if self._focus_costs.is_known:
            close_s = min(self._focus_costs.cost_s(idle_s), whole_s)
        focus = _interval(close_s, _FOCUS_PART * left_s)
        if focus >= alone:
            focus = max(focus, min(_SELDOM * alone, _LARGEST_INTERVAL))
        return _interval(whole_s, left_s - close_s / focus), focus


def _interval(cost_s: float, left_s: float) -> int:
    """Return every how many steps there may be one that costs so much, with so much left for each."""
    if left_s <= 0:
        return _LARGEST_INTERVAL
    return min(max(math.ceil(cost_s / left_s - _ROUNDING), 1), _LARGEST_INTERVAL)
