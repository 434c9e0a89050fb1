"""Compares a run with gradscope to a run without it, with the same seed, step by step."""

from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = ["Comparison", "compare"]

_COSINE_TOLERANCE = 1e-6

Floats: TypeAlias = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Comparison:
    """A comparison of two runs; in `step`, one of them had an intervention for the first time.

    `is_same_before`: all losses and gradients of the earlier steps are equal bit by bit. The cosines
    are the cosine similarity of one layer's weight gradient between both runs.
    """

    step: int
    is_same_before: bool
    cosine_before: float
    cosine_at: float
    is_exact_opposite: bool
    last_step: int
    last_losses: tuple[float, float]
    median_step_s: tuple[float, float]

    @property
    def holds(self) -> bool:
        """Whether observing changed nothing and the reversal had exactly the expected effect."""
        return (
            self.is_same_before
            and abs(self.cosine_before - 1) < _COSINE_TOLERANCE
            and abs(self.cosine_at + 1) < _COSINE_TOLERANCE
        )


def compare(control: Path, watched: Path, *, step: int) -> Comparison:
    """Compare the files of two demo runs, up to the end of the shorter one.

    `step` is at least 1, and both files contain it.
    """
    with np.load(control) as one, np.load(watched) as other:
        gradients: tuple[Floats, Floats] = one["gradient"], other["gradient"]
        losses: tuple[Floats, Floats] = one["loss"], other["loss"]
        seconds = float(np.median(one["seconds"])), float(np.median(other["seconds"]))
    last_step = min(len(losses[0]), len(losses[1])) - 1
    return Comparison(
        step=step,
        is_same_before=_is_same(*(x[:step] for x in gradients))
        and _is_same(*(x[:step] for x in losses)),
        cosine_before=_cosine(*(x[step - 1] for x in gradients)),
        cosine_at=_cosine(*(x[step] for x in gradients)),
        is_exact_opposite=_is_same(gradients[0][step], -gradients[1][step]),
        last_step=last_step,
        last_losses=(float(losses[0][last_step]), float(losses[1][last_step])),
        median_step_s=seconds,
    )


def _is_same(one: Floats, other: Floats) -> bool:
    return one.shape == other.shape and one.tobytes() == other.tobytes()


def _cosine(one: Floats, other: Floats) -> float:
    a, b = one.ravel().astype(np.float64), other.ravel().astype(np.float64)
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))
