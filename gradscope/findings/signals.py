"""Checks of what is measured in addition to the columns: inputs, single units, variation over the batch, lost updates.

Each check is a function of the signals of all steps in which they were read, oldest first, and returns findings.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from itertools import pairwise, takewhile
from typing import TypeAlias

from gradscope.findings.codes import finding
from gradscope.findings.finding import Finding
from gradscope.findings.signal_facts import (
    BatchTensor,
    FedLayer,
    LayerOutput,
    LayerUnits,
    Source,
    StepSignals,
)
from gradscope.findings.update_signals import lost_updates, too_large_steps, underflown_gradients

__all__ = ["SIGNAL_CHECKS", "find_signal_faults", "is_collapsing", "repeated_batch", "repeated_steps"]

_FEW_STEPS = 3
_STEPS = 5
"""The number of steps that a condition must hold: a few for what does not change by training, such as the data."""

_LARGE_RMS = 30.0
"""Initial weights and learning rates are made for inputs near 1. With inputs of this size the curvature of the loss in
the first layer's weights is its square, about 1,000 times, that of its bias: one learning rate cannot fit both."""

_SMALL_MAX = 0.01
"""Inputs that stay below this contribute less to the first layer's output than its initial bias does, 100 times."""

_FEATURE_SHARE = 0.99

_ALIVE_SAMPLES = 256
"""A unit that is active for 2 % of the samples is zero for all of these with a probability below 1 %."""

_DEAD_SHARE = 0.5
_OFTEN = 5

_SAME = 1e-10
"""The variance over the batch relative to the mean square: samples that differ by less than 1e-5 of their size, which
is about the error that float32 accumulates over some layers."""

_FALLEN = 1e-3
_FALLEN_LATENT = 0.01
"""Of the variance of a latent layer at first, because an initial output may be small."""
_FALLEN_SHARE = 0.05
_FALLEN_VIEWS = 0.1
"""With a share s of the variance in the mean square, two samples have a cosine similarity of 1 - s on average: 0.95,
and ten times nearer to 1 than at first."""
_GROWN = 10.0
"""An output that varies far more than at first has learned something, whatever its mean."""
_DOUBT = 0.3
_UNIT_VARIANCE = 0.01
"""A latent unit of a variational autoencoder counts as active above this variance (Burda et al. 2016, section 5.3)."""

_FEW_ELEMENTS = 16

SignalCheck: TypeAlias = Callable[[Sequence[StepSignals]], list[Finding]]


def find_signal_faults(history: Sequence[StepSignals]) -> list[Finding]:
    """Return the findings of all checks that need nothing but the history."""
    found = [each for check in SIGNAL_CHECKS for each in check(history)] if history else []
    return [*too_large_steps(history, found), *found]


def input_scale(history: Sequence[StepSignals]) -> list[Finding]:
    """Find data that enters a layer far from unit scale, or that is constant.

    It judges what the first layer with weights receives, so a model that scales its input itself is silent, and one
    that begins with a normalization too. A layer that is followed by a normalization is a hint.
    """
    newest = history[-_FEW_STEPS:]
    if len(newest) < _FEW_STEPS:
        return []
    findings = []
    for layer in dict.fromkeys(each.layer for each in newest[-1].fed):
        steps = [[each for each in signals.fed if each.layer == layer] for signals in newest]
        calls = [each for step in steps for each in step]
        if not all(steps):
            continue
        text = _scale_fault(calls)
        if text:
            last = max(steps[-1], key=lambda each: each.rms)
            findings.append(
                finding(
                    "input-scale",
                    f"{_name(layer)} reads {text}",
                    step=newest[-1].step,
                    since=newest[0].step,
                    layers=(layer,),
                    severity="hint" if last.is_normalized else "warning",
                    confidence="measured",
                    evidence={
                        "mean": last.mean,
                        "standard_deviation": last.std,
                        "min": last.min,
                        "max": last.max,
                        "share_of_largest_feature": last.feature_share,
                        "dtype": last.dtype,
                    },
                )
            )
    return findings


