"""The table of all rules. Each has a name, a code, a threshold, and a check.

To add a rule, write a check in the module of its subject (`finite`, `gradients`, `activations`, `updates`, `weights`,
`losses`) and add an entry here. A check is a function of a `StepView`, a threshold and a memory.
It returns what is beyond the limit in that step, each with its weight as evidence. `rule.py` adds up the weights and
reports once.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from gradscope.catalogue.expressions import comparisons_of
from gradscope.errors import UsageError
from gradscope.rules.alerts import RuleFinding
from gradscope.rules.checks import (
    activations,
    finite,
    gradients,
    losses,
    updates,
    weights,
)
from gradscope.rules.conditions import Condition
from gradscope.rules.step_view import StepView
from gradscope.rules.thresholds import Threshold, checked

__all__ = ["CONDITION", "RULES", "RuleKind", "condition_kind", "rule_kind"]

Check: TypeAlias = Callable[[StepView, Threshold, Any], list[RuleFinding] | None]
"""The third argument is what the rule's `memory` has made. None: this step is not to be judged yet."""


@dataclass(frozen=True, slots=True)
class RuleKind:
    """One rule.

    `code`: the code of its findings. `reads`: the views that its check needs: observed steps, logged scalars,
    or both, each in the order of the steps. `memory`: makes what the check remembers between steps.

    `limit_check` and `patience`: used instead of `check` if the user has set a threshold or a patience: a plain
    comparison with the threshold that must hold in `patience` consecutive observed steps.

    `is_early`: the judged values are known before the optimizer steps. `is_shared`: the values are equal
    on all ranks of a data-parallel job, because gradients are reduced. `can_clip`: the action `clip` is
    available.
    """

    name: str
    code: str
    meaning: str
    threshold: Threshold
    check: Check
    memory: Callable[[], object] = field(default=type(None), kw_only=True)
    limit_check: Check | None = field(default=None, kw_only=True)
    patience: int = field(default=1, kw_only=True)
    is_early: bool = field(default=True, kw_only=True)
    is_shared: bool = field(default=False, kw_only=True)
    can_clip: bool = field(default=False, kw_only=True)
    reads: Literal["columns", "scalars", "both"] = field(default="columns", kw_only=True)

    @property
    def reads_columns(self) -> bool:
        """Whether the check needs observed steps."""
        return self.reads != "scalars"

    @property
    def reads_scalars(self) -> bool:
        """Whether the check needs logged scalars."""
        return self.reads != "columns"

    def can_judge(self, view: StepView) -> bool:
        """Return whether a step has the data that the check needs."""
        return (self.reads_columns and view.block is not None) or (
            self.reads_scalars and bool(view.scalars)
        )

    def check_threshold(self, value: object) -> Threshold:
        """Return the threshold to use. Raises UsageError if `value` is not a threshold of this rule."""
        return checked(self.name, value, self.threshold)


