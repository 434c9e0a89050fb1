"""`RunSeries`: the numbers of a whole run, in at most `COLUMNS` columns of steps whatever its length."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from gradscope.history import layer_names, layer_quantities, recorded_steps
from gradscope.protocol import Scalars
from gradscope.recording import Recording

__all__ = ["COLUMNS", "Curve", "LayerSeries", "curve_of", "read_layers", "read_scalars"]

COLUMNS: Final = 240
"""The greatest number of columns in a chart over steps."""

_STEPS_LIMIT: Final = 4_000
"""Of longer recordings, every n-th observed step is read, so that a report takes seconds."""

_QUANTITIES: Final = ("grad_norm", "param_grad_norm", "out_rms", "param_norm", "update_ratio")


@dataclass(frozen=True, slots=True)
class Curve:
    """One number over the run. If several steps share a point, `middle` is their median; low and high their range.

    nonfinite: the steps in which it was NaN or infinite.
    """

    steps: NDArray[np.int64]
    middle: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    last: float
    nonfinite: tuple[int, ...] = ()


@dataclass(slots=True)
class LayerSeries:
    """The numbers of all layers over the observed steps, in columns: `first[i]` to `last[i]` are the steps of column i.

    values: for each quantity the median of each column, shape (columns, layers), NaN where it was not measured.
    nonfinite: the greatest count of a column. newest: the numbers of the newest observed step. observed: the number of
    steps that were read, of `recorded`.
    """

    layers: tuple[str, ...]
    first: list[int] = field(default_factory=list)
    last: list[int] = field(default_factory=list)
    values: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    nonfinite: NDArray[np.float64] = field(default_factory=lambda: np.empty((0, 0)))
    newest: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    newest_step: int | None = None
    observed: int = 0
    recorded: int = 0


def curve_of(steps: Sequence[int], values: Sequence[float]) -> Curve:
    """Return a curve of at most COLUMNS points from numbers in order of their steps."""
    numbers = np.array(values, np.float64)
    is_finite = np.isfinite(numbers)
    nonfinite = tuple(np.array(steps, np.int64)[~is_finite].tolist())
    at, kept = np.array(steps, np.int64)[is_finite], numbers[is_finite]
    parts = [
        part for part in np.array_split(np.arange(len(kept)), min(len(kept), COLUMNS) or 1) if len(part)
    ]
    return Curve(
        np.array([at[part[-1]] for part in parts], np.int64),
        np.array([np.median(kept[part]) for part in parts]),
        np.array([kept[part].min() for part in parts]),
        np.array([kept[part].max() for part in parts]),
        float(numbers[-1]) if len(numbers) else math.nan,
        nonfinite,
    )


def read_scalars(messages: Iterable[Scalars]) -> tuple[dict[str, Curve], Curve | None]:
    """Return the curves of what the script logged on rank 0, the loss first, and of the steps per second."""
    values: dict[str, dict[int, float]] = {}
    times: dict[int, float] = {}
    for message in messages:
        if message.rank:
            continue
        times.update(zip(message.steps, message.times_s, strict=False))
        for name, series in message.values.items():
            by_step = values.setdefault(name, {})
            by_step.update((s, v) for s, v in zip(message.steps, series, strict=False) if v is not None)
    step_times = values.pop("step_time_s", None)
    ordered = sorted(values, key=lambda name: (name != "loss", "loss" not in name, name))
    curves = {name: _sorted_curve(values[name]) for name in ordered}
    return curves, _speed(times) if times else (_sorted_curve(step_times) if step_times else None)


def _sorted_curve(by_step: dict[int, float]) -> Curve:
    steps = sorted(by_step)
    return curve_of(steps, [by_step[step] for step in steps])


def _speed(times: dict[int, float]) -> Curve | None:
    """Return the steps per second between points in time; None if there are fewer than two."""
    steps = np.array(sorted(times), np.int64)
    seconds = np.array([times[int(step)] for step in steps])
    places = np.unique(np.linspace(0, len(steps) - 1, min(len(steps), COLUMNS // 2)).astype(np.intp))
    steps, seconds = steps[places], seconds[places]
    passed, count = np.diff(seconds), np.diff(steps)
    known = passed > 0
    if not known.any():
        return None
    return curve_of(steps[1:][known].tolist(), (count[known] / passed[known]).tolist())


def read_layers(recording: Recording, *, steps: int) -> LayerSeries:
    """Read the numbers of all layers. steps: how many observed steps the recording has."""
    names = layer_names(recording)
    series = LayerSeries(names, recorded=steps)
    places = {name: place for place, name in enumerate(names)}
    every = max(1, math.ceil(steps / _STEPS_LIMIT))
    in_column = max(1, math.ceil(math.ceil(steps / every) / COLUMNS))
    waiting: list[dict[str, NDArray[np.float64]]] = []
    columns: list[dict[str, NDArray[np.float64]]] = []
    for each in recorded_steps(recording, every=every):
        if len(waiting) == in_column:
            columns.append(_column(waiting))
            waiting = []
        if not waiting:
            series.first.append(each.step)
            series.last.append(each.step)
        series.last[-1] = each.step
        waiting.append(layer_quantities(each.block, each.layers, places))
        series.observed += 1
        series.newest, series.newest_step = waiting[-1], each.step
    if waiting:
        columns.append(_column(waiting))
    shape = (len(columns), len(names))
    for name in _QUANTITIES:
        series.values[name] = np.array([column[name] for column in columns]).reshape(shape)
    series.nonfinite = np.array([column["nonfinite"] for column in columns]).reshape(shape)
    return series


def _column(steps: Sequence[dict[str, NDArray[np.float64]]]) -> dict[str, NDArray[np.float64]]:
    """Return the median of each quantity over the steps in which it was measured; of `nonfinite` the greatest."""
    column = {name: _median([step[name] for step in steps]) for name in _QUANTITIES}
    counts = np.array([step["nonfinite"] for step in steps])
    is_known = ~np.isnan(counts).all(axis=0)
    column["nonfinite"] = np.where(is_known, np.nanmax(np.nan_to_num(counts, nan=0.0), axis=0), np.nan)
    return column


def _median(rows: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    if len(rows) == 1:
        return rows[0]
    stacked = np.sort(np.array(rows), axis=0)  # NaN comes last
    count = (~np.isnan(stacked)).sum(axis=0)
    columns = np.arange(stacked.shape[1])
    low, high = np.maximum(0, (count - 1) // 2), np.minimum(count // 2, len(rows) - 1)
    middle = (stacked[low, columns] + stacked[high, columns]) / 2
    return np.where(count > 0, middle, np.nan)
