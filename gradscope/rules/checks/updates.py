"""Checks of the optimizer's updates: a learning rate that is too high or too low, and updates that do not happen."""

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median

import numpy as np
from numpy.typing import NDArray

from gradscope.columns import update_ratio as ratio_of
from gradscope.rules.alerts import RuleFinding
from gradscope.rules.checks.losses import LossHistory
from gradscope.rules.step_view import Floats, StepView, any_of, indices_of
from gradscope.rules.thresholds import Threshold, limits, weight_of

__all__ = ["Learning", "Moved", "learning_rate", "no_update", "update_ratio"]

_FAR = 10.0
"""A single layer is reported only if its ratio is outside the range by this factor, because layers differ."""
_BEHIND = 100.0
"""A single layer is too slow only if its ratio is also this many times lower than the median layer's."""

_RATIO_SPREAD = 0.25
"""How much the median update ratio differs from step to step, in decades."""
_TOO_LARGE = 3.0
"""Update ratios of up to three times the upper limit are usual in small models and in the first steps of Adam."""
_TENFOLD = 10.0
"""A loss that stays has other readings (a target network that moves, noise), so without an overshoot the ratio must
be ten times the upper limit."""
_WHOLE_LOSS = 0.5
"""The change of the loss that a step predicts, |gradient| times |update|, as a part of the loss. A step that is meant
to take away half of the loss and more goes beyond where the gradient says anything: for a quadratic loss, 2 is where
gradient descent diverges, and 1/2 is the best step."""
_LOSSES_NEEDED = 30
_FELL = 0.9
"""A loss that is lower than this has fallen: with noise of 15 % from batch to batch, the median of ten losses is off by
6 %. Contrastive losses and losses of noisy labels fall little, however well they are trained."""
_RISEN = 3.0
"""A level this many times the lowest one so far is more than the end of a fall and its noise."""
_WINDOW = 20
"""Losses of which two medians in a row are compared. With noise of 15 % a median is off by 4 %, less than _FELL."""
_PLATEAU_STEPS = 10
"""Steps in which a loss must stay: half of the newer median has been replaced then."""
_WITHOUT_LOSS = 30.0
"""Without a logged loss, only a ratio that replaces 30 % of the first weights in each step is too high."""
_KEPT = 20
_TINY = 1e-6
"""A million such steps change the weights by their own size."""
_LOW_NEEDED = 50
_STILL_STEPS = 15
"""Most of the first 20 steps; a warm-up from 0 has a learning rate of 0 in one step or a few."""
_USUAL_RATE = 1e-3
"""Stands for a learning rate that is 0 or not known, to judge whether an update could be seen."""
_ROUNDING = 2.0**-24
"""Half a unit in the last place of float32, relative: smaller changes are rounded away."""
_LOW, _HIGH = "learning-rate-too-low", "learning-rate-too-high"
LEAST_RATE, WEIGHT_DECAY, GREATEST_RATE = "optimizer_lr_least", "optimizer_weight_decay", "optimizer_lr"
"""Scalars of observed steps: the least and the greatest learning rate of all parameter groups, and the greatest
weight decay."""


@dataclass(slots=True)
class _Update:
    """The median over the layers of |Δw| / |first w| in one step, and of the predicted change of the loss."""

    step: int
    ratio: float
    change: float
    part: float | None = None


@dataclass(slots=True)
class Learning:
    """The newest updates, joined with the loss of their steps, and the first norm of each layer."""

    first_norms: dict[str, float] = field(default_factory=dict)
    updates: deque[_Update] = field(default_factory=lambda: deque(maxlen=_KEPT))
    loss: LossHistory = field(default_factory=LossHistory)
    greatest_ratio: float = 0.0
    has_overshot: bool = False


