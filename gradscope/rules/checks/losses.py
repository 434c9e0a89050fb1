"""Checks of the loss: spikes, and a loss that does not fall. Losses are logged scalars named `loss` or `…loss`."""

import math
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

import numpy as np

from gradscope.columns import update_ratio as ratio_of
from gradscope.rules.alerts import RuleFinding
from gradscope.rules.step_view import Floats, StepView
from gradscope.rules.thresholds import Threshold
from gradscope.rules.thresholds import limit as limit_of
from gradscope.rules.trend import ScalarTrend, Turns

__all__ = ["LossHistory", "LossTrend", "is_loss", "loss_spike", "not_falling", "training_loss"]

_PART_OF_FIRST = 0.1
"""A spike must also reach this fraction of the first loss, so that a tiny loss may fluctuate."""
_RANGE_NEEDED = 20
_RANGES = 3.0
"""A loss of either sign has no ratio to a level: a spike is this many times its whole range above the range."""
_FAIR_NUMBER = 100
"""Steps after which a loss that has not moved is worth a look: most of the fall of a loss is in its first epochs."""
_NEWEST = 50
_LEVEL = 10
_OVERSHOT = ((2, 4.0), (4, 2.0))
"""A loss twice its first value is higher than that of a model that has learned nothing. With noise of 0.5
in the logarithm from batch to batch, four in a row are by chance once in 10,000 steps, so are two over
four times."""
_FIRST = 5
_NOT_TRAINING = ("val", "eval", "test")


def is_loss(name: str) -> bool:
    """Return whether a scalar of this name is a loss."""
    return name.endswith("loss")


def training_loss(names: Iterable[str]) -> str | None:
    """Return the name of the one loss that is trained on; None if there is none, or if there are several."""
    losses = [n for n in names if is_loss(n) and not any(word in n for word in _NOT_TRAINING)]
    if "loss" in losses:
        return "loss"
    return losses[0] if len(losses) == 1 else None


@dataclass(slots=True)
class LossHistory:
    """The training loss so far. NaN counts as an infinite loss; `count` is the number of losses."""

    count: int = 0
    first: list[float] = field(default_factory=list)
    newest: deque[float] = field(default_factory=lambda: deque(maxlen=_NEWEST))
    highest: float = -math.inf
    lowest_level: float = math.inf
    is_positive: bool = True
    squares: float = 0.0

    def add(self, scalars: Mapping[str, float]) -> float | None:
        """Add the scalars of a step. Return its training loss; None if it has none."""
        name = training_loss(scalars)
        if name is None:
            return None
        value = math.inf if math.isnan(scalars[name]) else scalars[name]
        if not value > 0:
            self.is_positive = False
        elif self.newest and 0 < self.newest[-1] < math.inf > value:
            self.squares += math.log(value / self.newest[-1]) ** 2 / 2.0
        self.count += 1
        if len(self.first) < _FIRST:
            self.first.append(value)
        self.newest.append(value)
        self.highest = max(self.highest, value)
        if self.count >= _LEVEL and self.is_positive:
            self.lowest_level = min(self.lowest_level, self.level(_LEVEL))
        return value

    @property
    def noise(self) -> float:
        """The deviation of the logarithm of the loss from step to step."""
        return math.sqrt(self.squares / max(self.count - 1, 1))

    @property
    def start(self) -> float:
        """The loss before training: the first one, or the median of the first five if that is less."""
        return min(self.first[0], median(self.first))

    def level(self, count: int = _LEVEL) -> float:
        """Return the median of the newest losses."""
        return median(list(self.newest)[-count:])

    @property
    def has_overshot(self) -> bool:
        """Whether the newest two losses are over four times the first one, or the newest four over twice."""
        recent = list(self.newest)
        return any(
            self.count > number and min(recent[-number:]) > times * self.first[0]
            for number, times in _OVERSHOT
        )


@dataclass(slots=True)
class LossTrend:
    """What is remembered of each loss, and of the layers in the newest observed steps: Δw/w and gradient norms."""

    losses: dict[str, "_Loss"] = field(default_factory=dict)
    ratios: deque[Floats] = field(default_factory=lambda: deque(maxlen=_LEVEL))
    norms: deque[Floats] = field(default_factory=lambda: deque(maxlen=_LEVEL))
    layers: Sequence[str] = ()
    observed: int = -1
    turns: Turns = field(default_factory=Turns)


@dataclass(slots=True)
class _Loss:
    """One loss: its trend if all its values are positive, its range otherwise."""

    first: float
    least: float
    greatest: float
    count: int = 0
    trend: ScalarTrend = field(default_factory=ScalarTrend)


