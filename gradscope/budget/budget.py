"""`Budget`: the allowed cost of monitoring, as a fraction of the step time, and the share of each consumer.

All schedules work the same way: they measure the cost of one run of their work, and run it every n-th step,
with the smallest n for which cost / n is within their share of the step time (`interval`). The constants that
tune the schedules are all in this file.
"""

import enum
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

__all__ = ["DEFAULT_FRACTION", "Budget", "Consumer", "RateLimit", "interval"]

DEFAULT_FRACTION: Final = 0.02
"""Two percent: less than the run-to-run noise of most machines. Also the base of shares if there is no limit."""


class Consumer(enum.Enum):
    """A kind of work that uses the budget, and its share of it.

    Each consumer may always use its share. Rules are evaluated in observed steps, so their time is part of what
    statistics use. The flight recorder may use a half, less what the nonfinite check takes. Statistics also get what
    memory, time, the nonfinite check and the flight recorder leave unused.
    """

    STATISTICS = "statistics"
    RESOURCES = "memory and time"
    NONFINITE = "the nonfinite check"
    RULES = "rules"
    RECORDER = "the flight recorder"


_SHARES: Final = dict.fromkeys(Consumer, 1 / 4) | {Consumer.RECORDER: 1 / 2}


@dataclass(frozen=True, slots=True)
class Budget:
    """The fraction of the step time that all monitoring may cost; None: no limit."""

    fraction: float | None

    def share(self, consumer: Consumer) -> float:
        """Return a consumer's share, as a fraction of the step time; of the default if there is no limit."""
        return _SHARES[consumer] * (self.fraction or DEFAULT_FRACTION)


def interval(cost_s: float, allowed_s: float, *, least: int = 1, largest: int) -> int:
    """Return the smallest n, from `least` to `largest`, with cost_s / n <= allowed_s."""
    if allowed_s <= 0:
        return largest
    return min(max(math.ceil(cost_s / allowed_s), least), largest)


class RateLimit:
    """Limits work that is not tied to steps: it takes at most `share` of the time.

    `clock` returns seconds.
    """

    def __init__(self, share: float, clock: Callable[[], float]) -> None:
        self._share = share
        self.clock = clock
        self._runs = 0
        self._next_s = 0.0

    def is_due(self) -> bool:
        """Count a request to run, and return whether the work may run now. The first runs are always allowed."""
        self._runs += 1
        return self._runs <= RULES_UNLIMITED_RUNS or self.clock() >= self._next_s

    def record(self, began_s: float) -> None:
        """Record that a run that began at `began_s` has ended now."""
        took_s = self.clock() - began_s
        pause_s = min(took_s / self._share, RULES_MAX_PAUSE_S)
        self._next_s = began_s + max(RULES_MIN_INTERVAL_S, pause_s)


# --- statistics ------------------------------------------------------------------------------------------

FIRST_INTERVAL: Final = 10
"""Interval of observed steps until the cost of one is known."""

LARGEST_INTERVAL: Final = 1000
"""Observe at least every N steps, whatever it costs, so that a run does not go unobserved."""

SAMPLER_ROUNDING: Final = 1e-6
"""An interval may exceed the allowed cost by this fraction, so that rounding does not lengthen it by a step."""

COST_WINDOW: Final = 15
"""Costs are medians over this number of newest steps: single slow steps have no effect, lasting changes soon do."""

COSTS_NEEDED: Final = 2
"""Number of costs that must be known before an interval is derived from them."""

BARE_STEP_AFTER: Final = 16
"""If every step may be observed, one is left unobserved after this number of steps, for comparison."""

PACE_CHECKED_EVERY: Final = 4
PACE_WINDOW: Final = 8
"""Steps between two checks of the pace, and the number of newest steps that the pace is computed from."""

OTHER_PACE: Final = 1.5
"""Known costs are discarded if three quarters of those steps are slower or faster by this factor."""

OBSERVED_AT_START: Final = 20
"""The first steps of a run are observed, so that a fault that is there from the beginning is found soon."""

EXTRA_STEPS_PART: Final = 0.5
"""Fraction of the allowed cost of observed steps that pays for extra ones, as long as any are unpaid."""

FOCUS_PART: Final = 0.5
"""Fraction of the allowed cost of observed steps that a focus may use."""

FOCUS_BELIEVED_AFTER: Final = 8
"""Number of focus steps before their time is compared with others: the difference is small and noisy."""

FOCUS_FALLBACK: Final = 8
"""A focus that gains nothing is measured this many times less often than all layers, to detect if that changes."""

FOCUS_LEAST_COST: Final = 0.1
"""Until a focus step was measured, its assumed cost is at least this fraction of a fully observed step's."""

# --- memory and time -------------------------------------------------------------------------------------

RESOURCES_FIRST: Final = 2
RESOURCES_SECOND: Final = 12
"""Steps from the first step until the next two measurements; the caches are warm then."""

RESOURCES_LEAST_INTERVAL: Final = 10
"""At most one step in ten is measured, however low the cost, because a measured step is slower in its own way."""

RESOURCES_LARGEST_INTERVAL: Final = 5_000

RESOURCES_COMPARED_WITH: Final = 5
"""Number of steps before a measured one from which the usual step time is computed."""

RESOURCES_PATIENCE: Final = 20
"""If every step is observed, a due measurement waits at most this number of steps for an unobserved one."""

# --- the nonfinite check ---------------------------------------------------------------------------------

CHECK_LARGEST_INTERVAL: Final = 32
"""A nonfinite gradient is detected after at most this number of steps, whatever the check costs."""

CHECK_WINDOW: Final = 5
"""The cost of a check is the median of this number of newest checks."""

CHECK_ALWAYS_AGAIN: Final = 0.8
"""Checking every step resumes only if that takes at most this fraction of the share, so that it does not alternate."""

# --- the flight recorder ---------------------------------------------------------------------------------

RECORDER_FIRST_RUN: Final = 1024
"""The first steps, in which it is always active: a fault of the program itself shows soon. They take some 0.3 s."""

RECORDER_RUN: Final = 32
"""Steps of one run of active steps. Installing and removing its hooks then takes little of its cost."""

RECORDER_LARGEST_INTERVAL: Final = 64

RECORDER_WHOLE_COST: Final = 2.0
"""What an active step costs, as a multiple of the time inside the recorder's hooks.

The rest is torch's: it leaves its fast paths for a hook, and both evict the caches of the other. Measured by
`benchmarks.recorder`; the difference of single steps is far below their noise.
"""

RECORDER_LONGEST_SUSPENSION: Final = 4096
"""Longest pause, in steps, if every step is known to have NaN."""

# --- rules -----------------------------------------------------------------------------------------------

RULES_UNLIMITED_RUNS: Final = 200
"""All rules judge the first observed steps, so a short run is judged completely."""

RULES_MIN_INTERVAL_S: Final = 0.04
"""After that, rules that only report judge at most 25 steps per second."""

RULES_MAX_PAUSE_S: Final = 5.0
"""Longest pause: one run may be slow only because the machine was busy."""