def learning_rate(view: StepView, threshold: Threshold, memory: Learning) -> list[RuleFinding] | None:
    """Find a learning rate that is far too high or far too low for this model and loss.

    Too high needs two facts: the updates are large compared with the first weights, and the steps overshoot: each
    predicts to take away half of the loss and more, while the loss has risen above its start or has not fallen in 30
    steps. Both are free of the scale of loss and weights. Without a logged loss, only very large updates are found.

    A loss that has fallen and then stays, far above zero, is judged by the newest updates: if the usual one changes a
    tenth of the first weights and predicts to take away half of the loss, while all of them together take nothing, each
    step costs as much as it gains. A lower rate gets below this loss.
    """
    if view.block is not None and not view.scalars:
        return _add_update(view, threshold, memory)
    value = memory.loss.add(view.scalars)
    if value is None:
        return None
    newest = memory.updates[-1] if memory.updates else None
    if newest is not None and newest.step == view.step and value > 0:
        newest.part = newest.change / value
    return _judged_with_loss(view.step, threshold, memory)


def _add_update(view: StepView, threshold: Threshold, memory: Learning) -> list[RuleFinding] | None:
    """Add the update of an observed step; judge it if no loss is logged."""
    update, weight = view.by_layer("update", "norm"), view.by_layer("param", "norm")
    gradient = view.by_layer("param_grad_before_clip", "norm")
    gradient = np.where(np.isnan(gradient), view.by_layer("param_grad", "norm"), gradient)
    ratios: list[float] = []
    change = 0.0
    for name, moved, size, slope in zip(
        view.layers, update.tolist(), weight.tolist(), gradient.tolist(), strict=True
    ):
        if size >= 0:
            first = memory.first_norms.setdefault(name, size)
            change += moved * slope if moved * slope > 0 else 0.0
            if (
                moved > 0 and first > 0
            ):  # a layer that begins at zero has no first weights to compare with
                ratios.append(moved / first)
    if not ratios:
        return None
    ratio = median(ratios)
    memory.updates.append(_Update(view.step, ratio, change))
    memory.greatest_ratio = max(memory.greatest_ratio, ratio)
    if memory.loss.count:
        return None
    greatest = limits(threshold)[1] * _WITHOUT_LOSS
    weight_sum = sum(weight_of(math.log10(u.ratio / greatest), _RATIO_SPREAD) for u in memory.updates)
    if ratio <= greatest or len(memory.updates) < _KEPT // 2:
        return []
    return [_too_high(list(memory.updates), limits(threshold)[1], weight_sum, "")]


def _judged_with_loss(step: int, threshold: Threshold, memory: Learning) -> list[RuleFinding] | None:
    loss, (least, greatest) = memory.loss, limits(threshold)
    if not loss.is_positive or not memory.updates:
        return None
    memory.has_overshot = memory.has_overshot or (loss.count <= _KEPT and loss.has_overshot)
    if memory.greatest_ratio >= _TOO_LARGE * greatest:
        return _too_high_with_loss(memory, greatest) or _too_high_on_plateau(memory, step, greatest)
    if loss.count >= _LOW_NEEDED and memory.greatest_ratio < least:
        return _too_low(memory, least)
    return []


def _too_high_with_loss(memory: Learning, greatest: float) -> list[RuleFinding]:
    """Judge the updates that are both large and predicted to take away half of the loss or more."""
    loss = memory.loss
    level = loss.level()
    is_stuck = loss.count >= _LOSSES_NEEDED and level > _FELL * loss.start
    is_back = level > max(_RISEN * loss.lowest_level, loss.start / 10.0)
    if not (memory.has_overshot or is_stuck or is_back):
        return []
    least = greatest * (_TOO_LARGE if memory.has_overshot else _TENFOLD)
    too_large = [
        each
        for each in memory.updates
        if each.part is not None and each.part >= _WHOLE_LOSS and each.ratio >= least
    ]
    weight = sum(weight_of(math.log10(each.ratio / greatest), _RATIO_SPREAD) for each in too_large)
    if not too_large:
        return []
    if memory.has_overshot or not is_stuck:
        how = f"the loss rose from {min(loss.start, loss.lowest_level):.3g} to {loss.highest:.3g}"
    else:
        how = f"after {loss.count} steps the loss is {level:.3g}, from {loss.start:.3g} at the start"
    return [_too_high(too_large, greatest, weight, f"; {how}")]


