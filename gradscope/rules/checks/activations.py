"""Checks for dead and saturated activations.

Both judge a whole layer, over all units and the whole batch, because the columns do not keep units apart. To find a
single dead unit, capture the tensor.
"""

from dataclasses import dataclass, field, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from gradscope.rules.alerts import RuleFinding
from gradscope.rules.step_view import Floats, StepView, any_of, indices_of
from gradscope.rules.thresholds import Threshold, weight_of
from gradscope.rules.thresholds import limit as limit_of

__all__ = ["FirstSlopes", "dead", "saturated"]

_TANH = frozenset({"Tanh"})
_SIGMOID = frozenset({"Sigmoid"})
_DEAD_STEPS = 3
"""An output of zeros without a gradient does not come by chance. Three steps rule out a first step that is special."""
_UNCERTAIN_STEPS = 15
"""Enough of the first 20 steps, for facts that have other readings in the first few: parameters without a gradient,
a fraction of zeros, the input of a later layer."""
_FIRST_LIMIT = 2.5
"""Times the limit, 2.5 %, for a layer that begins saturated at both bounds. Normal inputs of a Tanh with a standard
deviation of s have a mean slope of 0.8 / s; inputs of 30 are far from unit scale, as those of `input-scale`."""
_TWO_SIDED = 0.1
"""The least share of either bound. A Sigmoid that begins closed or open, to scale a branch, has one side."""
_SAMPLED_SPREAD = 0.1
"""In decades: of the mean slope of 2,000 elements of which 1 % are not at their bounds (20 of them, so a fifth)."""
_SLOPE_SPREAD = 0.5
"""How much the mean slope differs from batch to batch, in decades: a batch has many samples, so by less than half."""


def dead(view: StepView, threshold: Threshold, memory: None) -> list[RuleFinding]:  # noqa: ARG001 - all checks take these arguments
    """Find layers whose output is entirely or almost entirely zero and whose parameters get no gradient.

    A layer that starts at zero (the last one of a residual branch, the second one of LoRA) gets a gradient and is
    not dead. At full detail the column `zero` counts zeros. At core detail only an output that is entirely zero
    is found, from its minimum and maximum. A layer in a chain of dead ones is not reported by itself.
    """
    limit = limit_of(threshold)
    least, greatest = view.by_layer("out", "min"), view.by_layer("out", "max")
    fraction = np.where((least == 0) & (greatest == 0), 1.0, np.nan)
    if view.block is not None and "zero" in view.block.values:
        zero, finite = view.by_layer("out", "zero"), view.by_layer("out", "finite")
        with np.errstate(invalid="ignore", divide="ignore"):
            fraction = np.where(finite > 0, zero / finite, fraction)
    is_dead = fraction > limit
    if not any_of(is_dead):
        return _dead_inputs(view)
    order = view.execution_order()
    norms = view.by_layer("param_grad", "norm")
    found: list[RuleFinding] = []
    before, chain = float("nan"), False
    for i in order.tolist():
        if not np.isnan(norms[i]):
            before = float(norms[i])
        if not is_dead[i]:
            chain = False
            continue
        if not chain:
            found.append(_dead(view, i, float(fraction[i]), limit, before))
        elif len(found[-1].layers) < _DEAD_STEPS:
            found[-1] = replace(found[-1], layers=(*found[-1].layers, view.layers[i]))
        chain = True
    return found


def _dead(view: StepView, i: int, fraction: float, limit: float, norm: float) -> RuleFinding:
    """norm: of the gradient of the newest parameters that ran; NaN if none of them has one."""
    weight = 0.0 if norm > 0 and fraction == 1.0 else 1.0 / _UNCERTAIN_STEPS
    return RuleFinding(
        view.layers[i],
        "out",
        fraction,
        limit,
        "{:.2%} of the output is zero",
        (fraction,),
        weight=1.0 / _DEAD_STEPS if norm == 0 and fraction == 1.0 else weight,
        layers=(view.layers[i],),
        evidence={"zero_fraction": fraction},
    )


