"""The exponent histogram of a tensor by PyTorch operations, on a CPU and on any device.

Exponents are read from the bits of the elements, so a processor that flushes subnormals does not change them.
Half precision is first widened to float32, which is exact, so its subnormals have binades of their own.
"""

import numpy as np
import torch
from numpy.typing import NDArray

from gradscope.columns import BINADES, HISTOGRAM_BINS, LEAST_EXPONENT

__all__ = ["bins_on_device", "bins_on_host"]

_LAYOUT: dict[torch.dtype, tuple[torch.dtype, int, int]] = {
    torch.float32: (torch.int32, 23, 127),
    torch.float64: (torch.int64, 52, 1023),
}
"""The integer dtype of the same width, the number of mantissa bits, and the exponent bias."""

_IN_NO_BIN = HISTOGRAM_BINS


def bins_on_host(block: torch.Tensor) -> NDArray[np.int64]:
    """Return the 128 bins of a one-dimensional floating-point CPU tensor."""
    bins = torch.bincount(_places(block), minlength=HISTOGRAM_BINS + 1)[:HISTOGRAM_BINS]
    if type(bins) is torch.Tensor:
        return bins.numpy()
    return np.array(
        [int(count) for count in bins], np.int64
    )  # a subclass converts to NumPy only element by element


def bins_on_device(block: torch.Tensor) -> torch.Tensor:
    """Return the 128 bins as a tensor on the device, without synchronisation."""
    bins = torch.zeros(HISTOGRAM_BINS + 1, dtype=torch.int64, device=block.device)
    one = torch.ones((), dtype=torch.int64, device=block.device)
    return bins.scatter_add_(0, _places(block), one.expand(block.shape))[:HISTOGRAM_BINS]


def _places(block: torch.Tensor) -> torch.Tensor:
    """Return the bin of each element. Zeros, NaN and infinities get an index after the last bin."""
    if block.dtype in (torch.float16, torch.bfloat16):
        block = block.float()
    integer, mantissa_bits, bias = _LAYOUT[block.dtype]
    bits = block.view(integer)
    magnitude = bits & torch.iinfo(integer).max
    exponent = magnitude >> mantissa_bits
    place = (exponent - bias - LEAST_EXPONENT).clamp(0, BINADES - 1) + BINADES * (bits < 0)
    is_in_no_bin = (magnitude == 0) | (exponent == 2 * bias + 1)
    return torch.where(is_in_no_bin, _IN_NO_BIN, place).long()