def _too_high_on_plateau(memory: Learning, step: int, greatest: float) -> list[RuleFinding]:
    """Judge the newest updates while a loss that had fallen stays where it is, far above zero."""
    loss, updates = memory.loss, [each for each in memory.updates if each.part is not None]
    if loss.count < 2 * _LOSSES_NEEDED or len(updates) < _KEPT // 2:
        return []
    last = updates[-1]
    is_recent = last.step > step - 2 * _WINDOW
    if not is_recent or last.ratio < _TENFOLD * greatest or (last.part or 0.0) < _WHOLE_LOSS:
        return []  # the fast path: this runs in every step with a loss
    ratio, part = median(each.ratio for each in updates), median(each.part or 0.0 for each in updates)
    losses = list(loss.newest)[-2 * _WINDOW :]
    before, level = median(losses[:_WINDOW]), median(losses[_WINDOW:])
    is_plateau = level >= _FELL * before and level > loss.start / _TENFOLD
    if not is_plateau or ratio < _TENFOLD * greatest or part < _WHOLE_LOSS:
        return []
    how = (
        f"; each predicts to take away {part:.0%} of the loss, which is {level:.3g} and was {before:.3g} "
        f"{_WINDOW} steps before"
    )
    return [_too_high(updates, greatest, 1.0 / _PLATEAU_STEPS, how)]


def _too_high(updates: Sequence[_Update], greatest: float, weight: float, how: str) -> RuleFinding:
    ratio = median(each.ratio for each in updates)
    parts = [each.part for each in updates if each.part is not None]
    words = (
        "the learning rate is about {:.0f} times too high: each step changes the weights by {:.0%}{}"
    )
    evidence = {"update_ratio": ratio, "factor": ratio / greatest}
    if parts:
        evidence["predicted_fall_per_loss"] = median(parts)
    return RuleFinding(
        "",
        "update",
        ratio,
        greatest,
        words,
        (max(2.0, ratio / greatest), ratio, how),
        weight=weight,
        code=_HIGH,
        evidence=evidence,
    )


def _too_low(memory: Learning, least: float) -> list[RuleFinding]:
    """Judge updates that have been tiny in all observed steps, while the loss has not moved."""
    loss, updates = memory.loss, list(memory.updates)
    ratio = updates[-1].ratio
    is_rising = ratio > 1.5 * updates[len(updates) // 2].ratio  # warm-up
    has_fallen = loss.level() < loss.start * (1.0 - max(0.05, 2.0 * loss.noise / math.sqrt(_KEPT / 2)))
    if is_rising or has_fallen or len(updates) < _KEPT // 2:
        return []
    words = "the learning rate is very low: each step changes the weights by {:.2g} of their size"
    return [
        RuleFinding(
            "",
            "update",
            ratio,
            least,
            words,
            (ratio,),
            weight=1.0,
            code=_LOW,
            severity="warning" if memory.greatest_ratio < _TINY else "hint",
            evidence={"update_ratio": ratio, "factor": least / ratio},
        )
    ]


@dataclass(slots=True)
class Moved:
    """In how many observed steps in a row each layer had a gradient and did not change, and which have changed."""

    layers: Sequence[str] = ()
    have_moved: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, np.bool_))
    still: dict[str, int] = field(default_factory=dict)
    least_rate: float = math.nan
    rate: float = _USUAL_RATE


