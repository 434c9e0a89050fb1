"""Modules that call one function of `gradscope.functional` each.

They have no parameters and no buffers. Adding or removing one does not change the `state_dict`, except
for the indices of later modules in an `nn.Sequential`. Options are plain attributes that can be changed
at any time (`model.reversal.alpha = 0.3`); they are checked in the constructor and in each call. The
modules behave the same in training and evaluation mode.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from gradscope.functional import (
    change_gradient,
    clamp_gradient,
    clip_gradient_norm,
    noise_gradient,
    replace_nonfinite_gradient,
    reverse_gradient,
    scale_gradient,
    stop_gradient,
    straight_through,
)
from gradscope.functional.arguments import check_number

__all__ = [
    "GradientChange",
    "GradientClamp",
    "GradientClip",
    "GradientNoise",
    "GradientReplaceNonfinite",
    "GradientReversal",
    "GradientScale",
    "StopGradient",
    "StraightThrough",
]


class GradientReversal(nn.Module):
    """Calls `reverse_gradient`: y = x, dx = -alpha · dy."""

    def __init__(self, alpha: float = 1.0) -> None:
        super().__init__()
        check_number("GradientReversal", "alpha", alpha, least=0.0)
        self.alpha = alpha

    def forward(self, x: Tensor) -> Tensor:
        """Return a copy of x whose gradient is multiplied by -alpha."""
        return reverse_gradient(x, self.alpha)

    def extra_repr(self) -> str:
        """Return alpha as text for `repr`."""
        return f"alpha={self.alpha:g}"


class GradientScale(nn.Module):
    """Calls `scale_gradient`: y = x, dx = factor · dy."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        check_number("GradientScale", "factor", factor)
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        """Return a copy of x whose gradient is multiplied by `factor`."""
        return scale_gradient(x, self.factor)

    def extra_repr(self) -> str:
        """Return the factor as text for `repr`."""
        return f"factor={self.factor:g}"


class GradientClip(nn.Module):
    """Calls `clip_gradient_norm`: y = x, dx = dy scaled down to a norm of at most max_norm."""

    def __init__(self, max_norm: float) -> None:
        super().__init__()
        check_number("GradientClip", "max_norm", max_norm, least=0.0, may_be_infinite=True)
        self.max_norm = max_norm

    def forward(self, x: Tensor) -> Tensor:
        """Return a copy of x whose gradient is scaled down to a norm of at most `max_norm`."""
        return clip_gradient_norm(x, self.max_norm)

    def extra_repr(self) -> str:
        """Return max_norm as text for `repr`."""
        return f"max_norm={self.max_norm:g}"


class GradientClamp(nn.Module):
    """Calls `clamp_gradient`: y = x, dx = dy clamped elementwise to [-limit, limit]."""

    def __init__(self, limit: float) -> None:
        super().__init__()
        check_number("GradientClamp", "limit", limit, least=0.0, may_be_infinite=True)
        self.limit = limit

    def forward(self, x: Tensor) -> Tensor:
        """Return a copy of x whose gradient is clamped elementwise to [-limit, limit]."""
        return clamp_gradient(x, self.limit)

    def extra_repr(self) -> str:
        """Return the limit as text for `repr`."""
        return f"limit={self.limit:g}"


class StopGradient(nn.Module):
    """Calls `stop_gradient`: y = x, dx = 0."""

    def forward(self, x: Tensor) -> Tensor:
        """Return a copy of x whose gradient is zero."""
        return stop_gradient(x)


class GradientNoise(nn.Module):
    """Calls `noise_gradient`: y = x, dx = dy + std · n, with the module's own random generators.

    On each device, the first call there creates a generator with `seed`. Generators are not saved in the
    `state_dict`: a resumed run starts from `seed` again.
    """

    def __init__(self, std: float, seed: int = 0, *, is_relative: bool = False) -> None:
        super().__init__()
        check_number("GradientNoise", "std", std, least=0.0)
        self.std = std
        self.seed = seed
        self.is_relative = is_relative
        self._generators: dict[torch.device, torch.Generator] = {}

    def forward(self, x: Tensor) -> Tensor:
        """Return a copy of x whose gradient has noise added."""
        if x.device not in self._generators:
            self._generators[x.device] = torch.Generator(x.device).manual_seed(self.seed)
        generator = self._generators[x.device]
        return noise_gradient(x, self.std, generator, is_relative=self.is_relative)

    def extra_repr(self) -> str:
        """Return std and seed as text for `repr`."""
        relative = ", is_relative=True" if self.is_relative else ""
        return f"std={self.std:g}, seed={self.seed}{relative}"


class GradientReplaceNonfinite(nn.Module):
    """Calls `replace_nonfinite_gradient`: y = x, dx = dy with each NaN and infinity replaced by `value`."""

    def __init__(self, value: float = 0.0) -> None:
        super().__init__()
        check_number("GradientReplaceNonfinite", "value", value)
        self.value = value

    def forward(self, x: Tensor) -> Tensor:
        """Return a copy of x whose nonfinite gradient elements are replaced by `value`."""
        return replace_nonfinite_gradient(x, self.value)

    def extra_repr(self) -> str:
        """Return the value as text for `repr`."""
        return f"value={self.value:g}"


class GradientChange(nn.Module):
    """Calls `change_gradient`: y = x, dx = function(dy)."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        """Return a copy of x whose gradient is passed through `function`."""
        return change_gradient(x, self.function)

    def extra_repr(self) -> str:
        """Return the function's name for `repr`."""
        return getattr(self.function, "__name__", type(self.function).__name__)


class StraightThrough(nn.Module):
    """Calls `straight_through`: y = function(x), dx = dy."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        """Return function(x), with the gradient of the identity function."""
        return straight_through(x, self.function)

    def extra_repr(self) -> str:
        """Return the function's name for `repr`."""
        return getattr(self.function, "__name__", type(self.function).__name__)
