"""Running a case bare, with plain hooks, and attached; and saying in what the three differ."""

from trials.case import Case, trained
from trials.outcome import Outcome, judge
from trials.tally import StepCounter
from trials.trial import Mode, Trial

__all__ = ["Case", "Mode", "Outcome", "StepCounter", "Trial", "judge", "trained"]