def no_update(view: StepView, threshold: Threshold, memory: Moved) -> list[RuleFinding] | None:  # noqa: ARG001 - all checks take these arguments
    """Find layers that have a gradient and never change, although their optimizer steps.

    A layer that has changed before is silent. If all have and the learning rate is 0 now, it is a hint: a schedule has
    ended. So is one whose gradient times the learning rate is
    lost in the rounding of its weights. With a learning rate of 0 for some layers the
    finding is a hint, because that is a way to freeze them. A warm-up from 0 changes them within a few steps.
    """
    if view.scalars:
        memory.least_rate = view.scalars.get(LEAST_RATE, memory.least_rate)
        memory.rate = view.scalars.get(GREATEST_RATE, memory.rate)
        return None
    if memory.layers is not view.layers and memory.layers != view.layers:
        memory.layers, memory.have_moved = view.layers, np.zeros(len(view.layers), np.bool_)
    update = view.by_layer("update", "norm")
    memory.have_moved |= update > 0
    is_still = (update == 0) & (view.by_layer("param_grad", "norm") > 0)
    has_ended = memory.rate == 0 and bool(memory.have_moved.any()) and not (update > 0).any()
    if not has_ended:
        is_still &= ~memory.have_moved
    if not any_of(is_still):  # the fast path
        memory.still.clear()
        return []
    expected = (memory.rate or _USUAL_RATE) * view.by_layer("param_grad", "absmax")
    is_still &= expected > _ROUNDING * view.by_layer("param", "absmax")
    still = [view.layers[i] for i in indices_of(is_still)]
    memory.still = {name: memory.still.get(name, 0) + 1 for name in still}
    if not still:
        return []
    counts = [memory.still[name] for name in still]
    is_whole = has_ended or not memory.have_moved.any()
    words = "{} not changed by the optimizer in {} observed steps, although a gradient arrives"
    shown = ", ".join(f"`{name}`" for name in still[:3])
    more = f" and {len(still) - 3} more" if len(still) > 3 else ""
    who = "the weights are" if is_whole else f"{shown}{more} {'are' if len(still) > 1 else 'is'}"
    return [
        RuleFinding(
            "",
            "update",
            0.0,
            0.0,
            words,
            (who, max(counts)),
            weight=1.0 / _STILL_STEPS,
            severity="hint" if has_ended or (not is_whole and memory.least_rate == 0) else None,
            layers=() if is_whole else tuple(still[:_KEPT]),
            evidence={"observed_steps": float(max(counts))},
        )
    ]


def update_ratio(view: StepView, threshold: Threshold, memory: None) -> list[RuleFinding]:  # noqa: ARG001 - as above
    """Find update ratios |Δw| / |w| outside the range, for the model and for single layers.

    The ratio of the model is the median over its layers. A layer that was not updated at all (frozen, no gradient,
    learning rate 0, skipped step) is not judged.
    """
    least, greatest = limits(threshold)
    update, weight = view.by_layer("update", "norm"), view.by_layer("param", "norm")
    ratio = np.where(update > 0, ratio_of(update, weight), np.nan)
    known = ratio[~np.isnan(ratio)]
    if not len(known):
        return []
    usual = float(np.median(known))
    low, high = least / _FAR, greatest * _FAR
    found: list[RuleFinding] = []
    if known.max() > high or known.min() < min(low, usual / _BEHIND):
        found = _of_layers(view, ratio, usual, low, high)
    if not least <= usual <= greatest:
        words = "the median Δw/w of all layers is {:.3g}, {}"
        values = usual, _side(usual, least, greatest)
        limit, code = (least, _LOW) if usual < least else (greatest, _HIGH)
        found.insert(0, RuleFinding("", "update", usual, limit, words, values, code=code))
    return found


def _of_layers(
    view: StepView, ratio: Floats, usual: float, least: float, greatest: float
) -> list[RuleFinding]:
    with np.errstate(invalid="ignore"):
        is_out = (ratio > greatest) | ((ratio < least) & (ratio < usual / _BEHIND))
    return [
        RuleFinding(
            view.layers[i],
            "update",
            float(ratio[i]),
            least if ratio[i] < least else greatest,
            "Δw/w is {:.3g}, {}",
            (ratio[i], _side(ratio[i], least, greatest)),
            code=_LOW if ratio[i] < least else _HIGH,
        )
        for i in indices_of(is_out)
    ]


def _side(ratio: float, least: float, greatest: float) -> str:
    return f"under {least:g}" if ratio < least else f"over {greatest:g}"
