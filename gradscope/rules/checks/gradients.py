"""Checks for gradients that vanish or explode along the depth or with time, for spikes, and for clipping in every step.

The order of the depth is the order in which the layers ran. Parameter gradients (`param_grad`) are what the
optimizer receives.
"""

import math
from collections import deque
from dataclasses import dataclass, field
from statistics import median

import numpy as np
from numpy.typing import NDArray

from gradscope.rules.alerts import RuleFinding
from gradscope.rules.step_view import Floats, StepView, any_of, indices_of
from gradscope.rules.thresholds import Threshold, weight_of
from gradscope.rules.thresholds import limit as limit_of
from gradscope.rules.trend import Trend, Turns

__all__ = [
    "ClippingFactors",
    "FirstNorms",
    "Shares",
    "Spikes",
    "clipping_always",
    "exploding",
    "over_limit",
    "spike",
    "under_limit",
    "vanishing",
]

_KIND = "param_grad"
_CLIPPED_STEPS = 15
"""Most of the first 20 steps. Clipping of the first few steps is what it is for."""
_CLIPPED_FAR = 10.0
"""From this many times the limit on it is a warning; below it, clipping in each step is common practice."""
_BATCH_SPREAD = 1.0
"""How much the gradient of one batch differs from the usual one, in decades: seldom more than tenfold."""
_LARGEST_GAP = 0.4
"""A fall along the depth is spread over at least three layers: none has more than this part of it. Layers that differ
by one large factor belong to different parts: an actor and a critic, or a branch that starts at zero."""
_CLIFF = 1e-8
"""The ratio of two neighbours that no such difference explains: below it, the smaller one gets no update that changes
a float32 weight (2^-24 = 6e-8) while the larger one is changed by all of its size."""
_RISING = 0.3
"""A share that doubles (0.3 decades) within ten observed steps is left to grow: warm-up, or a branch that opens."""
_GROWN = 1e3
"""Gradients follow the scale of weights and loss, which may well grow tenfold each; not a thousandfold."""
_EXPLODED = 1e3
"""With the same learning rate, updates differ as gradients do. The usual range of update ratios, 1e-4 to 1e-2, spans a
factor of 100; with 1000 between layers, some are outside."""
_WHOLE_RISE = 2.0
"""A step is a spike if the gradient over all layers rises too: to twice its level, as for a spike of the loss. A layer
with a small part of the gradient may begin to learn in one batch: an embedding below an LSTM that has ignored it."""
_RECURRENT = "param_grad.bias_hh_l0"
_BIASES_PER_UNIT = 4.0
"""The recurrent bias of an LSTM has four elements for each unit; of other layers fewer."""
_UNDERFLOWN = 4.0
"""Gradients that are exactly zero have vanished if those above fall towards them by this many decades."""
_OBSERVED = 10
_SHOWN = 20


@dataclass(slots=True)
class Shares:
    """The smallest shares of the largest gradient in the newest observed steps, as base-10 logarithms."""

    newest: list[float] = field(default_factory=list)

    def is_rising(self, share: float) -> bool:
        """Add the share of a step. Return whether it has doubled within the newest ten."""
        self.newest = [*self.newest[1 - _OBSERVED :], share]
        return share - min(self.newest) > _RISING


@dataclass(slots=True)
class FirstNorms:
    """The norms of the gradient over all layers in the first observed steps."""

    norms: list[float] = field(default_factory=list)

    def growth(self, norm: float) -> float:
        """Return the ratio of a norm to the usual first one; 1 while there are fewer than five."""
        if len(self.norms) < _OBSERVED // 2:
            if norm > 0:
                self.norms.append(norm)
            return 1.0
        return norm / median(self.norms)


def vanishing(view: StepView, threshold: Threshold, memory: Shares) -> list[RuleFinding]:
    """Find gradients that fall from layer to layer towards the input, down to the first layer that ran.

    Needs `param_grad` of four layers. The largest element stands for a layer, because gradients of embeddings and
    of experts are sparse. Layers at the beginning must be concerned: a branch with little gradient between layers
    with much is gated, scaled or not chosen.
    """
    order, largest = _in_order(view, _KIND, "absmax")
    if len(order) < 2 or not float(largest.max()) > 0:
        return []
    top = int(largest.argmax())
    least = limit_of(threshold) * float(largest[top])
    is_small = largest[: top + 1] < least
    low = int(np.argmin(is_small))  # the layers before it are all small
    if low == 0:
        return []
    fall, gap = _fall(largest[top::-1])
    is_spread = gap <= _LARGEST_GAP * fall
    limit = limit_of(threshold) if is_spread else _CLIFF
    share = _share(largest[:low], float(largest[top]))
    decades = float(np.log10(limit)) - share
    is_cut = not largest[:low].any() and not (is_spread and fall > _UNDERFLOWN)
    if decades <= 0 or is_cut:  # exactly zero: a head or a branch that starts at zero, or a cut graph
        return []
    weight = 0.0 if memory.is_rising(share) else weight_of(decades, _BATCH_SPREAD)
    names = tuple(view.layers[i] for i in order[:low])
    rms = view.by_layer(_KIND, "rms")
    smallest, greatest = rms[order[:low]].min(), rms[order[top]]
    words = "gradients vanish from `{}` down: rms {:.2g} at `{}` against {:.2g} at `{}`"
    lowest = names[int(rms[order[:low]].argmin())]
    return [
        RuleFinding(
            "",
            _KIND,
            float(smallest),
            float(limit * greatest),
            words,
            (names[-1], smallest, lowest, greatest, view.layers[order[top]]),
            weight=weight,
            layers=names[:_SHOWN],
            evidence={"rms": float(smallest), "largest_rms": float(greatest), "layers": float(low)},
        )
    ]


