"""The checks of updates: lost in rounding, or so large that they have killed units or made the output constant."""

from collections import defaultdict
from collections.abc import Sequence
from statistics import median

from gradscope.findings.codes import finding
from gradscope.findings.finding import Finding
from gradscope.findings.signal_facts import LayerUpdates, StepSignals

__all__ = ["lost_updates", "too_large_steps", "underflown_gradients"]

_FEW_STEPS = 3
_STEPS = 5
"""The number of steps that a condition must hold."""

_FEW_ELEMENTS = 16
_LOST_SHARE = 0.5
_NAMED = 3

_USUAL_CHANGE = 0.01
_LARGE_CHANGE = 0.1
"""Changes of 1 % a step are the upper end of what trains well. With 10 % of the first weights, ten steps have replaced
the weights that made the units active."""


def lost_updates(history: Sequence[StepSignals]) -> list[Finding]:
    """Find layers most of whose updates are rounded away.

    An element is lost if it has a gradient, did not change, and its step is below the spacing of its number format.
    Silent while the learning rate rises, and when a schedule has made it small.
    """
    newest = history[-_STEPS:]
    if len(newest) < _STEPS:
        return []
    judged = _readings_of_each_parameter(newest)
    lost = [each for each in judged if _are_lost(each)]
    elements = sum(each[-1].elements for each in lost)
    share = elements / max(1, sum(each[-1].elements for each in judged))
    if share < 1 - _LOST_SHARE or not lost:
        return []
    worst = max(lost, key=lambda each: each[-1].elements)[-1]
    layers = _layers_by_size(lost)
    part = sum(each.lost for readings in lost for each in readings) / sum(
        each.moving for readings in lost for each in readings
    )
    return [
        finding(
            "lost-updates",
            f"{part:.0%} of the updates of {_names(layers)} are rounded away: with a learning rate of "
            f"{worst.learning_rate:.1g} they are below the spacing of {worst.dtype} at these weights",
            step=newest[-1].step,
            since=newest[0].step,
            layers=layers,
            confidence="measured",
            evidence={
                "share_of_updates": part,
                "share_of_parameters": share,
                "learning_rate": worst.learning_rate,
                "dtype": worst.dtype,
            },
        )
    ]


def _readings_of_each_parameter(steps: Sequence[StepSignals]) -> list[list[LayerUpdates]]:
    """Return the readings of each parameter that was read in all of these steps."""
    of_parameter: dict[tuple[str, str], list[LayerUpdates]] = defaultdict(list)
    for signals in steps:
        for each in signals.updates:
            of_parameter[each.layer, each.name].append(each)
    return [readings for readings in of_parameter.values() if len(readings) == len(steps)]


def _layers_by_size(of_parameters: Sequence[Sequence[LayerUpdates]]) -> tuple[str, ...]:
    """Return the layers of the parameters, that of the largest parameter first."""
    by_size = sorted(of_parameters, key=lambda readings: -readings[-1].elements)
    return tuple(dict.fromkeys(readings[-1].layer for readings in by_size))


def _are_lost(readings: Sequence[LayerUpdates]) -> bool:
    first, last = readings[0], readings[-1]
    is_chosen = first.learning_rate * 1.01 >= last.learning_rate >= 0.1 * last.largest_learning_rate
    return is_chosen and all(
        each.moving >= _FEW_ELEMENTS
        and each.lost > _LOST_SHARE * each.moving
        and not each.arrives_later
        for each in readings
    )


def underflown_gradients(history: Sequence[StepSignals]) -> list[Finding]:
    """Find gradients that passed through float16 and are too small for it, of which small elements have become zero.

    That they passed through float16 shows in the numbers: all are multiples of 2^-24. So it is found in float32
    gradients of a model under autocast too, and not if a loss scale was divided out. Half of the elements that are not
    zero must be below 2^-17, in half of the parameters' elements, in five steps. Parameters whose gradient is zero
    throughout are not counted; they may be cut off.
    """
    newest = history[-_STEPS:]
    if len(newest) < _STEPS:
        return []
    judged = [
        each for each in _readings_of_each_parameter(newest) if any(reading.moving for reading in each)
    ]
    small = [each for each in judged if _are_underflown(each)]
    if not small or _elements(small) < (1 - _LOST_SHARE) * _elements(judged):
        return []
    moving = sum(each.moving for readings in small for each in readings)
    part = sum(each.underflown for readings in small for each in readings) / moving
    zero = 1 - moving / sum(each.sampled for readings in small for each in readings)
    layers = _layers_by_size(small)
    return [
        finding(
            "underflow",
            f"the gradients of {_names(layers)} are too small for float16, through which they passed: {part:.0%} of "
            f"the nonzero ones are below 8e-6, where less than 8 bits are left, and {zero:.0%} are zero",
            step=newest[-1].step,
            since=newest[0].step,
            layers=layers,
            confidence="measured",
            evidence={"share_below_8e-6": part, "zero_fraction": zero},
        )
    ]


def _are_underflown(readings: Sequence[LayerUpdates]) -> bool:
    return all(
        each.moving >= _FEW_ELEMENTS and each.underflown > _LOST_SHARE * each.moving
        for each in readings
    )


def _elements(readings: Sequence[Sequence[LayerUpdates]]) -> int:
    return sum(each[-1].elements for each in readings)


def too_large_steps(history: Sequence[StepSignals], found: Sequence[Finding]) -> list[Finding]:
    """Find a learning rate that has killed units or made the output constant: both came after far too large updates.

    The updates are compared with the first weights, as the median over the parameters of several elements. They must
    have changed the weights by a tenth in each of the three steps before the units were found dead, or in the first
    three. found: the other findings of these steps.
    """
    damage = [each for each in found if each.code in ("dead-units", "collapsed-output")]
    if not damage:
        return []
    worst = min(damage, key=lambda each: each.since_step or 0)
    before = [each for each in history if each.updates and each.step <= (worst.since_step or 0)]
    readings = before[-_FEW_STEPS:]
    if len(readings) < _FEW_STEPS:
        readings = [each for each in history if each.updates][:_FEW_STEPS]
    changes = [_median_change(each.updates) for each in readings]
    if len(changes) < _FEW_STEPS or min(changes) < _LARGE_CHANGE:
        return []
    change = median(changes)
    return [
        finding(
            "learning-rate-too-high",
            f"the learning rate is about {change / _USUAL_CHANGE:.0f} times too high: each of the steps "
            f"{readings[0].step}-{readings[-1].step} changed the weights by {change:.0%}, and {worst.message}",
            step=history[-1].step,
            since=readings[0].step,
            confidence="measured",
            evidence={"update_ratio": change, "factor": change / _USUAL_CHANGE},
        )
    ]


def _median_change(updates: Sequence[LayerUpdates]) -> float:
    """Return the median change of the parameters of 16 elements and more; of all if there are none."""
    large = [each.change for each in updates if each.elements >= _FEW_ELEMENTS]
    return median(large or [each.change for each in updates])


def _names(layers: Sequence[str]) -> str:
    shown = [_name(each) for each in layers[:_NAMED]]
    rest = len(layers) - len(shown)
    return f"{', '.join(shown)} and {rest} more" if rest else " and ".join(shown)


def _name(layer: str) -> str:
    return f"`{layer}`" if layer else "the model"
