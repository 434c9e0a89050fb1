"""The series that are forwarded: few numbers of a step, by names that group them in a tracker."""

import math
import statistics
from collections.abc import Collection, Iterator

from gradscope.columns import Flags, LayerRows, Stats, Table

__all__ = ["layer_series", "step_series"]

_UNSURE = Flags.NOT_MEASURED | Flags.SAMPLED | Flags.SCALED
"""A row with one of these does not have the norm of the whole gradient."""


def step_series(table: Table) -> dict[str, float]:
    """Return the numbers of a step over all layers. A number that was not measured is left out."""
    ratios = [ratio for rows in table.values() if (ratio := _update_ratio(rows)) is not None]
    counted = [
        stats for rows in table.values() for kind, stats in rows.items() if _is_tensor(kind, rows)
    ]
    found = {
        "gradscope/grad_norm": _total_norm(table),
        "gradscope/update_ratio_median": statistics.median(ratios) if ratios else None,
        "gradscope/nonfinite": sum(stats.nonfinite for stats in counted if stats.is_measured),
        "gradscope/cost": table.cost,
    }
    return {name: float(value) for name, value in found.items() if value is not None}


def layer_series(table: Table, layers: Collection[str]) -> dict[str, float]:
    """Return the numbers of some layers: LAYER/grad_norm, LAYER/out_rms, LAYER/param_grad_norm, LAYER/update_ratio."""
    found: dict[str, float | None] = {}
    for layer, rows in table.items():
        if layer not in layers:
            continue
        out, grad, param_grad = rows.get("out"), rows.get("grad"), rows.get("param_grad")
        name = layer or "model"
        found[f"{name}/out_rms"] = out.rms if out and out.is_measured else None
        found[f"{name}/grad_norm"] = grad.norm if grad and grad.is_measured else None
        found[f"{name}/param_grad_norm"] = (
            param_grad.norm if param_grad and param_grad.is_measured else None
        )
        found[f"{name}/update_ratio"] = _update_ratio(rows)
    return {f"layers/{key}": value for key, value in found.items() if value is not None}


def _total_norm(table: Table) -> float | None:
    """Return the norm of the gradients that the optimizers receive as one vector; None if a part is not known.

    A parameter that several layers share has a row in each, all the same, and counts once.
    """
    unique: dict[tuple[object, ...], float] = {}
    for rows in table.values():
        for parameter, stats in _gradients(rows):
            if stats.flags & _UNSURE or stats.nonfinite:
                return None
            of_parameter = rows.get(f"param.{parameter}")
            unique[_identity(stats), of_parameter and _identity(of_parameter)] = stats.sumsq
    return math.sqrt(math.fsum(unique.values())) if unique else None


def _gradients(rows: LayerRows) -> Iterator[tuple[str, Stats]]:
    """Iterate over the names of a layer's own parameters, with the statistics of their gradients."""
    for kind, stats in rows.items():
        base, dot, parameter = kind.partition(".")
        if base == "param_grad" and dot:
            yield parameter, stats


def _identity(stats: Stats) -> tuple[float, ...]:
    return stats.count, stats.sum, stats.sumsq, stats.min, stats.max


def _update_ratio(rows: LayerRows) -> float | None:
    update, param = rows.get("update"), rows.get("param")
    if update is None or param is None or not (update.is_measured and param.is_measured and param.norm):
        return None
    return update.norm / param.norm


def _is_tensor(kind: str, rows: LayerRows) -> bool:
    """Return whether a row is about one tensor, and not the sum of other rows."""
    return not any(other.startswith(f"{kind}.") for other in rows)
