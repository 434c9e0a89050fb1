"""`Rule`: a rule with its threshold, layers and patience, and the state of its findings.

    found in consecutive steps until the evidence suffices ──▶ reported once ──absent from twice as many──▶ can be
    reported again

A layer that stays near its limit is therefore reported once, and not at every crossing; the absence that is
needed doubles with each report. With a patience that the user has set, the number of consecutive steps counts
instead of the evidence, and nothing doubles.
"""

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass

from gradscope.errors import UsageError
from gradscope.findings import Finding, finding
from gradscope.rules.alerts import Alert, RuleFinding
from gradscope.rules.conditions import Condition, parse_condition
from gradscope.rules.step_view import StepView
from gradscope.rules.table import RULES, RuleKind, condition_kind, rule_kind
from gradscope.rules.thresholds import Threshold

__all__ = ["Rule", "default_rules", "finding_of", "make_rule"]

_MIN_ABSENT = 10
"""Minimum number of steps that a finding must be absent before it can be reported again."""
_MOST_DOUBLINGS = 10
_IN_DOUBT = 0.25
"""The part of the needed evidence from which more steps are worth their cost."""


@dataclass(slots=True)
class _Case:
    """State of one finding: one layer and kind."""

    first_step: int
    count: int = 0
    weight: float = 0.0
    absent: int = 0
    is_reported: bool = False
    reported_after: int = 0


class Rule:
    """Judges the steps of one run in order. `layers` are the layers to judge; None means all.

    With a threshold or a patience of the user, the rule compares each step with this limit, and a finding must be
    there in `patience` consecutive steps. Otherwise `patience` is None, and the evidence decides.

    `condition`: that of a rule which the user has written as a condition; None for the rules of `RULES`.

    `active` are the findings of the last judged step that have been reported, in that step or earlier.
    `is_in_doubt`: there is evidence for a finding, but not enough yet.
    """

    def __init__(
        self,
        kind: RuleKind,
        *,
        threshold: Threshold | None = None,
        patience: int | None = None,
        layers: Collection[str] | None = None,
        condition: Condition | None = None,
    ) -> None:
        self.kind = kind
        self.condition = condition
        self.threshold = kind.check_threshold(threshold)
        has_limit = kind.limit_check is not None and (threshold is not None or patience is not None)
        self._check = kind.limit_check if has_limit and kind.limit_check else kind.check
        self._memory = condition or (None if has_limit else kind.memory())
        self.patience = kind.patience if has_limit and patience is None else _checked(patience)
        self.layers = None if layers is None else frozenset(layers)
        self._cases: dict[tuple[str, str], _Case] = {}
        self._reports: Counter[tuple[str, str]] = Counter()
        self.active: tuple[RuleFinding, ...] = ()
        self.is_in_doubt = False

    @property
    def name(self) -> str:
        """The name of the rule; "condition" if it is one."""
        return self.kind.name

    @property
    def text(self) -> str:
        """The name of the rule, or its condition, as `make_rule` takes it."""
        return self.condition.text if self.condition else self.kind.name

    def is_same_place(self, other: "Rule") -> bool:
        """Return whether another rule is replaced by this one: the same rule or condition on the same layers."""
        return self.text == other.text and (self.layers is None or self.layers == other.layers)

    def findings(self, view: StepView) -> list[RuleFinding] | None:
        """Return what is beyond the limit in this step, and update the memory; None: not to be judged yet.

        Must be called once for each step.
        """
        found = self._check(view, self.threshold, self._memory)
        if self.layers is None or found is None:
            return found
        return [finding for finding in found if not finding.layer or finding.layer in self.layers]

    def judge(self, view: StepView) -> list[Alert]:
        """Return the alerts to report after this step. A step without the data that the rule needs has none."""
        found = self.findings(view) if self.kind.can_judge(view) else None
        return [] if found is None else self.record_findings(view.step, found)

    def record_findings(self, step: int, findings: Collection[RuleFinding]) -> list[Alert]:
        """Update the state with the findings of a step; return the alerts to report."""
        if not findings and not self._cases:  # the fast path
            self.active = ()
            return []
        there = {(finding.layer, finding.kind): finding for finding in findings}
        alerts: list[Alert] = []
        self.is_in_doubt = False
        for key, beyond in there.items():
            case = self._cases.setdefault(key, _Case(step))
            case.count, case.weight, case.absent = case.count + 1, case.weight + beyond.weight, 0
            if case.is_reported:
                continue
            if case.count >= self.patience if self.patience else case.weight >= 1.0 - 1e-9:
                case.is_reported, case.reported_after = True, case.count
                self._reports[key] += 1
                alerts.append(Alert(self.name, step, case.first_step, beyond))
            else:
                self.is_in_doubt |= case.weight >= _IN_DOUBT
        self.active = tuple(f for key, f in there.items() if self._cases[key].is_reported)
        self._forget_absent(there)
        return alerts

    def _forget_absent(self, there: Collection[tuple[str, str]]) -> None:
        for key, case in list(self._cases.items()):
            if key in there:
                continue
            case.absent += 1
            limit = max(2 * (self.patience or case.reported_after), _MIN_ABSENT)
            if not self.patience:
                limit *= 2 ** min(self._reports[key] - 1, _MOST_DOUBLINGS)
            if not case.is_reported or case.absent >= limit:
                del self._cases[key]

    def __repr__(self) -> str:
        how = f"patience {self.patience}" if self.patience else "by evidence"
        return f"<rule {self.name}: threshold {self.threshold}, {how}>"


def make_rule(
    text: str,
    *,
    threshold: Threshold | None = None,
    patience: int | None = None,
    layers: Collection[str] | None = None,
) -> Rule:
    """Return the rule named `text`, or one that reports when the condition `text` becomes true.

    Raises UsageError if it is neither, or if a condition has a threshold or layers, which are in its text.
    """
    text = text.strip()
    if text in RULES or text.isidentifier():
        return Rule(rule_kind(text), threshold=threshold, patience=patience, layers=layers)
    condition = parse_condition(text)
    if threshold is not None or layers is not None:
        raise UsageError(
            f"expected the limit and the layers of the rule {text!r} in its condition, such as "
            'grad["blocks.3.*"].norm > 100; got a threshold or layers of its own'
        )
    return Rule(condition_kind(condition), patience=patience, condition=condition)


def default_rules() -> list[Rule]:
    """Return one rule of each kind with its defaults."""
    return [Rule(kind) for kind in RULES.values()]


def _checked(patience: int | None) -> int | None:
    if patience is not None and (
        isinstance(patience, bool) or not isinstance(patience, int) or patience < 1
    ):
        raise UsageError(f"expected patience to be an integer of at least 1, got {patience!r}")
    return patience


def finding_of(alert: Alert, action: str = "") -> Finding:
    """Return the finding of an alert of a rule with this action; "event" is none."""
    found = alert.finding
    return finding(
        found.code or rule_kind(alert.rule).code,
        f"`{found.layer}`: {found.words}" if found.layer else found.words,
        step=alert.step,
        since=alert.first_step,
        layers=found.layers or ((found.layer,) if found.layer else ()),
        severity=found.severity,
        confidence="measured",
        evidence={"value": found.value, "limit": found.limit, "kind": found.kind, **found.evidence},
        action="" if action == "event" else action,
    )