def exploding(view: StepView, threshold: Threshold, memory: FirstNorms) -> list[RuleFinding]:  # noqa: ARG001 - all checks take these arguments
    """Find gradients that grow from layer to layer towards the input, or with time.

    Along the depth the gradients of the outputs (`grad`) are compared, by their norms, which sizes of images and
    sequences change little. With time, the norm over all parameter gradients is. Inside a recurrent layer, the gradient
    of its bias is compared with that of its outputs.
    """
    total = math.sqrt(float(np.nansum(view.by_layer(_KIND, "sumsq"))))
    growth = memory.growth(total) if math.isfinite(total) else 1.0
    found = _growing_over_steps(view, total, growth) if growth > _GROWN else []
    found += _growing_in_sequences(view)
    order, grads = _in_order(view, "grad", "norm")
    if len(order) < 4 or not grads.max() > _EXPLODED * grads.min():  # the fast path
        return found
    is_some = grads > 0
    order, grads = order[is_some], grads[is_some]
    top = int(grads.argmax())
    fall, gap = _fall(grads[top:])
    decades = fall - float(np.log10(_EXPLODED))
    if decades > 0 and gap <= _LARGEST_GAP * fall:
        least, greatest = float(grads[top:].min()), float(grads[top])
        names = tuple(view.layers[i] for i in order[: top + 1])
        words = "gradients explode towards the input: norm {:.2g} at `{}` against {:.2g} at `{}`"
        last = view.layers[order[top + int(grads[top:].argmin())]]
        found.append(
            RuleFinding(
                "",
                "grad",
                greatest,
                _EXPLODED * least,
                words,
                (greatest, names[-1], least, last),
                weight=weight_of(decades, _BATCH_SPREAD),
                layers=names[::-1][:_SHOWN],
                evidence={"norm": greatest, "smallest_norm": least},
            )
        )
    return found


def _growing_in_sequences(view: StepView) -> list[RuleFinding]:
    """Find recurrent layers that multiply the gradient from one element of a sequence to the one before.

    The gradient of the bias is the sum of that of all N elements of all sequences. If no step back enlarges it, an
    element receives at most the sum of the gradients at the outputs, of norm g: so it is at most sqrt(N) N g. T steps
    that enlarge it by a factor f reach f^T.
    """
    if view.block is None or _RECURRENT not in view.block.kinds:
        return []
    before = view.by_layer(_RECURRENT.replace("param_grad", "param_grad_before_clip"), "norm")
    bias = np.where(np.isnan(before), view.by_layer(_RECURRENT, "norm"), before)
    outputs = [kind for kind in view.block.kinds if kind.partition(".")[0] == "grad"]
    g = np.sqrt(np.nansum([view.by_layer(kind, "sumsq") for kind in outputs], axis=0))
    number = _BIASES_PER_UNIT * view.by_layer("out.0", "count") / view.by_layer(_RECURRENT, "count")
    with np.errstate(all="ignore"):
        decades = np.log10(bias / g) - 1.5 * np.log10(number)
    words = (
        "gradients explode through time: the norm {:.2g} at its outputs becomes {:.2g} at its recurrent bias, {:.1g} "
        "times what sequences without growth can give"
    )
    return [
        RuleFinding(
            view.layers[i],
            _RECURRENT,
            float(bias[i]),
            float(bias[i] / 10.0 ** decades[i]),
            words,
            (g[i], bias[i], 10.0 ** decades[i]),
            weight=weight_of(float(decades[i]), _BATCH_SPREAD),
            layers=(view.layers[i],),
            evidence={"norm": float(bias[i]), "norm_at_outputs": float(g[i])},
        )
        for i in indices_of(np.isfinite(decades) & (decades > 0))
    ]


