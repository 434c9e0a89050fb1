"""The rules that there are: one table. Each is a name, a threshold, a patience, and a check.

To add one: a check beside its kin (`finite`, `gradients`, `activations`, `updates`, `losses`), and an
entry here. A check is a function of a reading, a threshold and what the rule remembers; it returns what
is beyond the threshold in that reading. Patience and telling once are the same for all (`rule.py`).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from gradscope.errors import UsageError
from gradscope.rules import activations, finite, gradients, losses, updates
from gradscope.rules.alerts import Finding
from gradscope.rules.baseline import Baseline
from gradscope.rules.step_view import StepView
from gradscope.rules.thresholds import Threshold, checked

if TYPE_CHECKING:
    from gradscope.rules.rule import Rule

__all__ = ["RULES", "RuleKind", "default_rules", "kind_of"]

Check: TypeAlias = Callable[[StepView, Threshold, Baseline], list[Finding]]


@dataclass(frozen=True, slots=True)
class RuleKind:
    """One rule. `patience` counts readings: observed steps, or steps with scalars.

    `is_early`: what it judges is known before the optimizer steps. `is_shared`: its numbers are the
    same on all ranks of a data-parallel job, whose parameters' gradients are reduced.
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

    def can_judge(self, reading: StepView) -> bool:
        """Whether a reading has what the check looks at."""
        return bool(reading.scalars) if self.needs_scalars else reading.block is not None

    def check_threshold(self, value: object) -> Threshold:
        """Return the threshold to use. Raises UsageError for what cannot be one of this rule."""
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
            "greatest among all layers",
            1e-6,
            10,
            gradients.vanishing,
            is_shared=True,
        ),
        RuleKind(
            "spike",
            "the norm of a layer's parameter gradients is over `threshold` times its own past, and six "
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
            "where zeros are not counted, only an output that is zero altogether is found",
            0.99,
            20,
            activations.dead,
        ),
        RuleKind(
            "saturated",
            "the mean slope of a Tanh or Sigmoid is less than `threshold` times its greatest slope",
            0.01,
            20,
            activations.saturated,
        ),
        RuleKind(
            "update_ratio",
            "the median of |Δw| / |w| over the layers is outside of the pair `threshold`, or that of a "
            "layer is outside of it by another factor of ten",
            (1e-4, 1e-2),
            50,
            updates.update_ratio,
            is_early=False,
        ),
        RuleKind(
            "loss_spike",
            "a logged loss is over `threshold` times its own past and six of its usual deviations "
            "above it, or is not finite",
            2.0,
            1,
            losses.loss_spike,
            needs_scalars=True,
        ),
    )
}


def kind_of(name: str) -> RuleKind:
    """Return the rule of a name. Raises UsageError with the names that there are."""
    try:
        return RULES[name]
    except KeyError:
        raise UsageError(f"no rule {name!r}; there are: {', '.join(RULES)}") from None


def default_rules() -> "list[Rule]":
    """Return one of each, with its defaults."""
    from gradscope.rules.rule import Rule  # noqa: PLC0415 - it needs this table

    return [Rule(kind) for kind in RULES.values()]
