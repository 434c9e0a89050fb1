"""`ObservingGuard`: keeps errors of observing away from the training, and measures the time spent."""

import time
from collections.abc import Callable
from typing import Protocol

from gradscope.agent.run.faults import Faults

__all__ = ["ObservingGuard"]


class _Abandonable(Protocol):
    def abandon(self) -> None:
        """Discard the step in progress."""


class ObservingGuard:
    """Runs the parts of observing. After the first error, observing is off for the rest of the run.

    Attributes:
        is_able: False after an error.
        spent_s: seconds that gradscope has spent in the step in progress.
        measurements: the measurements to abandon after an error. Written by the model tracker.
    """

    def __init__(self, faults: Faults) -> None:
        self._faults = faults
        self.is_able = True
        self.spent_s = 0.0
        self.measurements: tuple[_Abandonable, ...] = ()

    def run(self, part: str, work: Callable[[], object]) -> None:
        """Run a part of observing; on an error, switch observing off."""
        try:
            work()
        except Exception as error:  # noqa: BLE001 - gradscope's errors must not stop the training
            self.give_up(part, error)

    def run_timed(self, part: str, work: Callable[[], object]) -> None:
        """Run a part of observing and add its time to `spent_s`."""
        began_s = time.perf_counter()
        self.run(part, work)
        self.spent_s += time.perf_counter() - began_s

    def give_up(self, part: str, error: Exception) -> None:
        """Report the part that failed, and switch observing off."""
        self.is_able = False
        for measurement in self.measurements:
            measurement.abandon()
        self._faults.report(part, error, "Observing is switched off; interventions stay in force.")
