"""The check of gradient clipping that acts in every step."""

from collections import deque
from dataclasses import dataclass, field

import numpy as np

from gradscope.rules.alerts import RuleFinding
from gradscope.rules.step_view import StepView
from gradscope.rules.thresholds import Threshold
from gradscope.rules.thresholds import limit as limit_of

__all__ = ["Factors", "always"]

_STEPS = 15
"""Most of the first 20 steps. Clipping of the first few steps is what it is for."""
_LARGE = 10.0
"""From this many times the limit on it is a warning; below it, clipping in each step is common practice."""


@dataclass(slots=True)
class Factors:
    """By what clipping has divided the gradient in the newest observed steps."""

    newest: deque[float] = field(default_factory=lambda: deque(maxlen=_STEPS))


def always(view: StepView, threshold: Threshold, memory: Factors) -> list[RuleFinding]:
    """Find clipping that shrinks the gradient by a large factor in each of 15 observed steps in a row."""
    before = view.by_layer("param_grad_before_clip", "sumsq")
    after = view.by_layer("param_grad", "sumsq")
    is_both = np.isfinite(before) & np.isfinite(after)
    least = float(after[is_both].sum())
    if not least > 0:
        return []
    factor = float(np.sqrt(before[is_both].sum() / least))
    limit = limit_of(threshold)
    memory.newest.append(factor)
    if factor <= limit:
        return []
    usual = float(np.median(memory.newest))
    return [
        RuleFinding(
            "",
            "param_grad_before_clip",
            usual,
            limit,
            "clipping divides the gradient by about {:.3g} in every step, from a norm of {:.3g} to {:.3g}",
            (usual, np.sqrt(before[is_both].sum()), np.sqrt(least)),
            weight=1.0 / _STEPS,
            severity=None if usual > _LARGE * limit else "hint",
            evidence={"factor": usual},
        )
    ]
