"""What is done to activations: plain torch operations, whose gradients are autograd's own.

Rounding is the exception: its derivative is zero almost everywhere, so the gradient passes straight.
"""

import torch
from torch import Tensor

from gradscope.functional import straight_through

__all__ = ["DTYPES", "added_noise", "clamped_values", "rounded", "scaled", "zeros"]

DTYPES: dict[str, torch.dtype] = {
    name: getattr(torch, name)
    for name in ("bfloat16", "float16", "float8_e4m3fn", "float8_e5m2")
    if hasattr(torch, name)
}
"""The precisions to round to. Beyond its range float16 gives infinities, float8_e4m3fn NaN."""


def scaled(x: Tensor, factor: float) -> Tensor:
    """Return a new tensor ``factor * x``; its gradient is multiplied by factor too."""
    return x.clone() if factor == 1.0 else x * factor


def clamped_values(x: Tensor, limit: float) -> Tensor:
    """Return x with each element between -limit and limit; what was outside gets no gradient."""
    if x.is_complex():
        return torch.complex(x.real.clamp(-limit, limit), x.imag.clamp(-limit, limit))
    return x.clamp(-limit, limit)


def zeros(x: Tensor) -> Tensor:
    """Return zeros, also for what is not finite; the gradient is zeros, and the graph stays whole."""
    return x.masked_fill(torch.ones((), dtype=torch.bool, device=x.device), 0.0)


def added_noise(x: Tensor, std: float, generator: torch.Generator) -> Tensor:
    """Return x with normal noise of deviation std; the gradient passes as it is."""
    real = x.real.dtype if x.is_complex() else x.dtype
    shape = (*x.shape, 2) if x.is_complex() else x.shape
    noise = torch.randn(shape, generator=generator, dtype=real, device=x.device) * std
    return x + (torch.view_as_complex(noise) if x.is_complex() else noise)


def rounded(x: Tensor, dtype: str) -> Tensor:
    """Return x rounded to another dtype, in its own; the gradient passes as it is."""
    lower = DTYPES[dtype]

    def to_lower(values: Tensor) -> Tensor:
        if values.is_complex():
            return torch.view_as_complex(torch.view_as_real(values).to(lower).to(values.real.dtype))
        return values.to(lower).to(values.dtype)

    return straight_through(x, to_lower)
