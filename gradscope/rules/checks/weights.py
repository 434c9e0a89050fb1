"""The check of the weights' size: weight decay that outweighs the gradient."""

import math
from collections import deque
from dataclasses import dataclass, field

import numpy as np

from gradscope.rules.alerts import RuleFinding
from gradscope.rules.checks.updates import GREATEST_RATE, LEAST_RATE, WEIGHT_DECAY
from gradscope.rules.step_view import Floats, StepView
from gradscope.rules.thresholds import Threshold
from gradscope.rules.thresholds import limit as limit_of

__all__ = ["Norms", "decay"]

_STEPS = 10
_OPPOSITE = -0.6
"""The cosine of update and weights. An update by decay alone has -1, the sign of the weights -0.8 (the mean of |x| for
normal x); an update by a gradient is nearly at right angles to many weights."""
_PART = 0.5
_SHRUNK = 0.9
_BY_RATE = 0.03
"""Decoupled decay of 3 % a step: without any gradient the updates are three times the usual 1 %. The
weights hold what the last 33 steps have added."""


@dataclass(slots=True)
class Norms:
    """The norms of weights and updates of the newest observed steps, by layer, and the optimizer's numbers."""

    layers: object = None
    newest: deque[tuple[int, Floats, Floats, Floats]] = field(
        default_factory=lambda: deque(maxlen=_STEPS)
    )
    first: Floats = field(default_factory=lambda: np.empty(0))
    weight_decay: float = 0.0
    rate: float = math.nan
    least_rate: float = math.nan


def decay(view: StepView, threshold: Threshold, memory: Norms) -> list[RuleFinding] | None:
    """Find weights that shrink by decay: the updates point against them and decay explains it.

    The cosine of update and weights follows from norms: |w + d|^2 = |w|^2 + 2 w.d + |d|^2, over the observed steps.
    It needs ten of them, an optimizer with weight decay, and half of the layers. Decay that is usual shrinks weights
    by less than 1e-3 a step (0.1 times a learning rate of 1e-3 gives 1e-4).

    Decay of 3 % a step is found also if the gradient holds the weights: half of the layers must have shrunk.
    """
    if view.block is None or view.scalars:
        memory.weight_decay = view.scalars.get(WEIGHT_DECAY, memory.weight_decay)
        memory.rate = view.scalars.get(GREATEST_RATE, memory.rate)
        memory.least_rate = view.scalars.get(LEAST_RATE, memory.least_rate)
        return None
    if memory.layers is not view.layers:
        memory.newest.clear()
        memory.layers, memory.first = view.layers, view.by_layer("param", "norm")
    weight, update = view.by_layer("param", "norm"), view.by_layer("update", "norm")
    memory.newest.append((view.step, weight, update, view.by_layer("param_grad", "norm")))
    if not memory.weight_decay > 0 or len(memory.newest) < _STEPS:
        return []
    return _shrinking(view, limit_of(threshold), memory) or _replaced(view, memory)


def _shrinking(view: StepView, limit: float, memory: Norms) -> list[RuleFinding]:
    oldest, newest = memory.newest[0], memory.newest[-1]
    steps = newest[0] - oldest[0]
    with np.errstate(all="ignore"):
        fall = np.log(newest[1] / oldest[1]) / steps
        ratio = np.median([each[2] / each[1] for each in memory.newest], axis=0)
        cosine = (fall - ratio**2 / 2.0) / ratio
        pull = memory.weight_decay * newest[1] / newest[3]
    known = np.isfinite(cosine)
    by_decay = -fall * _PART < memory.weight_decay * memory.rate
    is_shrinking = known & (cosine < _OPPOSITE) & (fall < -limit) & (newest[1] < _SHRUNK * memory.first)
    is_decayed = is_shrinking & (by_decay | (pull > 1.0))
    if not known.any() or is_decayed.sum() < known.sum() / 2.0:
        return []
    worst = np.argsort(np.where(is_decayed, fall, np.inf))[: int(is_decayed.sum())]
    names = tuple(view.layers[i] for i in worst)
    rate = float(-np.median(fall[is_decayed]))
    left = float(np.median((newest[1] / memory.first)[is_decayed]))
    return [
        RuleFinding(
            "",
            "param",
            rate,
            limit,
            "weight decay of {:g} outweighs the gradient: the weights shrink by {:.1%} a step, to {:.0%} so far",
            (memory.weight_decay, rate, left),
            weight=0.5,
            layers=names[:20],
            evidence={"shrinks_per_step": rate, "part_left": left, "weight_decay": memory.weight_decay},
        )
    ]


def _replaced(view: StepView, memory: Norms) -> list[RuleFinding]:
    """Find decay that takes 3 % and more of the weights in each step, by the product of decay and least rate."""
    part = memory.least_rate * memory.weight_decay
    with np.errstate(all="ignore"):
        left = memory.newest[-1][1] / memory.first
    known = np.isfinite(left) & (memory.newest[-1][2] > 0)
    is_smaller = known & (left < _SHRUNK)
    if not part >= _BY_RATE or not known.any() or is_smaller.sum() < known.sum() / 2.0:
        return []
    worst = np.argsort(np.where(is_smaller, left, np.inf))[: int(is_smaller.sum())]
    least = float(left[worst[0]])
    return [
        RuleFinding(
            "",
            "param",
            part,
            _BY_RATE,
            "weight decay of {:g} takes {:.0%} of the weights in each step, so they hold what the last {:.0f} steps "
            "have added; `{}` is at {:.0%} of its first size",
            (memory.weight_decay, part, 1.0 / part, view.layers[worst[0]], least),
            weight=0.5,
            layers=tuple(view.layers[i] for i in worst)[:20],
            evidence={"decay_per_step": part, "part_left": least, "weight_decay": memory.weight_decay},
        )
    ]
