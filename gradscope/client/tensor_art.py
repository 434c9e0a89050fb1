"""Draws a tensor with characters: as a heat map, or as a grid of small images.

Brighter characters mean a larger mean magnitude of the elements in a block, on a scale from 0 to the
largest finite mean. A block with a nonfinite element is drawn as `!`.
"""

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["cells_of", "picture_lines"]

SHADES: Final = " .:-=+*#%@"
_GRID: Final = 24
"""The maximum number of images in a grid."""


def picture_lines(
    array: NDArray[Any], width: int, height: int, *, is_weight: bool = False
) -> list[str]:
    """Return lines of at most `width` characters, with about `height` lines for each row of images.

    For a tensor with four dimensions (batch, channels, rows, columns), the channels of the first
    example are drawn; for a weight, the filters of the first input channel. For other tensors, the last
    dimension is horizontal and all others are vertical.
    """
    values = np.abs(array).astype(np.float64)
    if values.ndim == 4:
        images = values[:, 0] if is_weight else values[0]
        return _image_grid(images[:_GRID], width, height, _largest_value(values))
    flat = values.reshape(1, -1) if values.ndim < 2 else values.reshape(-1, values.shape[-1])
    return _character_lines(cells_of(flat, width, height), _largest_value(values))


def cells_of(image: NDArray[np.float64], width: int, height: int) -> NDArray[np.float64]:
    """Return the means of at most height times width blocks of an image; NaN for nonfinite blocks."""
    rows = np.linspace(0, image.shape[0], min(height, image.shape[0]) + 1).astype(int)
    columns = np.linspace(0, image.shape[1], min(width, image.shape[1]) + 1).astype(int)
    with np.errstate(invalid="ignore", over="ignore"):
        sums = np.add.reduceat(np.add.reduceat(image, rows[:-1], 0), columns[:-1], 1)
    cells: NDArray[np.float64] = sums / np.outer(np.diff(rows), np.diff(columns))
    return np.where(np.isfinite(cells), cells, np.nan)


def _image_grid(images: NDArray[np.float64], width: int, height: int, scale: float) -> list[str]:
    side = max(1, min(images.shape[2], (width + 1) // min(len(images), 8) - 1))
    tall = max(1, min(images.shape[1], height // 2 if len(images) > 8 else height))
    across = max(1, (width + 1) // (side + 1))
    lines: list[str] = []
    for start in range(0, len(images), across):
        blocks = [
            _character_lines(cells_of(image, side, tall), scale)
            for image in images[start : start + across]
        ]
        lines += [" ".join(parts) for parts in zip(*blocks, strict=True)] + [""]
    return lines[:-1]


def _character_lines(cells: NDArray[np.float64], scale: float) -> list[str]:
    last = len(SHADES) - 1
    return [
        "".join("!" if np.isnan(v) else SHADES[round(min(v / scale, 1.0) * last)] for v in row)
        for row in cells.tolist()
    ]


def _largest_value(values: NDArray[np.float64]) -> float:
    finite = values[np.isfinite(values)]
    return float(finite.max()) or 1.0 if finite.size else 1.0
