"""Finite differences, and their comparison with the gradient that backward computed.

Both differentiate the weighted sum of the outputs, ``Re Σ conj(w) y``. Its gradient is what backward returns for the
grad_output w. So one backward is compared with any number of differences, and no Jacobian is stored. Each difference is
computed on both sides of the point. If the two sides disagree, the function has a kink or a jump there, and the element
is excluded.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

import torch
from torch import Tensor

from gradscope.doctor.numerics.precision import Precision

__all__ = ["Comparison", "Values", "compare_elements", "compare_map", "jacobian"]

Values: TypeAlias = Callable[[Sequence[Tensor]], Sequence[Tensor]]

_ALL_ELEMENTS: Final = 256
_SAMPLED_ELEMENTS: Final = 96
_MANY_ELEMENTS: Final = 1_000_000
_PARTS: Final = 16


@dataclass(frozen=True, slots=True)
class Comparison:
    """The analytic and the numerical gradient of one leaf at some elements. All tensors have shape (n,)."""

    leaf: int
    indices: Tensor
    numeric: Tensor
    analytic: Tensor
    tolerance: Tensor
    is_usable: Tensor
    """False for elements that are excluded because of a kink or a jump."""

    @property
    def error(self) -> Tensor:
        """The absolute difference; 0 for excluded elements."""
        return torch.where(self.is_usable, (self.analytic - self.numeric).abs(), 0.0)

    @property
    def is_wrong(self) -> Tensor:
        """Bool mask of the wrong elements, shape (n,)."""
        return self.is_usable & ~(self.error <= self.tolerance)

    @property
    def is_right(self) -> bool:
        """Whether none of the compared elements is wrong."""
        return not bool(self.is_wrong.any())

    @property
    def kinks(self) -> int:
        """The number of excluded elements."""
        return int((~self.is_usable).sum())


def _pick_elements(count: int) -> Tensor:
    """Return the flat indices of the elements to compare: all for a small tensor, otherwise a sample."""
    if count <= _ALL_ELEMENTS:
        return torch.arange(count)
    sampled = _SAMPLED_ELEMENTS if count <= _MANY_ELEMENTS else _SAMPLED_ELEMENTS // 8
    chosen = torch.randint(count, (sampled,), generator=torch.Generator().manual_seed(count))
    return torch.tensor(sorted({0, count - 1, *chosen.tolist()}))


def compare_elements(
    values: Values,
    at: Sequence[Tensor],
    weights: Sequence[Tensor],
    leaf: int,
    gradient: Tensor,
    precision: Precision,
    indices: Tensor | None = None,
) -> Comparison:
    """Compare the gradient of one leaf with finite differences, at all of its elements or a sample.

    In addition to a sample, the derivatives along two random directions are compared. If one differs
    although the sample agrees, the elements that cause the difference are searched for, and compared
    instead.

    indices: the flat indices of the elements to compare, instead of a sample.
    """
    difference = _Difference(values, at, weights, leaf, precision)
    if indices is not None:
        return _compare_at(difference, leaf, gradient, precision, indices)
    indices = _pick_elements(gradient.numel())
    sampled = _compare_at(difference, leaf, gradient, precision, indices)
    if len(indices) == gradient.numel() or not sampled.is_right:
        return sampled
    wrong = difference.locate(gradient)
    return sampled if wrong is None else _compare_at(difference, leaf, gradient, precision, wrong)


def _compare_at(
    difference: "_Difference", leaf: int, gradient: Tensor, precision: Precision, indices: Tensor
) -> Comparison:
    parts = [difference.derivative_of_element(int(i)) for i in indices]
    numeric = torch.tensor([p[0] for p in parts], dtype=gradient.dtype)
    usable = torch.tensor([p[1] for p in parts], dtype=torch.bool)
    analytic = gradient.detach().reshape(-1)[indices].cpu()
    size = (
        float(torch.cat([numeric[usable].abs(), analytic[usable].abs()]).amax())
        if usable.any()
        else 0.0
    )
    tolerance = precision.rtol * numeric.abs() + precision.atol * min(1.0, size) + difference.noise
    for i in (usable & ~((analytic - numeric).abs() <= tolerance)).nonzero().flatten().tolist():
        usable[i] = difference.is_steady_in(int(indices[i]), numeric[i].item())
    return Comparison(leaf, indices, numeric, analytic, tolerance, usable)


def compare_map(
    values: Values,
    at: Sequence[Tensor],
    weights: Sequence[Tensor],
    leaf: int,
    gradient: Tensor,
    precision: Precision,
) -> tuple[float, float, bool]:
    """Return a directional derivative by backward and by differences, and whether the two disagree."""
    return _Difference(values, at, weights, leaf, precision).along(gradient, seed=0)


def jacobian(values: Values, at: Sequence[Tensor], leaf: int, precision: Precision) -> Tensor:
    """Return the numerical Jacobian of the first output, shape (outputs, inputs). All tensors are real."""
    columns = []
    for i in range(at[leaf].numel()):
        plus, minus = (_with_moved_element(at, leaf, i, sign * precision.step) for sign in (1.0, -1.0))
        change = values(plus)[0].detach() - values(minus)[0].detach()
        columns.append(change.reshape(-1) / (2 * precision.step))
    return torch.stack(columns, dim=1)


class _Difference:
    """Finite differences of the weighted sum of outputs with respect to one leaf."""

    def __init__(
        self,
        values: Values,
        at: Sequence[Tensor],
        weights: Sequence[Tensor],
        leaf: int,
        precision: Precision,
    ) -> None:
        self._values, self._at, self._leaf = values, at, leaf
        self._weights = [w.detach().reshape(-1) for w in weights]
        self._precision = precision
        self._here = self._outputs(at)
        size = sum(float((w * y).norm()) for w, y in zip(self._weights, self._here, strict=True))
        self.noise = 8 * precision.eps * size / precision.step

    def derivative_of_element(self, index: int, stretch: float = 1.0) -> tuple[complex, bool]:
        """Return the partial derivative with respect to one element, and whether both sides agree."""
        at = self._at[self._leaf].reshape(-1)[index]
        slope, is_usable = self._slope(index, stretch, abs(at.item()))
        if not at.is_complex():
            return slope, is_usable
        upward, is_also_usable = self._slope(index, stretch * 1j, abs(at.item()))
        return complex(slope, upward), is_usable and is_also_usable

    def is_steady_in(self, index: int, slope: complex) -> bool:
        """Return whether a doubled step gives the same derivative. Across a jump, it gives half the derivative."""
        return self._is_same_slope(slope, self.derivative_of_element(index, stretch=2.0)[0])

    def locate(self, gradient: Tensor) -> Tensor | None:
        """Return a few elements with a wrong derivative; None if the derivatives in all directions agree."""
        if not any(self.along(gradient, seed)[2] for seed in (0, 1)):
            return None
        indices = torch.arange(gradient.numel())
        while len(indices) > _ALL_ELEMENTS:
            parts = indices.tensor_split(_PARTS)
            indices = next((p for p in parts if self.along(gradient, 0, p)[2]), indices[:_ALL_ELEMENTS])
        return indices

    def along(
        self, gradient: Tensor, seed: int, only: Tensor | None = None
    ) -> tuple[float, float, bool]:
        """Return the analytic and the numerical derivative along a random direction, and whether they disagree.

        only: the flat indices at which the direction is not zero; None: all.
        """
        here = self._at[self._leaf]
        direction = _random_direction(here, seed, only)
        numeric, is_usable = self._slope_along(direction)
        analytic = (
            float((gradient.detach().conj() * direction).real.sum())
            if here.is_complex()
            else float((gradient.detach() * direction).sum())
        )
        terms = float((gradient.detach().abs() * direction.abs()).sum())
        tolerance = (
            self._precision.rtol * abs(numeric)
            + 0.1 * self._precision.rtol * min(terms, 1.0)
            + self.noise
        )
        is_off = is_usable and not abs(analytic - numeric) <= tolerance
        if is_off and not self._is_same_slope(numeric, self._slope_along(direction, stretch=2.0)[0]):
            is_off = False  # a jump
        return analytic, numeric, is_off

    def _is_same_slope(self, slope: complex, other: complex) -> bool:
        return abs(other - slope) <= 0.1 * abs(slope) + 4 * self.noise

    def _slope_along(self, direction: Tensor, stretch: float = 1.0) -> tuple[float, bool]:
        h = stretch * self._precision.step
        plus, minus = (self._outputs(self._shifted(sign * h * direction)) for sign in (1, -1))
        return self._both_sides(plus, minus, h)

    def _shifted(self, by: Tensor) -> list[Tensor]:
        moved = list(self._at)
        moved[self._leaf] = moved[self._leaf] + by
        return moved

    def _slope(self, index: int, unit: complex, size: float) -> tuple[float, bool]:
        step = self._precision.step * (1.0 if self._precision.is_double else max(1.0, size))
        for h in (step, min(step, size * 1e-3)):
            plus, minus = (
                self._outputs(_with_moved_element(self._at, self._leaf, index, s * h * unit))
                for s in (1, -1)
            )
            slope, is_usable = self._both_sides(plus, minus, h * abs(unit))
            if slope == slope or size == 0:  # noqa: PLR0124 - not NaN: the step did not leave the function's domain
                break
        return (slope, is_usable) if slope == slope else (0.0, False)  # noqa: PLR0124 - not NaN

    def _both_sides(self, plus: list[Tensor], minus: list[Tensor], h: float) -> tuple[float, bool]:
        ahead, behind = self._change(plus, self._here) / h, self._change(self._here, minus) / h
        central = self._change(plus, minus) / (2 * h)
        limit = 1e-2 if self._precision.is_double else 0.1
        is_smooth = abs(ahead - behind) <= limit * (abs(ahead) + abs(behind)) + 4 * self.noise + 1e-4
        return central, is_smooth

    def _outputs(self, at: Sequence[Tensor]) -> list[Tensor]:
        return [y.detach().reshape(-1) for y in self._values(at)]

    def _change(self, a: list[Tensor], b: list[Tensor]) -> float:
        parts = ((w.conj() * (p - q)).sum() for w, p, q in zip(self._weights, a, b, strict=True))
        return sum(float(part.real if part.is_complex() else part) for part in parts)


def _random_direction(here: Tensor, seed: int, only: Tensor | None) -> Tensor:
    """Return a random vector of norm about 1 that is zero except at the flat indices `only`."""
    drawn = torch.randn(
        here.numel(), generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )
    if only is not None:
        drawn = torch.zeros_like(drawn).index_copy(0, only, drawn[only])
    moving = here.numel() if only is None else len(only)
    drawn /= max(1.0, moving**0.5)
    return drawn.view(here.shape).to(here.device, here.dtype)


def _with_moved_element(at: Sequence[Tensor], leaf: int, index: int, by: complex) -> list[Tensor]:
    moved = list(at)
    flat = at[leaf].clone(memory_format=torch.contiguous_format).view(-1)
    flat[index] += by if flat.is_complex() else by.real
    moved[leaf] = flat.view_as(at[leaf])
    return moved
