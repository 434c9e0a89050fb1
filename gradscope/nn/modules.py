"""The modules. Each holds its numbers as plain attributes and calls one function.

None has a parameter or a buffer: a `state_dict` is the same with and without them, so they can be put
into a model and taken out again between checkpoints. A number may be changed at any time
(`model.reversal.alpha = 0.3`); it is checked when the module is made and at each call. They work in
training and in evaluation alike.
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
    """`reverse_gradient`: y = x, dx = -alpha · dy."""

    def __init__(self, alpha: float = 1.0) -> None:
        super().__init__()
        check_number("GradientReversal", "alpha", alpha, least=0.0)
        self.alpha = alpha

    def forward(self, x: Tensor) -> Tensor:
        """Return a copy of x whose gradient is turned around."""
        return reverse_gradient(x, self.alpha)

    def extra_repr(self) -> str:
        """Return alpha."""
        return f"alpha={self.alpha:g}"


class GradientScale(nn.Module):
    """`scale_gradient`: y = x, dx = factor · dy."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        check_number("GradientScale", "factor", factor)
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        """Return a copy of x whose gradient is multiplied."""
        return scale_gradient(x, self.factor)

    def extra_repr(self) -> str:
        """Return the factor."""
        return f"factor={self.factor:g}"


class GradientClip(nn.Module):
    """`clip_gradient_norm`: y = x, dx = dy shortened to max_norm where it is longer."""

    def __init__(self, max_norm: float) -> None:
        super().__init__()
        check_number("GradientClip", "max_norm", max_norm, least=0.0, may_be_infinite=True)
        self.max_norm = max_norm

    def forward(self, x: Tensor) -> Tensor:
        """Return a copy of x whose gradient is at most max_norm long."""
        return clip_gradient_norm(x, self.max_norm)

    def extra_repr(self) -> str:
        """Return the greatest norm."""
        return f"max_norm={self.max_norm:g}"


class GradientClamp(nn.Module):
    """`clamp_gradient`: y = x, each element of dx lies between -limit and limit."""

    def __init__(self, limit: float) -> None:
        super().__init__()
        check_number("GradientClamp", "limit", limit, least=0.0, may_be_infinite=True)
        self.limit = limit

    def forward(self, x: Tensor) -> Tensor:
        """Return a copy of x whose gradient is clamped."""
        return clamp_gradient(x, self.limit)

    def extra_repr(self) -> str:
        """Return the limit."""
        return f"limit={self.limit:g}"


class StopGradient(nn.Module):
    """`stop_gradient`: y = x, dx = 0."""

    def forward(self, x: Tensor) -> Tensor:
        """Return a copy of x that passes zeros back."""
        return stop_gradient(x)


class GradientNoise(nn.Module):
    """`noise_gradient`: y = x, dx = dy + std · n, with a random stream of the module's own.

    The stream starts from `seed` on each device at the first call there. It is not in the `state_dict`:
    a resumed run starts it again.
    """

    def __init__(self, std: float, seed: int = 0, *, is_relative: bool = False) -> None:
        super().__init__()
        check_number("GradientNoise", "std", std, least=0.0)
        self.std = std
        self.seed = seed
        self.is_relative = is_relative
        self._generators: dict[torch.device, torch.Generator] = {}

    def forward(self, x: Tensor) -> Tensor:
        """Return a copy of x whose gradient is noisy."""
        if x.device not in self._generators:
            self._generators[x.device] = torch.Generator(x.device).manual_seed(self.seed)
        generator = self._generators[x.device]
        return noise_gradient(x, self.std, generator, is_relative=self.is_relative)

    def extra_repr(self) -> str:
        """Return deviation and seed."""
        relative = ", is_relative=True" if self.is_relative else ""
        return f"std={self.std:g}, seed={self.seed}{relative}"


class GradientReplaceNonfinite(nn.Module):
    """`replace_nonfinite_gradient`: y = x, dx = dy with `value` for each NaN and infinity."""

    def __init__(self, value: float = 0.0) -> None:
        super().__init__()
        check_number("GradientReplaceNonfinite", "value", value)
        self.value = value

    def forward(self, x: Tensor) -> Tensor:
        """Return a copy of x whose gradient is finite."""
        return replace_nonfinite_gradient(x, self.value)

    def extra_repr(self) -> str:
        """Return the value."""
        return f"value={self.value:g}"


class GradientChange(nn.Module):
    """`change_gradient`: y = x, dx = function(dy)."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        """Return a copy of x whose gradient the function changes."""
        return change_gradient(x, self.function)

    def extra_repr(self) -> str:
        """Return the function's name."""
        return getattr(self.function, "__name__", type(self.function).__name__)


class StraightThrough(nn.Module):
    """`straight_through`: y = function(x), dx = dy."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        """Return function(x) with the gradient of the identity."""
        return straight_through(x, self.function)

    def extra_repr(self) -> str:
        """Return the function's name."""
        return getattr(self.function, "__name__", type(self.function).__name__)
