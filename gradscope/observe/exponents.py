"""The exponent histogram of a tensor, by PyTorch's own operations: on a CPU, and on any device.

An exponent is read off the bits of the number, so a processor that flushes subnormals changes nothing.
Half precision is widened to float32 first, which is exact: its subnormals have binades of their own.
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
"""The integer of the same width, the bits of the mantissa, the exponent's bias."""

_IN_NO_BIN = HISTOGRAM_BINS


def bins_on_host(block: torch.Tensor) -> NDArray[np.int64]:
    """Return the 128 bins of a floating-point CPU tensor of one dimension."""
    bins = torch.bincount(_places(block), minlength=HISTOGRAM_BINS + 1)[:HISTOGRAM_BINS]
    if type(bins) is torch.Tensor:
        return bins.numpy()
    return np.array([int(count) for count in bins], np.int64)  # a subclass gives its numbers one by one


def bins_on_device(block: torch.Tensor) -> torch.Tensor:
    """Return the same as a tensor on the device, without synchronisation."""
    bins = torch.zeros(HISTOGRAM_BINS + 1, dtype=torch.int64, device=block.device)
    one = torch.ones((), dtype=torch.int64, device=block.device)
    return bins.scatter_add_(0, _places(block), one.expand(block.shape))[:HISTOGRAM_BINS]


def _places(block: torch.Tensor) -> torch.Tensor:
    """Return the bin of each element; zeros, NaN and infinities get the one after the last."""
    if block.dtype in (torch.float16, torch.bfloat16):
        block = block.float()
    integer, mantissa_bits, bias = _LAYOUT[block.dtype]
    bits = block.view(integer)
    magnitude = bits & torch.iinfo(integer).max
    exponent = magnitude >> mantissa_bits
    place = (exponent - bias - LEAST_EXPONENT).clamp(0, BINADES - 1) + BINADES * (bits < 0)
    is_in_no_bin = (magnitude == 0) | (exponent == 2 * bias + 1)
    return torch.where(is_in_no_bin, _IN_NO_BIN, place).long()
