"""Finds parameters whose gradient has a NaN or an infinity, with one fast check of all, in every step."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final, TypeAlias

import torch
from torch._subclasses.fake_tensor import FakeTensor

from gradscope.hooks import local_part
from gradscope.native import native_module

__all__ = ["FindNonfinite", "has_numbers", "make_find_nonfinite", "numbers_of_gradient"]

_FIRST: Final = 256

FindNonfinite: TypeAlias = Callable[[list[torch.nn.Parameter]], tuple[list[int], list[int]]]


def make_find_nonfinite() -> FindNonfinite:
    """Return a function of parameters that returns two lists of indices.

    The first list has the parameters with a nonfinite gradient on the host, the second those with gradients on other
    devices, which are not read. Nothing is changed. The native pass reads the bits. Without the native pass, norms are
    checked: they show a NaN or an infinity, but may also overflow for large elements. So suspects, and gradients that
    could not be checked this way, are checked element by element.
    """
    native = native_module()
    return partial(_find, _suspects if native is None else native.find_nonfinite)


def _find(
    suspects: Callable[[list[torch.nn.Parameter]], Sequence[int]], parameters: list[torch.nn.Parameter]
) -> tuple[list[int], list[int]]:
    places = suspects(parameters)
    return _check_elements(parameters, places) if places else ([], [])


@torch.no_grad()
def _check_elements(
    parameters: list[torch.nn.Parameter], places: Sequence[int]
) -> tuple[list[int], list[int]]:
    bad: list[int] = []
    elsewhere: list[int] = []
    for place in places:
        gradient = parameters[place].grad
        if gradient is None or not has_numbers(gradient):
            continue
        if not gradient.is_cpu:
            elsewhere.append(place)
        elif not _is_finite(numbers_of_gradient(parameters[place])):
            bad.append(place)
    return bad, elsewhere


def _is_finite(numbers: torch.Tensor) -> bool:
    """Return whether all elements are finite. Reads the first ones alone first: NaN mostly fills a gradient."""
    has_more = numbers.numel() > _FIRST and numbers.is_contiguous()
    if has_more and not bool(torch.isfinite(numbers.view(-1)[:_FIRST]).all()):
        return False
    return bool(torch.isfinite(numbers).all())


def has_numbers(tensor: torch.Tensor) -> bool:
    """Return whether a tensor has data. A meta or fake tensor has only a shape."""
    return not (tensor.is_meta or isinstance(tensor, FakeTensor))


def numbers_of_gradient(parameter: torch.nn.Parameter) -> torch.Tensor:
    """Return this rank's part of a gradient, detached; for a sparse gradient, its values."""
    gradient = parameter.grad
    if gradient is None:
        return torch.empty(0)
    if type(gradient) is torch.Tensor and gradient.layout is torch.strided and gradient.grad_fn is None:
        return gradient
    local = local_part(gradient).detach()
    return local._values() if local.layout is torch.sparse_coo else local  # noqa: SLF001 - without coalescing


@torch.no_grad()
def _suspects(parameters: list[torch.nn.Parameter]) -> Sequence[int]:
    """Return the indices of gradients that must be checked element by element."""
    given = [(i, p.grad) for i, p in enumerate(parameters) if p.grad is not None]
    close = {i for i, g in given if not (g.is_cpu and has_numbers(g) and g.layout is torch.strided)}
    plain = [numbers_of_gradient(parameters[i]) for i, _ in given if i not in close]
    norms = torch._foreach_norm(plain) if plain else ()  # noqa: SLF001 - torch's own clipping uses it
    is_fine = math.isfinite(sum(norm.item() for norm in norms))
    return sorted(close) if is_fine else [i for i, _ in given]