def _scale_fault(calls: Sequence[FedLayer]) -> str:
    """Return a description of what is wrong with all these inputs of one layer; empty if nothing is."""
    last = calls[-1]
    numbers = f"(mean {last.mean:.3g}, standard deviation {last.std:.3g})"
    if all(each.min == each.max and each.samples > 1 for each in calls):
        return f"the constant {last.min:.3g}: no sample differs from another"
    if all(each.rms >= _LARGE_RMS for each in calls):
        is_one = last.features > 2 and last.feature_share >= _FEATURE_SHARE
        if is_one:
            return (
                f"inputs of which feature {last.feature} of {last.features} has a root mean square of "
                f"{last.feature_rms:.3g} and {last.feature_share:.1%} of the sum of squares"
            )
        return f"values from {last.min:.3g} to {last.max:.3g} {numbers}, far above 1"
    if all(
        each.features > 2 and each.feature_share >= _FEATURE_SHARE and each.feature_rms >= _LARGE_RMS
        for each in calls
    ):
        return (
            f"inputs of which feature {last.feature} of {last.features} has a root mean square of "
            f"{last.feature_rms:.3g} and {last.feature_share:.1%} of the sum of squares"
        )
    if all(0 < max(-each.min, each.max) <= _SMALL_MAX for each in calls):
        return f"values between {last.min:.3g} and {last.max:.3g} {numbers}, far below 1"
    return ""


def repeated_steps(history: Sequence[StepSignals]) -> Sequence[StepSignals]:
    """Return the newest steps whose inputs have equal contents in new tensors; empty if they are too few.

    The differences between these steps have no common divisor, so a data set that repeats after a few batches is
    silent. The very same tensor in each step, constants and evenly spaced values are made on purpose.
    """
    if not history or not history[-1].batch:
        return ()
    equal = list(takewhile(lambda each: each.digest == history[-1].digest, reversed(history)))[::-1]
    gaps = [after.step - before.step for before, after in pairwise(equal)]
    if len(equal) < _STEPS or math.gcd(*gaps) != 1:
        return ()
    data = [tensor for tensor in history[-1].batch if not tensor.is_regular]
    return () if not data or any(tensor.is_same_object for tensor in data) else equal


def repeated_batch(history: Sequence[StepSignals], source: Source = "") -> list[Finding]:
    """Find the same inputs step after step in new tensors, and batches whose samples are all the same.

    source: where equal inputs come from. It is a hint if they are the whole data set (full-batch training), or if
    another tensor with these contents stays alive, such as one batch that is moved to a device in each step.
    """
    steps = repeated_steps(history)
    if steps:
        first = steps[-1].batch[0]
        more = "; the process holds more samples than these" if source == "part" else ""
        return [
            finding(
                "repeated-batch",
                f"the inputs of steps {steps[0].step} to {steps[-1].step} are the same, in new tensors "
                f"({first.place}, shape {first.shape}){more}",
                step=steps[-1].step,
                since=steps[0].step,
                severity="hint" if source in ("whole", "held") else "warning",
                confidence="measured",
                evidence={
                    "digest": f"{steps[-1].digest:016x}",
                    "steps": float(len(steps)),
                    "source": source,
                },
            )
        ]
    newest = history[-_STEPS:]
    if len(newest) < _STEPS or not all(_has_equal_samples(signals.batch) for signals in newest):
        return []
    shown = next(each for each in newest[-1].batch if each.are_samples_equal)
    return [
        finding(
            "repeated-batch",
            f"all {shown.shape[0]} samples of a batch are the same ({shown.place}, steps {newest[0].step} to "
            f"{newest[-1].step})",
            step=newest[-1].step,
            since=newest[0].step,
            confidence="measured",
            evidence={"samples": float(shown.shape[0]), "steps": float(len(newest))},
        )
    ]


def _has_equal_samples(batch: Sequence[BatchTensor]) -> bool:
    """Return whether all tensors of a batch hold one sample several times, and one of them more than one value."""
    known = [tensor for tensor in batch if tensor.are_samples_equal is not None]
    return (
        bool(known)
        and all(tensor.are_samples_equal and not tensor.is_same_object for tensor in known)
        and any(tensor.shape[0] > _FEW_STEPS and math.prod(tensor.shape[1:]) > 1 for tensor in known)
        and not all(tensor.is_regular for tensor in known)
    )


