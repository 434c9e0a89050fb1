"""The check of how the script handles the loss scale of a GradScaler."""

from collections.abc import Sequence

from gradscope.findings.codes import finding
from gradscope.findings.facts import WiringFacts
from gradscope.findings.finding import Finding

__all__ = ["clip_before_unscale"]

_ENOUGH = 3


def clip_before_unscale(history: Sequence[WiringFacts]) -> list[Finding]:
    """Find gradients that are clipped while they are still multiplied by the loss scale of a GradScaler."""
    scales = [facts.clipped_at_scale for facts in history if facts.clipped_at_scale is not None]
    if len(scales) < _ENOUGH or not all(scale > 1 for scale in scales):
        return []
    return [
        finding(
            "clip-before-unscale",
            f"gradients are clipped while they are multiplied by the loss scale of {scales[-1]:g}: the limit acts "
            f"as {1 / scales[-1]:.1g} times its value",
            step=history[-1].step,
            since=history[0].step,
            evidence={"loss_scale": scales[-1], "steps": float(len(scales))},
        )
    ]