def loss_spike(view: StepView, threshold: Threshold, memory: LossTrend) -> list[RuleFinding] | None:
    """Find losses that are not finite, or far above their recent level.

    It names the layers with the largest rise of Δw/w above their own level, if the step is observed, or with the
    largest rise of the gradient if no layer moved more than usual. Where networks are updated in turn, a spike is a
    hint.
    """
    if not view.scalars:
        if memory.layers is not view.layers:
            memory.norms.clear()
            memory.ratios.clear()
        memory.layers, memory.observed = view.layers, view.step
        memory.turns.add(view)
        memory.ratios.append(ratio_of(view.by_layer("update", "norm"), view.by_layer("param", "norm")))
        memory.norms.append(view.by_layer("param_grad", "norm"))
        return None
    losses = [(name, view.scalars[name]) for name in view.scalars if is_loss(name)]
    found = [
        each
        for name, value in losses
        if (each := _spike(name, value, view.step, limit_of(threshold), memory)) is not None
    ]
    return found if losses else None


def _spike(name: str, value: float, step: int, factor: float, memory: LossTrend) -> RuleFinding | None:
    if not math.isfinite(value):
        return RuleFinding("", name, value, math.inf, "{} is {}", (name, value), code="nonfinite")
    loss = memory.losses.setdefault(name, _Loss(abs(value), value, value))
    limit = loss.greatest + _RANGES * (loss.greatest - loss.least)
    is_above = loss.count >= _RANGE_NEEDED and value > limit
    loss.count += 1
    loss.least, loss.greatest = min(loss.least, value), max(loss.greatest, value)
    words = "{} is {:.4g} in step {}, far above all before"
    shown: tuple[object, ...] = (name, value, step)
    if loss.least > 0:
        times = loss.trend.excess(value, factor)
        is_above = times > 0 and value > _PART_OF_FIRST * loss.first
        level = value / times if times else value
        limit = level * factor
        words = "{} is {:.4g} in step {}, {:.3g} times its recent level of {:.4g}"
        shown = (name, value, step, times, level)
    if not is_above:
        return None
    clause, layers, evidence = _moved(memory, step, factor)
    return RuleFinding(
        "",
        name,
        value,
        limit,
        words + "; {}",
        (*shown, clause),
        severity="hint" if memory.turns.are_taken else None,
        layers=layers,
        evidence=evidence,
    )


def _moved(
    memory: LossTrend, step: int, factor: float
) -> tuple[str, tuple[str, ...], dict[str, float | str]]:
    """Return which layers moved most in a step, over `factor` times their level: as a clause, names and evidence."""
    if memory.observed != step:
        return "the step was not observed, so it is not known which layers moved", (), {}
    for newest, words in (
        (memory.ratios, "`{}` moved most: Δw/w is {:.2g}, {:.2g} times its recent level"),
        (
            memory.norms,
            "no layer moved more than usual, and the gradient of `{}` rose most: to {:.2g}, {:.2g} times",
        ),
    ):
        found = _most_risen(newest, factor)
        if found:
            names = tuple(memory.layers[i] for i, _ in found)
            first, rise = found[0]
            evidence: dict[str, float | str] = {"largest_rise": rise}
            return words.format(names[0], newest[-1][first], rise), names, evidence
    return "no layer moved more than usual", (), {}


def _most_risen(newest: Sequence[Floats], factor: float) -> list[tuple[int, float]]:
    """Return the three layers whose newest value is most above its level of the steps before, and how many times."""
    *before, now = newest
    if not before:
        return []
    with np.errstate(all="ignore"):
        rise = np.nan_to_num(now / np.median(before, axis=0), posinf=0.0)
    return [(int(i), float(rise[i])) for i in np.argsort(-rise)[:3] if rise[i] > factor]


def not_falling(view: StepView, threshold: Threshold, memory: LossHistory) -> list[RuleFinding] | None:
    """Find a loss that is where it began after 100 steps: a hint.

    Many programs have such a loss: adversarial ones, policy gradients, fine-tuning from a good start. A loss of
    either sign, or one with much noise, is not judged.
    """
    value = memory.add(view.scalars)
    if value is None or not memory.is_positive:
        return None
    if memory.count < _FAIR_NUMBER or memory.count % _NEWEST:
        return None
    left, error = memory.level(_NEWEST) / memory.start, memory.noise / math.sqrt(_FIRST)
    limit = limit_of(threshold)
    if error > 1.0 - limit / 2.0 or not limit - 2.0 * error < left < 1.0 / limit + 2.0 * error:
        return []
    level = left * memory.start
    words = "the loss is {:.4g} after {} steps, and was {:.4g} at the start"
    evidence = {"loss": level, "first_loss": memory.start, "noise": memory.noise}
    return [
        RuleFinding(
            "",
            "loss",
            level,
            limit * memory.start,
            words,
            (level, memory.count, memory.start),
            evidence=evidence,
        )
    ]