def dead_units(history: Sequence[StepSignals]) -> list[Finding]:
    """Find layers of which many units are zero for all samples of several steps, after a ReLU.

    Where a fifth of the living units is above zero for all samples, the layer varies little, as in a deep network with
    small initial weights, and about half of its units are off by the sign of their bias. Then more units must be dead
    than three standard deviations of that chance.
    """
    found = []
    seen: dict[tuple[str, ...], list[tuple[int, LayerUnits]]] = defaultdict(list)
    for signals in history:
        for each in signals.units:
            seen[each.layers].append((signals.step, each))
    for layers, readings in seen.items():
        window: list[tuple[int, LayerUnits]] = []
        for step, each in reversed(readings):  # the newest readings that suffice
            window.append((step, each))
            is_enough = sum(reading.samples for _, reading in window) >= _ALIVE_SAMPLES
            if is_enough and len({at for at, _ in window}) >= _STEPS:
                break
        else:
            continue
        first, last, newest = window[-1][0], window[0][0], window[0][1]
        dead = frozenset.intersection(*(reading.dead for _, reading in window))
        share, living = len(dead) / newest.units, newest.units - len(dead)
        if newest.units < _FEW_ELEMENTS // 2 or share < _DEAD_SHARE or (not living and len(layers) > 1):
            continue  # a whole layer of zeros is found in its columns
        chance = 0.5 + 1.5 / math.sqrt(newest.units) if _OFTEN * newest.always_on >= living else 0.0
        if share < chance:
            continue
        found.append(
            finding(
                "dead-units",
                f"{len(dead)} of {newest.units} units of {_name(layers[0])} are zero for all samples in steps "
                f"{first}-{last}",
                step=last,
                since=first,
                layers=layers,
                confidence="measured",
                evidence={
                    "dead_units": float(len(dead)),
                    "units": float(newest.units),
                    "samples": float(sum(reading.samples for _, reading in window)),
                },
            )
        )
    return found


def collapsed_output(history: Sequence[StepSignals]) -> list[Finding]:
    """Find outputs that are the same for all samples, and bottlenecks whose variance over the batch has vanished.

    The first needs different inputs, several steps, and no recovery between them; an output of zeros is silent, as
    that of a head that begins at zero. The second needs a variance that has fallen to a thousandth of what it was.
    """
    newest = history[-_STEPS:]
    if len(newest) < _STEPS or any(_has_equal_samples(signals.batch) for signals in newest):
        return []
    if repeated_steps(history) and len(newest[-1].batch) == 0:
        return []
    return _same_outputs(newest) or _fallen_outputs(history)


def _same_outputs(newest: Sequence[StepSignals]) -> list[Finding]:
    finals = {each.layer for each in newest[-1].outputs if each.is_final}
    for layer in sorted(finals):
        readings = [_reading(signals, layer, is_final=True) for signals in newest]
        known = [each for each in readings if each is not None]
        if len(known) < len(newest) or not all(_is_same(each) for each in known):
            continue
        if not _is_shrinking([_ratio(each) for each in known]) or not _varies(newest):
            continue
        last, where = known[-1], _first_same(newest)
        return [
            finding(
                "collapsed-output",
                f"the output of {_name(layer)} is the same for all {last.samples} samples: they differ by "
                f"{math.sqrt(_ratio(last)):.1g} of its size{_from(where, layer)}",
                step=newest[-1].step,
                since=newest[0].step,
                layers=tuple(dict.fromkeys((where or layer, layer))),
                confidence="measured",
                evidence={"variance_over_batch": last.spread, "mean_square": last.power},
            )
        ]
    return []


def _fallen_outputs(history: Sequence[StepSignals]) -> list[Finding]:
    newest = history[-_FEW_STEPS:]
    for each in newest[-1].outputs:
        if not (each.is_narrow or each.is_final) or each.per_sample < 2:
            continue
        readings = [_reading(signals, each.layer, is_final=each.is_final) for signals in history]
        known = [reading for reading in readings if reading is not None]
        if len(known) < 2 * _STEPS:
            continue
        first = max(known[:_FEW_STEPS], key=lambda reading: reading.spread)
        first_share = max(_ratio(reading) for reading in known[:_FEW_STEPS])
        recent = known[-_FEW_STEPS:]
        has_views = _calls(newest[-1], each.layer) > 1
        if all(_is_fallen(reading, first, first_share if has_views else 0.0) for reading in recent):
            return [
                finding(
                    "collapsed-output",
                    f"the output of {_name(each.layer)} hardly depends on the sample any more: its variance over the "
                    f"batch has fallen from {first.spread:.2g} to {recent[-1].spread:.2g} ({_ratio(first):.2g} and "
                    f"{_ratio(recent[-1]):.2g} of its mean square)",
                    step=newest[-1].step,
                    since=newest[0].step,
                    layers=tuple(dict.fromkeys((_source(newest[-1], recent[-1]), each.layer))),
                    confidence="measured",
                    evidence={
                        "variance_over_batch": recent[-1].spread,
                        "variance_over_batch_at_start": first.spread,
                        "mean_square": recent[-1].power,
                    },
                )
            ]
    return []


