"""A gradient with noise, as in Neelakantan et al., "Adding gradient noise improves learning", 2015."""

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
    """Return a copy of x whose gradient has normal noise of deviation std added.

    Forward ``y = x``; backward ``dx = dy + std * n`` with n standard normal from `generator`, drawn
    again at each backward; of complex numbers both parts have deviation std. x has any shape; y, dx and
    dy have the same. std is finite and at least 0; with 0 nothing is drawn and dx is bitwise dy. When
    `is_relative` it is a fraction of dy's own deviation (around its mean, over all elements), which
    counts as a constant in a second derivative.

    The global random state is neither read nor advanced. Under vmap each sample has noise of its own.

    Raises UsageError for a negative or non-finite std, for a generator of another device, for a tensor
    that is sparse or of whole numbers, and in backward for a sparse gradient.
    """
    check_tensor("noise_gradient", x)
    check_number("noise_gradient", "std", std, least=0.0)
    _check_generator(x, generator)
    y: Tensor = _Noise.apply(x, std, generator, is_relative)  # type: ignore[no-untyped-call]  # torch leaves apply untyped
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
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ARG004 - torch's signature; Any: ctx has what is put on it
        ctx.std, ctx.generator, ctx.is_relative = inputs[1:]

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None, None, None]:
        if ctx.std != 0:
            check_gradient_is_dense("noise_gradient", dy)
        return noisy(dy, ctx.std, ctx.generator, is_relative=ctx.is_relative), None, None, None


def noisy(dy: Tensor, std: float, generator: torch.Generator, *, is_relative: bool = False) -> Tensor:
    """Return the gradient with noise."""
    if std == 0 or dy.numel() == 0:
        return dy
    scale = std * _deviation(dy.detach()) if is_relative else std
    y: Tensor = _Add.apply(dy, scale, generator)  # type: ignore[no-untyped-call]  # as above
    return y


def _deviation(dy: Tensor) -> Tensor:
    """Return the deviation around the mean; of complex numbers, that of all their parts."""
    parts = torch.view_as_real(dy) if dy.is_complex() else dy
    return parts.to(torch.float32 if dy.device.type == "mps" else torch.float64).std(correction=0)


def _real(x: Tensor) -> torch.dtype:
    return x.real.dtype if x.is_complex() else x.dtype


class _Add(Function):
    """``y = x + std * n``. A Function of its own for its vmap rule: vmap refuses to draw by itself."""

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
        if isinstance(std, Tensor):  # each sample has a deviation of its own
            std = std.reshape(-1, *(1 for _ in range(x.dim() - 1 + x.is_complex())))
        y: Tensor = _Add.apply(x, std, generator)  # type: ignore[no-untyped-call]  # as above
        return y, 0
