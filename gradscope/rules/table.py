"""The table of all rules. Each has a name, a threshold, a patience, and a check.

To add a rule, write a check in the module of its subject (`finite`, `gradients`, `activations`, `updates`,
`losses`) and add an entry here. A check is a function of a `StepView`, a threshold and a `Baseline`. It
returns the values beyond the threshold in that step. `rule.py` applies the patience and reports once.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from gradscope.errors import UsageError
from gradscope.rules import activations, finite, gradients, losses, updates
from gradscope.rules.alerts import RuleFinding
from gradscope.rules.baseline import Baseline
from gradscope.rules.step_view import StepView
from gradscope.rules.thresholds import Threshold, checked

__all__ = ["RULES", "RuleKind", "rule_kind"]

Check: TypeAlias = Callable[[StepView, Threshold, Baseline], list[RuleFinding]]


@dataclass(frozen=True, slots=True)
class RuleKind:
    """One rule. `patience` counts observed steps, or steps with scalars if `needs_scalars`.

    `is_early`: the judged values are known before the optimizer steps. `is_shared`: the values are equal
    on all ranks of a data-parallel job, because gradients are reduced. `can_clip`: the action `clip` is
    available.
    """

    name: str
    meaning: str
    threshold: Threshold
    patience: int
    check: Check
    is_early: bool = True
    is_shared: bool = False
    can_clip: bool = False
    needs_scalars: bool = False

    def can_judge(self, view: StepView) -> bool:
        """Return whether a step has the data that the check needs."""
        return bool(view.scalars) if self.needs_scalars else view.block is not None

    def check_threshold(self, value: object) -> Threshold:
        """Return the threshold to use. Raises UsageError if `value` is not a threshold of this rule."""
        return checked(self.name, value, self.threshold)


RULES: dict[str, RuleKind] = {
    kind.name: kind
    for kind in (
        RuleKind(
            "nonfinite",
            "NaN anywhere, or an infinity in a gradient, a parameter or an update; the first tensor in "
            "the order of execution is named; more than `threshold` such elements",
            0.0,
            1,
            finite.nonfinite,
            is_shared=True,
        ),
        RuleKind(
            "exploding",
            "the norm of a layer's parameter gradients is over `threshold`",
            1e4,
            3,
            gradients.exploding,
            is_shared=True,
            can_clip=True,
        ),
        RuleKind(
            "vanishing",
            "the root mean square of a layer's parameter gradients is less than `threshold` times the "
            "largest of all layers",
            1e-6,
            10,
            gradients.vanishing,
            is_shared=True,
        ),
        RuleKind(
            "spike",
            "the norm of a layer's parameter gradients is over `threshold` times its baseline, and six "
            "of its usual deviations above it",
            10.0,
            1,
            gradients.spike,
            is_shared=True,
            can_clip=True,
        ),
        RuleKind(
            "dead",
            "more than a fraction `threshold` of a layer's output is exactly zero; at core detail, "
            "where zeros are not counted, only an output that is entirely zero is found",
            0.99,
            20,
            activations.dead,
        ),
        RuleKind(
            "saturated",
            "the mean slope of a Tanh or Sigmoid is less than `threshold` times its maximum slope",
            0.01,
            20,
            activations.saturated,
        ),
        RuleKind(
            "update_ratio",
            "the median of |Δw| / |w| over the layers is outside the range `threshold`, or that of a "
            "layer is outside it by another factor of ten",
            (1e-4, 1e-2),
            50,
            updates.update_ratio,
            is_early=False,
        ),
        RuleKind(
            "loss_spike",
            "a logged loss is over `threshold` times its baseline and six of its usual deviations "
            "above it, or is not finite",
            2.0,
            1,
            losses.loss_spike,
            needs_scalars=True,
        ),
    )
}


def rule_kind(name: str) -> RuleKind:
    """Return the rule with this name. Raises UsageError with the known names if there is none."""
    try:
        return RULES[name]
    except KeyError:
        raise UsageError(f"unknown rule {name!r}; expected one of: {', '.join(RULES)}") from None