RULES: dict[str, RuleKind] = {
    kind.name: kind
    for kind in (
        RuleKind(
            "nonfinite",
            "nonfinite",
            "NaN anywhere, or an infinity in a gradient, a parameter or an update; the first tensor in "
            "the order of execution is named; more than `threshold` such elements",
            0.0,
            finite.nonfinite,
            is_shared=True,
        ),
        RuleKind(
            "exploding",
            "exploding-gradient",
            "gradients grow from layer to layer towards the input, or with time; with a threshold: the norm "
            "of a layer's parameter gradients is over `threshold`",
            1e4,
            gradients.exploding,
            memory=gradients.FirstNorms,
            limit_check=gradients.over_limit,
            patience=3,
            is_shared=True,
            can_clip=True,
        ),
        RuleKind(
            "vanishing",
            "vanishing-gradient",
            "gradients fall from layer to layer towards the input, by `threshold` in all; with a threshold: "
            "the rms of a layer's parameter gradients is less than `threshold` times the largest of all layers",
            1e-5,
            gradients.vanishing,
            memory=gradients.Shares,
            limit_check=gradients.under_limit,
            patience=10,
            is_shared=True,
        ),
        RuleKind(
            "spike",
            "gradient-spike",
            "the norm of a layer's parameter gradients is over `threshold` times its recent level, and six "
            "of its usual deviations above it, in a step whose gradient is larger as a whole",
            10.0,
            gradients.spike,
            memory=gradients.Spikes,
            is_shared=True,
            can_clip=True,
        ),
        RuleKind(
            "dead",
            "dead-units",
            "more than a fraction `threshold` of a layer's output is exactly zero and no gradient reaches "
            "the parameters before it; at core detail, where zeros are not counted, only an output that "
            "is entirely zero is found",
            0.99,
            activations.dead,
        ),
        RuleKind(
            "saturated",
            "saturated-activation",
            "the mean slope of a Tanh or Sigmoid is less than `threshold` times its maximum slope, or than 2.5 times "
            "that if the layer begins at both of its bounds",
            0.01,
            activations.saturated,
            memory=activations.FirstSlopes,
        ),
        RuleKind(
            "update_ratio",
            "learning-rate-too-high",
            "each step changes the weights by far more than `threshold` and overshoots, judged by the loss, or "
            "by far less; with a threshold: the median of |Δw| / |w| over the layers is outside this range",
            (1e-4, 1e-2),
            updates.learning_rate,
            memory=updates.Learning,
            limit_check=updates.update_ratio,
            patience=50,
            is_early=False,
            reads="both",
        ),
        RuleKind(
            "no_update",
            "no-update",
            "a layer has a gradient, but its optimizer does not change it in any step",
            0.0,
            updates.no_update,
            memory=updates.Moved,
            is_early=False,
            reads="both",
        ),
        RuleKind(
            "weight_decay",
            "weight-decay-too-strong",
            "weight decay outweighs the gradient, and the weights shrink by `threshold` a step or more",
            1e-3,
            weights.decay,
            memory=weights.Norms,
            is_early=False,
            reads="both",
        ),
        RuleKind(
            "clipping",
            "clipping-always",
            "every step is clipped, to less than 1 / `threshold` of its gradient",
            10.0,
            gradients.clipping_always,
            memory=gradients.ClippingFactors,
            is_early=False,
        ),
        RuleKind(
            "underflow",
            "underflow",
            "more than a fraction `threshold` of the nonzero elements of a gradient are subnormal; counted "
            "at full detail only",
            0.5,
            finite.underflow,
        ),
        RuleKind(
            "overflow",
            "overflow",
            "a layer with finite parameters has more than `threshold` infinite elements in its output",
            0.0,
            finite.overflow,
        ),
        RuleKind(
            "loss_spike",
            "loss-spike",
            "a logged loss is over `threshold` times its recent level and six of its usual deviations "
            "above it, or is not finite",
            2.0,
            losses.loss_spike,
            memory=losses.LossTrend,
            is_early=False,
            reads="both",
        ),
        RuleKind(
            "loss_not_falling",
            "loss-not-falling",
            "the loss has not fallen below `threshold` times its first value after 100 steps",
            0.98,
            losses.not_falling,
            memory=losses.LossHistory,
            is_early=False,
            reads="scalars",
        ),
    )
}


CONDITION = "condition"
"""The name of a rule that the user has written as a condition."""


def condition_kind(condition: Condition) -> RuleKind:
    """Return the kind of a rule that reports when a condition is true.

    It needs either observed steps or logged numbers, which the training process has at different times. Raises
    UsageError for a condition on both or on step numbers only.
    """
    names = {each.name for each in comparisons_of(condition.expression) if not each.kind} - {"step"}
    if condition.is_of_steps_only or (condition.needs_columns and names):
        found = "only the step" if condition.is_of_steps_only else "layers and also on logged numbers"
        raise UsageError(
            f"expected a rule's condition on layers or on logged numbers; {condition.text!r} is on {found}. "
            "A breakpoint can have such a condition"
        )
    kinds = {each.kind for each in comparisons_of(condition.expression)}
    return RuleKind(
        CONDITION,
        "",
        "the condition is true",
        0.0,
        _condition_is_true,
        is_early="update" not in kinds,
        reads="columns" if condition.needs_columns else "scalars",
    )


def _condition_is_true(
    view: StepView, _threshold: Threshold, condition: Condition
) -> list[RuleFinding]:
    why = condition.evaluate(view)
    if why is None:
        return []
    return [RuleFinding("", CONDITION, 1.0, 0.0, "{}: {}", (condition.text, why))]


def rule_kind(name: str) -> RuleKind:
    """Return the rule with this name. Raises UsageError with the known names if there is none."""
    try:
        return RULES[name]
    except KeyError:
        raise UsageError(f"unknown rule {name!r}; expected one of: {', '.join(RULES)}") from None
