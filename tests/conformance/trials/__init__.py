"""Running a case bare, with plain hooks, and attached; and saying in what the three differ."""

from trials.case import Case, trained
from trials.outcome import Outcome, judge
from trials.trial import Mode, Trial

__all__ = ["Case", "Mode", "Outcome", "Trial", "judge", "trained"]
