"""Adds noise to a gradient: Neelakantan et al., "Adding gradient noise improves learning", 2015."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from gradscope.errors import UsageError
from gradscope.functional.arguments import check_gradient_is_dense, check_number, check_tensor

__all__ = ["noise_gradient", "noisy"]


def noise_gradient(
    x: Tensor, std: float, generator: torch.Generator, *, is_relative: bool = False
) -> Tensor:
    """Return a copy of x whose gradient has normal noise of standard deviation std added.

    Forward ``y = x``; backward ``dx = dy + std * n``, with n drawn from the standard normal distribution by
    `generator` in each backward pass. For complex tensors, both parts get noise of deviation std. x has any
    shape; y, dx and dy have the same shape. std is finite and at least 0; with 0 nothing is drawn and dx is
    bitwise dy. If `is_relative`, std is a fraction of the standard deviation of dy over all elements, which
    is a constant in second derivatives.

    The global random state is neither read nor advanced. Under vmap, each sample gets its own noise.

    Raises UsageError if std is negative or not finite, if the generator is on another device, or if x is
    sparse or not of floating-point or complex dtype; in backward, if the gradient is sparse.
    """
    check_tensor("noise_gradient", x)
    check_number("noise_gradient", "std", std, least=0.0)
    _check_generator(x, generator)
    y: Tensor = _Noise.apply(x, std, generator, is_relative)  # type: ignore[no-untyped-call]  # torch does not annotate apply
    return y


def _check_generator(x: Tensor, generator: object) -> None:
    if not isinstance(generator, torch.Generator):
        raise UsageError(
            f"noise_gradient expected a torch.Generator, got {type(generator).__name__}; "
            "make one with torch.Generator(device).manual_seed(seed)"
        )
    if generator.device.type != x.device.type:
        raise UsageError(
            f"noise_gradient expected a generator on {x.device.type}, where x is, got one on "
            f"{generator.device.type}; make it with torch.Generator({x.device.type!r})"
        )


class _Noise(Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, std: float, generator: torch.Generator, is_relative: bool) -> Tensor:  # noqa: ARG004 - backward needs them
        return x.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ARG004 - torch's signature; Any: ctx has arbitrary attributes
        ctx.std, ctx.generator, ctx.is_relative = inputs[1:]

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None, None, None]:
        if ctx.std != 0:
            check_gradient_is_dense("noise_gradient", dy)
        return noisy(dy, ctx.std, ctx.generator, is_relative=ctx.is_relative), None, None, None


def noisy(dy: Tensor, std: float, generator: torch.Generator, *, is_relative: bool = False) -> Tensor:
    """Return the gradient with noise added."""
    if std == 0 or dy.numel() == 0:
        return dy
    scale = std * _deviation(dy.detach()) if is_relative else std
    y: Tensor = _Add.apply(dy, scale, generator)  # type: ignore[no-untyped-call]  # as above
    return y


def _deviation(dy: Tensor) -> Tensor:
    """Return the standard deviation; for complex tensors, that of the real and imaginary parts together."""
    parts = torch.view_as_real(dy) if dy.is_complex() else dy
    return parts.to(torch.float32 if dy.device.type == "mps" else torch.float64).std(correction=0)


def _real(x: Tensor) -> torch.dtype:
    return x.real.dtype if x.is_complex() else x.dtype


class _Add(Function):
    """``y = x + std * n``. It is a Function because vmap cannot draw random numbers without a vmap rule."""

    @staticmethod
    def forward(x: Tensor, std: Tensor | float, generator: torch.Generator) -> Tensor:
        shape = (*x.shape, 2) if x.is_complex() else x.shape
        drawn = torch.randn(shape, generator=generator, dtype=_real(x), device=x.device) * std
        return x + (torch.view_as_complex(drawn) if x.is_complex() else drawn)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None, None]:  # noqa: ARG004 - torch's signature
        return dy, None, None

    @staticmethod
    def vmap(
        info: Any,  # noqa: ARG004 - torch's signature
        in_dims: tuple[int, int | None, None],
        x: Tensor,
        std: Tensor | float,
        generator: torch.Generator,
    ) -> tuple[Tensor, int]:
        x = x.movedim(in_dims[0], 0)
        if isinstance(std, Tensor):  # each sample has its own deviation
            std = std.reshape(-1, *(1 for _ in range(x.dim() - 1 + x.is_complex())))
        y: Tensor = _Add.apply(x, std, generator)  # type: ignore[no-untyped-call]  # as above
        return y, 0
