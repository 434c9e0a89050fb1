"""Which steps to observe, so that observing costs no more than a fraction of the time.

A step that is observed costs what it takes longer than the unobserved ones around it, and at least
the time measured inside the hooks themselves, which noise cannot hide. A step at rest costs the little
that is done in it, too. Every n-th step is observed, with the least n for which

    cost of a step at rest + cost of an observed step / n  ≤  budget · bare step time

Medians make it deaf to single slow steps. A training that becomes slower or faster is followed: its
pace is learnt from every step, and when it has become another, what was learnt before is forgotten.
"""

import math
from collections import deque
from collections.abc import Iterable

from gradscope.errors import UsageError
from gradscope.observe.rhythm import Rhythm

__all__ = ["Sampler"]

_WINDOW = 15
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
        self._rhythm: Rhythm | None = None
        self._bare_s: deque[float] = deque(maxlen=_WINDOW)
        self._idle_s: deque[float] = deque(maxlen=_WINDOW)
        self._extra_s: deque[float] = deque(maxlen=_WINDOW)
        self._inside_s: deque[float] = deque(maxlen=_WINDOW)
        self._observed_s: deque[float] = deque(maxlen=_WINDOW)
        self._pace_s = 0.0
        self._newest_s: deque[float] = deque(maxlen=_NEWEST)
        self._recorded = 0
        self._observed = 0
        self._is_warm = False
        self._aside_of: dict[str, float] = {}
        self._extra_steps = 0

    @property
    def every(self) -> int:
        """Every how many steps one is observed at present."""
        return self.wanted if self._rhythm is None else self._rhythm.every

    def is_due(self, step: int) -> bool:
        """Whether to observe this step. The first one asked for is observed."""
        if self._rhythm is None:
            self.adopt(self.wanted, step)
        return self._extra_steps > 0 or (self._rhythm is not None and self._rhythm.is_due(step))

    def adopt(self, every: int, origin: int) -> None:
        """Observe every so many steps from `origin` on."""
        self._rhythm = Rhythm(every, origin, keeps_bare=self.budget is not None)

    def want(self, steps: int) -> None:
        """Have the next so many steps observed, whatever it costs."""
        self._extra_steps = max(self._extra_steps, steps)

    def set_aside(self, fraction: float, what: str = "") -> None:
        """Count within the budget what other measuring costs at present, as a fraction of the time.

        `what` names it, where there are several.
        """
        self._aside_of[what] = fraction

    def record(self, step: int, step_time_s: float, inside_s: float, *, was_observed: bool) -> None:
        """Learn from a finished step: its whole time, and that part of it that was gradscope's own."""
        self._extra_steps = max(0, self._extra_steps - was_observed)
        if was_observed:
            self._observed = step
            self._learn_cost(step_time_s, inside_s)
        else:
            self._bare_s.append(step_time_s)
            self._idle_s.append(inside_s)
        self._newest_s.append(step_time_s - inside_s)
        self._recorded += 1
        is_look = self._recorded % _LOOK_EVERY == 0 and len(self._newest_s) == _NEWEST
        if is_look:
            self._follow_pace()
        if self.budget is None or not (was_observed or is_look):
            return
        self.wanted = self._choose(self.budget)
        if not self.is_shared and self._rhythm is not None and self.wanted != self._rhythm.every:
            self.adopt(self.wanted, max(self._observed + self.wanted, step + 1))

    def cost(self) -> float | None:
        """Return the fraction of the time that gradscope costs at present; None while not known.

        Where every step is observed there is nothing to compare with: it is the time inside the hooks.
        """
        if self._inside_s and not self._bare_s:
            return _median(self._inside_s) / _median(self._observed_s) + self._aside
        if not self._inside_s or not self._extra_s:
            return None
        idle_s, bare_s = _median(self._idle_s), _median(self._bare_s)
        return (idle_s + self._cost_s() / self.every) / max(bare_s - idle_s, 1e-9) + self._aside

    @property
    def _aside(self) -> float:
        return sum(self._aside_of.values())

    def _learn_cost(self, step_time_s: float, inside_s: float) -> None:
        if self._is_warm:
            self._observed_s.append(step_time_s)
            self._inside_s.append(inside_s)
            if self._bare_s:
                self._extra_s.append(step_time_s - _median(self._bare_s))
        self._is_warm = True  # the first observed step also allots rows and warms caches

    def _follow_pace(self) -> None:
        """Forget what was learnt at another pace: three quarters of the newest steps must say so."""
        newest_s = sorted(self._newest_s)
        low_s, middle_s, high_s = (newest_s[_NEWEST * i // 4] for i in (1, 2, 3))
        if self._pace_s and (low_s > _OTHER_PACE * self._pace_s or high_s * _OTHER_PACE < self._pace_s):
            for old in (self._extra_s, self._inside_s, self._observed_s, self._bare_s, self._idle_s):
                old.clear()
            self._pace_s = middle_s
        self._pace_s = 0.8 * self._pace_s + 0.2 * middle_s if self._pace_s else middle_s

    def _choose(self, budget: float) -> int:
        if len(self._extra_s) < _NEEDED or len(self._bare_s) < _NEEDED:
            return _FIRST_INTERVAL
        idle_s = _median(self._idle_s)
        bare_s = _median(self._bare_s) - idle_s
        left_s = max(budget * bare_s - idle_s - self._aside * bare_s, _LEAST_SHARE * budget * bare_s)
        wanted = math.ceil(self._cost_s() / left_s - _ROUNDING) if left_s > 0 else _LARGEST_INTERVAL
        return min(max(wanted, 1), _LARGEST_INTERVAL)

    def _cost_s(self) -> float:
        """Return what an observed step costs beyond one at rest.

        The difference in time is believed as far as it stands out of its own noise.
        """
        inside_s = _median(self._inside_s) - (_median(self._idle_s) if self._idle_s else 0.0)
        extra_s = _median(self._extra_s)
        spread_s = _median([abs(each - extra_s) for each in self._extra_s])
        return max(inside_s, extra_s - 2.0 * spread_s / math.sqrt(len(self._extra_s)), 0.0)


def _median(values: Iterable[float]) -> float:
    ordered = sorted(values)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else 0.5 * (ordered[middle - 1] + ordered[middle])