def _dead_inputs(view: StepView) -> list[RuleFinding]:
    """Find layers whose input is zero, although no module has this output: the activation is a function.

    The gradient of the weight is zero and that of the bias is not. So no sample has a nonzero input, and the
    parameters before get no gradient either. An expert that was not chosen gets neither.
    """
    norms = view.by_layer("param_grad", "norm")
    if not any_of(norms == 0):  # the fast path
        return []
    weight = view.by_layer("param_grad.weight", "absmax")
    is_cut = (weight == 0) & (view.by_layer("param_grad.bias", "absmax") > 0)
    if not any_of(is_cut):
        return []
    names = [i for i in view.execution_order().tolist() if not np.isnan(norms[i])]
    return [
        RuleFinding(
            view.layers[before],
            "param_grad",
            0.0,
            0.0,
            "its outputs are zero after the activation: `{}` gets a gradient for its bias and none for its weight",
            (view.layers[i],),
            weight=1.0 / _UNCERTAIN_STEPS,
            layers=(view.layers[before], view.layers[i]),
            evidence={"weight_gradient": 0.0},
        )
        for before, i in pairwise(names)
        if is_cut[i] and norms[before] == 0
    ]


@dataclass(slots=True)
class FirstSlopes:
    """The mean slope of each layer in its first observed step, as a part of the maximum slope."""

    slopes: dict[str, float] = field(default_factory=dict)


def saturated(view: StepView, threshold: Threshold, memory: FirstSlopes) -> list[RuleFinding]:
    """Find Tanh and Sigmoid layers that are saturated: their slope lets almost no gradient through.

    The mean slope is exact: for y = tanh(x) it is 1 - mean(y^2); for y = sigmoid(x) it is
    mean(y) - mean(y^2), which is at most 1/4. The slope of other bounded activations cannot be derived
    from the columns, so they are not judged. An activation after which no layer with parameters runs is the output;
    it is at its bounds if the model is sure. A Sigmoid that has become saturated may do gating and has decided:
    a hint. The limit is higher for a layer that has been saturated at both bounds from its first observed step on.
    """
    if not any_of(view.types_are(_TANH | _SIGMOID)):  # true for most models
        return []
    slope = _slopes(view)
    for i in indices_of(~np.isnan(slope)):
        memory.slopes.setdefault(view.layers[i], float(slope[i]))
    usual = limit_of(threshold)
    first = np.array([memory.slopes.get(name, np.inf) for name in view.layers])
    is_from_start = (first < _FIRST_LIMIT * usual) & _is_two_sided(view)
    limits = np.where(is_from_start, _FIRST_LIMIT * usual, usual)
    is_low = (slope < limits) & _is_hidden(view)
    return [
        RuleFinding(
            view.layers[i],
            "out",
            max(float(slope[i]), 0.0),
            float(limits[i]),
            "saturated: the mean slope is {:.2%} of the maximum slope",
            (max(slope[i], 0.0),),
            weight=weight_of(
                float(np.log10(limits[i] / max(slope[i], 1e-9))),
                _SAMPLED_SPREAD if is_from_start[i] else _SLOPE_SPREAD,
            ),
            severity="hint"
            if view.types[i] in _SIGMOID and memory.slopes[view.layers[i]] >= limits[i]
            else None,
        )
        for i in indices_of(is_low)
    ]


def _slopes(view: StepView) -> Floats:
    mean, rms = view.by_layer("out", "mean"), view.by_layer("out", "rms")
    slope = np.where(view.types_are(_TANH), 1.0 - rms**2, np.nan)
    return np.where(view.types_are(_SIGMOID), 4.0 * (mean - rms**2), slope)


def _is_two_sided(view: StepView) -> NDArray[np.bool_]:
    """Return for each Tanh or Sigmoid whether a tenth of the range, at least, lies on either side of its mean."""
    mean = view.by_layer("out", "mean")
    part = np.where(view.types_are(_TANH), (1.0 + mean) / 2.0, mean)
    return (part > _TWO_SIDED) & (part < 1.0 - _TWO_SIDED)


def _is_hidden(view: StepView) -> NDArray[np.bool_]:
    """Return for each layer whether a layer with trained parameters ran after it."""
    order = view.execution_order()
    trained = np.flatnonzero(~np.isnan(view.by_layer("param_grad", "norm")[order]))
    is_hidden = np.zeros(len(view.layers), np.bool_)
    is_hidden[order[: int(trained[-1])] if len(trained) else order] = True
    return is_hidden
