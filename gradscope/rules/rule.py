"""`Rule`: a rule with its threshold, layers and patience, and the state of its findings.

    found in `patience` consecutive steps ──▶ reported once ──absent from twice as many──▶ can be reported again

A layer that stays near its threshold is therefore reported once, and not at every crossing.
"""

from collections.abc import Collection
from dataclasses import dataclass

from gradscope.errors import UsageError
from gradscope.rules.alerts import Alert, RuleFinding
from gradscope.rules.baseline import Baseline
from gradscope.rules.step_view import StepView
from gradscope.rules.table import RULES, RuleKind
from gradscope.rules.thresholds import Threshold

__all__ = ["Rule", "default_rules"]

_MIN_ABSENT = 10
"""Minimum number of steps that a finding must be absent before it can be reported again."""


@dataclass(slots=True)
class _Case:
    """State of one finding: one layer and kind."""

    first_step: int
    count: int = 0
    absent: int = 0
    is_reported: bool = False


class Rule:
    """Judges the observed steps of one run in order. `layers` are the layers to judge; None means all.

    `active` are the findings of the last judged step that have been reported, in that step or earlier.
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
        self._baseline = Baseline()
        self._cases: dict[tuple[str, str], _Case] = {}
        self.active: tuple[RuleFinding, ...] = ()

    @property
    def name(self) -> str:
        """The name of the rule."""
        return self.kind.name

    def findings(self, view: StepView) -> list[RuleFinding]:
        """Return the values beyond the threshold in this step, and update the baseline.

        Must be called once for each step. A step without the data that the rule needs has no findings.
        """
        found = self.kind.check(view, self.threshold, self._baseline)
        if self.layers is None:
            return found
        return [finding for finding in found if not finding.layer or finding.layer in self.layers]

    def judge(self, view: StepView) -> list[Alert]:
        """Return the alerts to report after this step."""
        if not self.kind.can_judge(view):
            return []
        return self.record_findings(view.step, self.findings(view))

    def record_findings(self, step: int, findings: Collection[RuleFinding]) -> list[Alert]:
        """Update the state with the findings of a step; return the alerts to report."""
        if not findings and not self._cases:  # the fast path
            self.active = ()
            return []
        there = {(finding.layer, finding.kind): finding for finding in findings}
        alerts: list[Alert] = []
        for key, finding in there.items():
            case = self._cases.setdefault(key, _Case(step))
            case.count, case.absent = case.count + 1, 0
            if case.count >= self.patience and not case.is_reported:
                case.is_reported = True
                alerts.append(Alert(self.name, step, case.first_step, finding))
        self.active = tuple(f for key, f in there.items() if self._cases[key].is_reported)
        self._forget_absent(there)
        return alerts

    def _forget_absent(self, there: Collection[tuple[str, str]]) -> None:
        limit = max(2 * self.patience, _MIN_ABSENT)
        for key, case in list(self._cases.items()):
            if key in there:
                continue
            case.absent += 1
            if not case.is_reported or case.absent >= limit:
                del self._cases[key]

    def __repr__(self) -> str:
        return f"<rule {self.name}: threshold {self.threshold}, patience {self.patience}>"


def default_rules() -> list[Rule]:
    """Return one rule of each kind with its defaults."""
    return [Rule(kind) for kind in RULES.values()]


def _checked_patience(kind: RuleKind, patience: int | None) -> int:
    if patience is None:
        return kind.patience
    if isinstance(patience, bool) or not isinstance(patience, int) or patience < 1:
        raise UsageError(f"expected patience to be an integer of at least 1, got {patience!r}")
    return patience
