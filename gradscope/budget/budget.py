"""`Budget`: what monitoring may cost, as a fraction of the step time, and the share of each consumer.

Every schedule works the same way: it measures what one run of its work costs, and runs it every n-th step,
with the least n for which cost / n stays within its share of the step time (`interval`). The constants that
tune the schedules are all in this file.
"""

import enum
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

__all__ = ["DEFAULT_FRACTION", "Budget", "Consumer", "RateLimit", "interval"]

DEFAULT_FRACTION: Final = 0.02
"""Two percent: below the run-to-run noise of most machines. Also the base of shares if there is no limit."""


class Consumer(enum.Enum):
    """A kind of work that draws on the budget, and its share of it. The shares add up to 1.

    Each may always use its share. Statistics also get what memory, time and the nonfinite check leave unused.
    """

    STATISTICS = "statistics"
    RESOURCES = "memory and time"
    NONFINITE = "the nonfinite check"
    RULES = "rules"


_SHARES: Final = dict.fromkeys(Consumer, 1 / len(Consumer))


@dataclass(frozen=True, slots=True)
class Budget:
    """The fraction of the step time that all monitoring may cost; None: no limit."""

    fraction: float | None

    def share(self, consumer: Consumer) -> float:
        """Return a consumer's share, as a fraction of the step time; of the default if there is no limit."""
        return _SHARES[consumer] * (self.fraction or DEFAULT_FRACTION)


def interval(cost_s: float, allowed_s: float, *, least: int = 1, largest: int) -> int:
    """Return the least n, from `least` to `largest`, with cost_s / n <= allowed_s."""
    if allowed_s <= 0:
        return largest
    return min(max(math.ceil(cost_s / allowed_s), least), largest)


class RateLimit:
    """Limits work that is not tied to steps: after each run it pauses, so that it takes at most `share` of the time.

    `clock` returns seconds.
    """

    def __init__(self, share: float, clock: Callable[[], float]) -> None:
        self._share = share
        self._clock = clock
        self._runs = 0
        self._next_s = 0.0

    def is_due(self) -> bool:
        """Count a run, and return whether it may run now. The first runs all may."""
        self._runs += 1
        return self._runs <= RULES_UNLIMITED_RUNS or self._clock() >= self._next_s

    def record(self, began_s: float) -> None:
        """Learn that a run that began at `began_s` has ended now."""
        took_s = self._clock() - began_s
        pause_s = min(took_s / self._share, RULES_MAX_PAUSE_S)
        self._next_s = began_s + max(RULES_MIN_INTERVAL_S, pause_s)


# --- statistics ------------------------------------------------------------------------------------------

FIRST_INTERVAL: Final = 10
"""Steps between observed steps until the cost of one is known."""

LARGEST_INTERVAL: Final = 1000
"""Observe at least every N steps, whatever it costs: a run must not go unobserved."""

SAMPLER_ROUNDING: Final = 1e-6
"""An interval may exceed what is allowed by this part, so that rounding does not lengthen it by a step."""

COST_WINDOW: Final = 15
"""Costs are medians of this number of newest steps: deaf to single slow steps, and yet quick to follow."""

COSTS_NEEDED: Final = 2
"""Costs that must be known before an interval is derived from them."""

BARE_STEP_AFTER: Final = 16
"""If every step may be observed, one is left out after this number, as a comparison."""

PACE_CHECKED_EVERY: Final = 4
PACE_WINDOW: Final = 8
"""Steps between two checks of the pace, and the newest steps that it is taken from."""

OTHER_PACE: Final = 1.5
"""Costs are forgotten if three quarters of those steps are slower or faster by this factor."""

FOCUS_PART: Final = 0.5
"""Part of what observed steps may cost that a focus may use."""

FOCUS_BELIEVED_AFTER: Final = 8
"""Focus steps after which their time is compared with others: the difference is small against its noise."""

FOCUS_FALLBACK: Final = 8
"""A focus that gains nothing is measured this many times less often than all layers, to notice if it does."""

FOCUS_LEAST_COST: Final = 0.1
"""Until a focus step was measured, it is assumed to cost at least this part of a whole observed step."""

# --- memory and time -------------------------------------------------------------------------------------

RESOURCES_FIRST: Final = 2
RESOURCES_SECOND: Final = 12
"""After the very first step: steps until the next two measurements. Caches are warm; the cost becomes known."""

RESOURCES_LEAST_INTERVAL: Final = 10
"""Measured steps are slow steps of another kind: however cheap, no more than one in ten."""

RESOURCES_LARGEST_INTERVAL: Final = 5_000

RESOURCES_COMPARED_WITH: Final = 5
"""Steps before a measured one from which the usual step time is taken."""

RESOURCES_PATIENCE: Final = 20
"""If every step is observed, a due step waits this many steps for an unobserved one, and no longer."""

# --- the nonfinite check ---------------------------------------------------------------------------------

CHECK_LARGEST_INTERVAL: Final = 32
"""A nonfinite gradient is noticed after this number of steps at the latest, whatever the check costs."""

CHECK_WINDOW: Final = 5
"""The cost of a check is the median of this number of newest checks."""

CHECK_ALWAYS_AGAIN: Final = 0.8
"""All steps are checked again if that takes this part of the share: no back and forth at the border."""

# --- rules -----------------------------------------------------------------------------------------------

RULES_UNLIMITED_RUNS: Final = 200
"""All rules judge the first observed steps, so a short run is judged completely."""

RULES_MIN_INTERVAL_S: Final = 0.04
"""After that, rules that only report judge at most 25 steps per second."""

RULES_MAX_PAUSE_S: Final = 5.0
"""Longest pause: one run may be slow only because the machine was busy."""