def _growing_over_steps(view: StepView, total: float, growth: float) -> list[RuleFinding]:
    norms = view.by_layer(_KIND, "norm")
    most = np.argsort(-np.nan_to_num(norms, posinf=np.inf))[:3]
    names = tuple(view.layers[i] for i in most if norms[i] > total / 10)
    return [
        RuleFinding(
            "",
            _KIND,
            total,
            total / growth * 10.0,
            "the gradient norm over all layers is {:.2g}, {:.2g} times that of the first steps",
            (total, growth),
            weight=weight_of(float(np.log10(growth / _GROWN)), _BATCH_SPREAD),
            layers=names,
            evidence={"norm": total, "first_norm": total / growth},
        )
    ]


@dataclass(slots=True)
class Spikes:
    """The trend of each layer's gradient norm, and whether networks are updated in turn."""

    trend: Trend = field(default_factory=Trend)
    turns: Turns = field(default_factory=Turns)


def spike(view: StepView, threshold: Threshold, memory: Spikes) -> list[RuleFinding]:
    """Find layers whose gradient norm is far above its recent level, in steps whose gradient rises as a whole.

    If some layers are updated in the step, only these are judged: in a GAN the gradient of the other network comes from
    another loss. Where networks are updated in turn, a spike is a hint.
    """
    factor = limit_of(threshold)
    norms, update = view.by_layer(_KIND, "norm"), view.by_layer("update", "norm")
    if any_of(update > 0):
        norms = np.where(update > 0, norms, np.nan)
    memory.turns.add(view)
    rise = memory.trend.rise_of_all(view.layers, norms)
    excess = memory.trend.excess(view.layers, norms, factor, view.step)
    if rise < _WHOLE_RISE:
        return []
    return [
        RuleFinding(
            view.layers[i],
            _KIND,
            float(norms[i]),
            float(norms[i] / excess[i] * factor),
            "gradient norm {:.3g}, {:.3g} times its recent level of {:.3g}",
            (norms[i], excess[i], norms[i] / excess[i]),
            severity="hint" if memory.turns.are_taken else None,
        )
        for i in indices_of(~np.isnan(excess))
    ]


def over_limit(view: StepView, threshold: Threshold, memory: None) -> list[RuleFinding]:  # noqa: ARG001 - as above
    """Find layers whose gradient norm is over the threshold."""
    limit = limit_of(threshold)
    norms = view.by_layer(_KIND, "norm")
    words = "gradient norm {:.3g}, over {:g}"
    return [
        RuleFinding(view.layers[i], _KIND, float(norms[i]), limit, words, (norms[i], limit))
        for i in indices_of(norms > limit)
    ]


def under_limit(view: StepView, threshold: Threshold, memory: None) -> list[RuleFinding]:  # noqa: ARG001 - as above
    """Find layers whose gradient rms is tiny compared with the largest gradient rms of all layers.

    The root mean square makes layers of different sizes comparable.
    """
    rms = view.by_layer(_KIND, "rms")
    known = rms[np.isfinite(rms)]
    greatest = float(known.max()) if len(known) else 0.0
    limit = limit_of(threshold) * greatest
    words = "gradient rms {:.3g}; the largest of all layers is {:.3g}"
    return [
        RuleFinding(view.layers[i], _KIND, float(rms[i]), limit, words, (rms[i], greatest))
        for i in indices_of(rms < limit)
    ]


def _in_order(view: StepView, kind: str, quantity: str) -> tuple[NDArray[np.intp], Floats]:
    """Return the layers with this number, in the order in which they ran, and the numbers."""
    order = view.execution_order()
    values = view.by_layer(kind, quantity)[order]
    is_known = np.isfinite(values)
    return order[is_known], values[is_known]


def _fall(values: Floats) -> tuple[float, float]:
    """Return by how many decades the values fall from first to last, and the largest fall between neighbours.

    Only new minima count, so noise does not count. Zeros have no logarithm; they are below all others.
    """
    logs = np.minimum.accumulate(np.log10(values[values > 0]))
    falls = -np.diff(logs)
    return (float(falls.sum()), float(falls.max())) if len(falls) else (0.0, 0.0)


def _share(values: Floats, largest: float) -> float:
    """Return the logarithm of the smallest share that is not zero; that of float32's least number if all are."""
    some = values[values > 0]
    return float(np.log10(some.min() / largest)) if len(some) else -45.0


@dataclass(slots=True)
class ClippingFactors:
    """By what clipping has divided the gradient in the newest observed steps."""

    newest: deque[float] = field(default_factory=lambda: deque(maxlen=_CLIPPED_STEPS))


def clipping_always(view: StepView, threshold: Threshold, memory: ClippingFactors) -> list[RuleFinding]:
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
            weight=1.0 / _CLIPPED_STEPS,
            severity=None if usual > _CLIPPED_FAR * limit else "hint",
            evidence={"factor": usual},
        )
    ]
