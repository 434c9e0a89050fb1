"""The finding of an alert: its code, the likely cause and what to do, for each rule."""

from dataclasses import dataclass

from gradscope.findings import Finding, Place, Severity
from gradscope.rules.alerts import Alert

__all__ = ["finding_of"]


@dataclass(frozen=True, slots=True)
class _Explanation:
    code: str
    place: Place
    cause: str
    fix: str
    severity: Severity = "warning"


_EXPLANATIONS = {
    "nonfinite": _Explanation(
        "nonfinite",
        "forward",
        "An operation on invalid input (a division by zero, a logarithm or a root at zero or below), an "
        "overflow of the number format, or NaN in the data.",
        "Pause at the first one: gradscope break RUN any.nan; then capture the input of that layer.",
        "error",
    ),
    "exploding": _Explanation(
        "exploding-gradient",
        "backward",
        "The learning rate is too high, a layer has no normalization, or the loss is a sum over many "
        "values.",
        "Clip the gradient (gradscope clip RUN LAYERS --max-norm 1) or lower the learning rate.",
    ),
    "vanishing": _Explanation(
        "vanishing-gradient",
        "backward",
        "Each layer on the way from the loss multiplies the gradient by a factor far below 1: saturated "
        "activations, small initial weights, or no residual connections.",
        "Use ReLU-like activations, normalization or residual connections, or a larger initialization.",
    ),
    "spike": _Explanation(
        "gradient-spike",
        "backward",
        "An unusual batch, or a learning rate near the limit of stability.",
        "Clip the gradient (gradscope clip RUN LAYERS --max-norm 1) and look at the batch of that step.",
    ),
    "dead": _Explanation(
        "dead-units",
        "forward",
        "All inputs of a ReLU are negative, often after a step with too high a learning rate, or the input "
        "of the layer is constant.",
        "Lower the learning rate, check the initial bias, or use LeakyReLU or GELU.",
    ),
    "saturated": _Explanation(
        "saturated-activation",
        "forward",
        "The inputs of the activation are far from zero, so its slope is almost zero.",
        "Scale the inputs, use a smaller initialization, or normalize before the activation.",
    ),
    "loss_spike": _Explanation(
        "loss-spike",
        "loss",
        "An unusual batch, or a learning rate near the limit of stability.",
        "Look at the batch of that step; clip gradients or lower the learning rate if it happens again.",
    ),
    "update_ratio.high": _Explanation(
        "learning-rate-too-high",
        "optimizer",
        "Each step changes the weights by a large part of their size.",
        "Lower the learning rate by about the factor between the ratio and its limit.",
    ),
    "update_ratio.low": _Explanation(
        "learning-rate-too-low",
        "optimizer",
        "Each step changes the weights by a tiny part of their size.",
        "Raise the learning rate by about the factor between the limit and the ratio.",
        "hint",
    ),
}


def finding_of(alert: Alert) -> Finding:
    """Return the finding of an alert."""
    found = alert.finding
    name = alert.rule
    if name == "update_ratio":
        name += ".high" if found.value > found.limit else ".low"
    explanation = _EXPLANATIONS[name]
    return Finding(
        code=explanation.code,
        severity=explanation.severity,
        layers=(found.layer,) if found.layer else (),
        place=explanation.place,
        since_step=alert.first_step,
        found_step=alert.step,
        message=f"{found.layer}: {found.words}" if found.layer else found.words,
        cause=explanation.cause,
        fix=explanation.fix,
        evidence={"value": found.value, "limit": found.limit, "kind": found.kind},
    )
