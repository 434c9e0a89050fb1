"""Changes of activations as plain torch operations, with the gradients of autograd.

Rounding is an exception: its derivative is zero almost everywhere, so the gradient passes unchanged.
"""

import torch
from torch import Tensor

from gradscope.functional import straight_through

__all__ = ["added_noise", "clamped_values", "rounded", "scaled", "zeros"]


def scaled(x: Tensor, factor: float) -> Tensor:
    """Return a new tensor `factor * x`; the gradient is multiplied by factor too."""
    return x.clone() if factor == 1.0 else x * factor


def clamped_values(x: Tensor, limit: float) -> Tensor:
    """Return x with each element limited to [-limit, limit]; elements outside get zero gradient."""
    if x.is_complex():
        return torch.complex(x.real.clamp(-limit, limit), x.imag.clamp(-limit, limit))
    return x.clamp(-limit, limit)


def zeros(x: Tensor) -> Tensor:
    """Return zeros, also for NaN and infinities. The gradient is zero; x stays connected to the graph."""
    return x.masked_fill(torch.ones((), dtype=torch.bool, device=x.device), 0.0)


def added_noise(x: Tensor, std: float, generator: torch.Generator) -> Tensor:
    """Return x plus Gaussian noise of standard deviation std; the gradient passes unchanged."""
    real = x.real.dtype if x.is_complex() else x.dtype
    shape = (*x.shape, 2) if x.is_complex() else x.shape
    noise = torch.randn(shape, generator=generator, dtype=real, device=x.device) * std
    return x + (torch.view_as_complex(noise) if x.is_complex() else noise)


def rounded(x: Tensor, dtype: str) -> Tensor:
    """Return x rounded to the precision of `dtype`; its own dtype and its gradient stay unchanged.

    Values out of range become infinity in float16 and NaN in float8_e4m3fn.
    """
    lower = getattr(torch, dtype)

    def to_lower(values: Tensor) -> Tensor:
        if values.is_complex():
            return torch.view_as_complex(torch.view_as_real(values).to(lower).to(values.real.dtype))
        return values.to(lower).to(values.dtype)

    return straight_through(x, to_lower)