def _source(signals: StepSignals, output: LayerOutput) -> str:
    """Return the last layer with weights that has this very output: the model returns it unchanged."""
    same = [
        each for each in signals.outputs if (each.spread, each.power) == (output.spread, output.power)
    ]
    return next((each.layer for each in same if not each.is_final), output.layer)


def _is_fallen(reading: LayerOutput, first: LayerOutput, first_share: float) -> bool:
    """Return whether the variation over the batch has vanished, compared with the first readings.

    Of an output, if both the variance and its share of the mean square are a thousandth. A model with two views of
    each sample compares its outputs with each other, so there the share alone decides: `first_share` is its largest one
    at first, and 0 for other models. Of a bottleneck, if a latent unit would count as not active.
    """
    if reading.spread < _FALLEN * first.spread and reading.spread < _FALLEN * reading.power:
        return True
    if reading.is_narrow and not reading.is_final:
        return reading.spread < min(_UNIT_VARIANCE, _FALLEN_LATENT * first.spread)
    is_low = _ratio(reading) < min(_FALLEN_SHARE, _FALLEN_VIEWS * first_share)
    return is_low and reading.spread <= _GROWN * first.spread


def _calls(signals: StepSignals, layer: str) -> int:
    return sum(each.layer == layer and each.is_final for each in signals.outputs)


def is_collapsing(history: Sequence[StepSignals]) -> bool:
    """Return whether the variation of an output or a bottleneck has fallen, so that more steps should be read."""
    if len(history) < _STEPS:
        return False
    for each in history[-1].outputs:
        if (each.is_narrow or each.is_final) and each.per_sample > 1:
            first = _reading(history[0], each.layer, is_final=each.is_final)
            if first is not None and (
                each.spread < _DOUBT * first.spread or _ratio(each) < _DOUBT * _ratio(first)
            ):
                return True
    return False


def _reading(signals: StepSignals, layer: str, *, is_final: bool) -> LayerOutput | None:
    """Return the reading of a layer with the largest variation in a step."""
    found = [each for each in signals.outputs if each.layer == layer and each.is_final == is_final]
    return max(found, key=_ratio, default=None)


def _ratio(reading: LayerOutput) -> float:
    return reading.spread / reading.power if reading.power else 1.0


def _is_same(reading: LayerOutput) -> bool:
    """Return whether the samples are equal up to rounding. In half precision, only if they are exactly equal."""
    limit = _SAME if reading.precision < math.sqrt(_SAME) else _SAME * _SAME
    return _ratio(reading) <= limit


def _is_shrinking(ratios: Sequence[float]) -> bool:
    """Return whether the variation does not recover: it is not growing from step to step."""
    return ratios[-1] <= 4 * max(ratios[0], 1e-24)


def _varies(newest: Sequence[StepSignals]) -> bool:
    """Return whether something before the output differs between samples: a batch, or an earlier layer."""
    last = newest[-1]
    return any(tensor.are_samples_equal is False for tensor in last.batch) or any(
        not _is_same(each) for each in last.outputs
    )


def _first_same(newest: Sequence[StepSignals]) -> str:
    """Return the first layer from which on all outputs are the same in the newest step."""
    outputs = newest[-1].outputs
    trailing = list(takewhile(_is_same, reversed(outputs)))
    return trailing[-1].layer if trailing else ""


def _from(where: str, layer: str) -> str:
    return f", from {_name(where)} on" if where and where != layer else ""


SIGNAL_CHECKS: tuple[SignalCheck, ...] = (
    input_scale,
    dead_units,
    collapsed_output,
    lost_updates,
    underflown_gradients,
)
"""The checks that need nothing but the history, in the order in which they run."""


def _name(layer: str) -> str:
    return f"`{layer}`" if layer else "the model"
