"""`Rule`: one rule at work: its threshold, its layers, its patience, and what it has seen so far.

    found in `patience` readings running ──▶ told once ──not found in twice as many──▶ ready again

So a layer that hovers about its threshold is told of once, and not at every crossing.
"""

from collections.abc import Collection
from dataclasses import dataclass

from gradscope.errors import UsageError
from gradscope.rules.alerts import Alert, Finding
from gradscope.rules.baseline import Baseline
from gradscope.rules.step_view import StepView
from gradscope.rules.table import RuleKind
from gradscope.rules.thresholds import Threshold

__all__ = ["Rule"]

_LEAST_CALM = 10
"""A finding must be absent from so many readings, at least, before it is told of again."""


@dataclass(slots=True)
class _Case:
    """What is known of one layer that was found."""

    first_step: int
    count: int = 0
    absent: int = 0
    is_told: bool = False


class Rule:
    """Looks at the readings of one run, in order. `layers` are the names that it judges; None: all.

    `standing` is what was found in the last reading and has been told, then or before.
    """

    def __init__(
        self,
        kind: RuleKind,
        *,
        threshold: Threshold | None = None,
        patience: int | None = None,
        layers: Collection[str] | None = None,
    ) -> None:
        self.kind = kind
        self.threshold = kind.check_threshold(threshold)
        self.patience = _checked_patience(kind, patience)
        self.layers = None if layers is None else frozenset(layers)
        self._past = Baseline()
        self._cases: dict[tuple[str, str], _Case] = {}
        self.standing: tuple[Finding, ...] = ()

    @property
    def name(self) -> str:
        """Which rule it is."""
        return self.kind.name

    def findings(self, reading: StepView) -> list[Finding]:
        """Return what is beyond the threshold in this reading, and remember what the past needs.

        Call it once a reading. A reading that lacks what the rule needs finds nothing.
        """
        found = self.kind.check(reading, self.threshold, self._past)
        if self.layers is None:
            return found
        return [finding for finding in found if not finding.layer or finding.layer in self.layers]

    def judge(self, reading: StepView) -> list[Alert]:
        """Return what is to be told after this reading."""
        if not self.kind.can_judge(reading):
            return []
        return self.note(reading.step, self.findings(reading))

    def note(self, step: int, findings: Collection[Finding]) -> list[Alert]:
        """Take a step's findings; return those that are to be told."""
        if not findings and not self._cases:  # as nearly always
            self.standing = ()
            return []
        there = {(finding.layer, finding.kind): finding for finding in findings}
        alerts: list[Alert] = []
        for key, finding in there.items():
            case = self._cases.setdefault(key, _Case(step))
            case.count, case.absent = case.count + 1, 0
            if case.count >= self.patience and not case.is_told:
                case.is_told = True
                alerts.append(Alert(self.name, step, case.first_step, finding))
        self.standing = tuple(f for key, f in there.items() if self._cases[key].is_told)
        self._let_go(there)
        return alerts

    def _let_go(self, there: Collection[tuple[str, str]]) -> None:
        calm = max(2 * self.patience, _LEAST_CALM)
        for key, case in list(self._cases.items()):
            if key in there:
                continue
            case.absent += 1
            if not case.is_told or case.absent >= calm:
                del self._cases[key]

    def __repr__(self) -> str:
        return f"<rule {self.name}: threshold {self.threshold}, patience {self.patience}>"


def _checked_patience(kind: RuleKind, patience: int | None) -> int:
    if patience is None:
        return kind.patience
    if isinstance(patience, bool) or not isinstance(patience, int) or patience < 1:
        raise UsageError(f"patience must be a whole number of at least 1, got {patience!r}")
    return patience
