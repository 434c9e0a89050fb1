"""What each function does to a gradient, against formulas written out in float64."""

import math

import pytest
import torch
from torch import Tensor

from gradscope.errors import UsageError
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

DTYPES = [
    torch.float16,
    torch.bfloat16,
    torch.float32,
    torch.float64,
    torch.complex64,
    torch.complex128,
]


def gradient_through(function, dy: Tensor, x: Tensor | None = None) -> Tensor:
    x = torch.ones_like(dy) if x is None else x
    x = x.detach().requires_grad_()
    (dx,) = torch.autograd.grad(function(x), x, dy)
    return dx


def some_gradient(dtype: torch.dtype, shape: tuple[int, ...] = (5, 7)) -> Tensor:
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(0))


def bits(tensor: Tensor) -> bytes:
    return (
        torch.view_as_real(tensor).numpy().tobytes()
        if tensor.is_complex()
        else tensor.view(torch.uint8).numpy().tobytes()
    )


NEUTRAL = {
    "scale 1": lambda x: scale_gradient(x, 1.0),
    "clip inf": lambda x: clip_gradient_norm(x, math.inf),
    "clip above": lambda x: clip_gradient_norm(x, 1e4),
    "clamp inf": lambda x: clamp_gradient(x, math.inf),
    "clamp above": lambda x: clamp_gradient(x, 1e4),
    "noise 0": lambda x: noise_gradient(x, 0.0, torch.Generator()),
    "relative noise 0": lambda x: noise_gradient(x, 0.0, torch.Generator(), is_relative=True),
    "replace non-finite": replace_nonfinite_gradient,
    "change identity": lambda x: change_gradient(x, lambda dy: dy),
    "straight through identity": lambda x: straight_through(x, lambda v: v),
}

ALL = {
    "reverse": lambda x: reverse_gradient(x, 0.5),
    "scale": lambda x: scale_gradient(x, -2.5),
    "clip": lambda x: clip_gradient_norm(x, 0.25),
    "clamp": lambda x: clamp_gradient(x, 0.25),
    "stop": stop_gradient,
    "noise": lambda x: noise_gradient(x, 0.1, torch.Generator().manual_seed(3)),
    "relative noise": lambda x: noise_gradient(
        x, 0.1, torch.Generator().manual_seed(3), is_relative=True
    ),
    "replace non-finite": lambda x: replace_nonfinite_gradient(x, 1.0),
    "change": lambda x: change_gradient(x, lambda dy: dy / 2),
    "straight through": lambda x: straight_through(x, torch.clone),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", NEUTRAL)
def test_a_neutral_number_gives_bitwise_the_gradient_that_came(name, dtype):
    dy = some_gradient(dtype)
    dy[0, 0] = -0.0
    dy[0, 1] = torch.finfo(dtype).tiny / 4  # subnormal
    assert bits(gradient_through(NEUTRAL[name], dy)) == bits(dy)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ALL)
def test_the_value_is_a_copy_bitwise_equal_to_the_input(name, dtype):
    x = some_gradient(dtype)
    y = ALL[name](x)
    assert bits(y) == bits(x)
    assert y.data_ptr() != x.data_ptr()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2), (1,), (4, 3)])
@pytest.mark.parametrize("name", ALL)
def test_shape_and_dtype_of_the_gradient_are_those_of_x(name, shape, dtype):
    dx = gradient_through(ALL[name], some_gradient(dtype, shape))
    assert (dx.shape, dx.dtype) == (torch.Size(shape), dtype)
    assert dx.isfinite().all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_reversal_with_alpha_1_gives_bitwise_the_negated_gradient(dtype):
    dy = some_gradient(dtype)
    assert bits(gradient_through(reverse_gradient, dy)) == bits(-dy)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex64])
def test_reversal_gives_minus_alpha_times_the_gradient(dtype):
    dy = some_gradient(dtype)
    torch.testing.assert_close(gradient_through(lambda x: reverse_gradient(x, 0.3), dy), -0.3 * dy)


def test_an_infinite_complex_gradient_keeps_its_finite_part():
    dy = torch.tensor([complex(math.inf, 2.0)])
    assert gradient_through(lambda x: scale_gradient(x, 2.0), dy)[0].item() == complex(math.inf, 4.0)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("max_norm", [0.0, 1e-3, 1.0, 5.0])
def test_a_clipped_gradient_has_the_norm_asked_for_and_the_direction_it_had(dtype, max_norm):
    dy = some_gradient(dtype)
    wide = torch.complex128 if dtype.is_complex else torch.float64
    reference = dy.to(wide) * (max_norm / dy.to(wide).norm())
    dx = gradient_through(lambda x: clip_gradient_norm(x, max_norm), dy)
    torch.testing.assert_close(dx, reference.to(dtype))


def test_the_norm_of_half_precision_does_not_overflow():
    dy = torch.full((1000,), 60000.0, dtype=torch.float16)
    dx = gradient_through(lambda x: clip_gradient_norm(x, 1.0), dy)
    torch.testing.assert_close(dx.double().norm().item(), 1.0, rtol=1e-3, atol=0)


def test_the_norm_of_huge_float32_does_not_overflow():
    dy = torch.full((4,), 1e30)
    torch.testing.assert_close(
        gradient_through(lambda x: clip_gradient_norm(x, 2.0), dy), torch.ones(4)
    )


def test_the_norm_of_a_long_float32_gradient_is_that_of_float64():
    dy = some_gradient(torch.float32, (1_000_003,))
    exact = dy.double().norm().item()
    above = gradient_through(lambda x: clip_gradient_norm(x, exact * (1 + 1e-12)), dy)
    below = gradient_through(lambda x: clip_gradient_norm(x, exact * (1 - 1e-6)), dy)
    assert torch.equal(above, dy)
    assert not torch.equal(below, dy)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_clip_leaves_a_gradient_with_a_non_finite_element_as_it_is(bad):
    dy = torch.tensor([1.0, bad, 3.0])
    dx = gradient_through(lambda x: clip_gradient_norm(x, 0.1), dy)
    torch.testing.assert_close(dx, dy, equal_nan=True, rtol=0, atol=0)


def test_clamp_cuts_each_element_turns_inf_into_a_limit_and_keeps_nan():
    dy = torch.tensor([-3.0, -0.5, 0.0, 0.5, 3.0, math.inf, math.nan])
    dx = gradient_through(lambda x: clamp_gradient(x, 1.0), dy)
    expected = torch.tensor([-1.0, -0.5, 0.0, 0.5, 1.0, 1.0, math.nan])
    torch.testing.assert_close(dx, expected, equal_nan=True, rtol=0, atol=0)


def test_clamp_of_complex_cuts_both_parts():
    dy = torch.tensor([complex(-3, 0.5), complex(0.25, 7)])
    dx = gradient_through(lambda x: clamp_gradient(x, 1.0), dy)
    assert dx.tolist() == [complex(-1, 0.5), complex(0.25, 1)]


def test_a_limit_that_half_precision_cannot_hold_clamps_nothing():
    dy = torch.tensor([60000.0, -60000.0], dtype=torch.float16)
    assert torch.equal(gradient_through(lambda x: clamp_gradient(x, 1e6), dy), dy)


def test_stop_sends_zeros_and_the_graph_stays_whole():
    x = torch.randn(3, requires_grad=True)
    stop_gradient(x * 2).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [0.0, 0.0, 0.0]


def test_stop_gives_zeros_also_where_the_gradient_is_nan():
    assert gradient_through(stop_gradient, torch.tensor([math.nan, math.inf])).tolist() == [0.0, 0.0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64])
def test_noise_is_the_generators_and_of_the_deviation_asked_for(dtype):
    dy = torch.zeros(20000, dtype=dtype)
    dx = gradient_through(lambda x: noise_gradient(x, 0.5, torch.Generator().manual_seed(1)), dy)
    again = gradient_through(lambda x: noise_gradient(x, 0.5, torch.Generator().manual_seed(1)), dy)
    parts = torch.view_as_real(dx) if dtype.is_complex else dx
    assert torch.equal(dx, again)
    assert abs(parts.double().std().item() - 0.5) < 0.01
    assert abs(parts.double().mean().item()) < 0.02


def test_each_backward_draws_new_noise():
    generator = torch.Generator().manual_seed(1)
    dy = torch.zeros(10)
    first = gradient_through(lambda x: noise_gradient(x, 0.5, generator), dy)
    assert not torch.equal(first, gradient_through(lambda x: noise_gradient(x, 0.5, generator), dy))


def test_noise_neither_reads_nor_advances_the_global_random_state():
    def noisy() -> Tensor:
        return gradient_through(
            lambda x: noise_gradient(x, 0.5, torch.Generator().manual_seed(1)), torch.zeros(5)
        )

    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = noisy()
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(77)
    assert torch.equal(noisy(), first)


def test_straight_through_binarises_and_passes_the_gradient_as_it_is():
    x = torch.tensor([-2.0, 0.5])
    dy = torch.tensor([3.0, 4.0])
    assert straight_through(x, torch.sign).tolist() == [-1.0, 1.0]
    assert torch.equal(gradient_through(lambda v: straight_through(v, torch.sign), dy, x), dy)


def test_straight_through_leaves_x_alone_when_forward_works_in_place():
    x = torch.tensor([0.4, 1.6])
    assert straight_through(x, torch.round_).tolist() == [0.0, 2.0]
    torch.testing.assert_close(x, torch.tensor([0.4, 1.6]), rtol=0, atol=0)


@pytest.mark.parametrize("dtype", DTYPES)
def test_relative_noise_has_that_fraction_of_the_gradients_own_deviation(dtype):
    dy = some_gradient(dtype, (400, 50)) * 3 + 7
    own = torch.view_as_real(dy) if dtype.is_complex else dy
    noise = gradient_through(
        lambda x: noise_gradient(x, 0.25, torch.Generator().manual_seed(1), is_relative=True), dy
    )
    added = noise.to(torch.complex128 if dtype.is_complex else torch.float64) - dy
    parts = torch.view_as_real(added) if dtype.is_complex else added
    expected = 0.25 * own.double().std(correction=0).item()
    assert parts.std().item() == pytest.approx(expected, rel=0.02)


def test_relative_noise_of_a_sample_under_vmap_goes_by_the_samples_own_deviation():
    dy = torch.stack([torch.linspace(-1, 1, 1000), 100 * torch.linspace(-1, 1, 1000)])
    generator = torch.Generator().manual_seed(0)

    def gradient(weights):
        def noisy(x):
            return noise_gradient(x, 0.5, generator, is_relative=True)

        return torch.func.grad(lambda x: (noisy(x) * weights).sum())(torch.zeros(1000))

    added = torch.vmap(gradient, randomness="different")(dy) - dy
    ratio = added.std(dim=1) / dy.std(dim=1)
    torch.testing.assert_close(ratio, torch.full((2,), 0.5), rtol=0.1, atol=0)


@pytest.mark.parametrize("value", [0.0, -2.5])
def test_only_what_is_not_finite_is_replaced(value):
    dy = torch.tensor([1.0, math.nan, -math.inf, math.inf, -0.0])
    dx = gradient_through(lambda x: replace_nonfinite_gradient(x, value), dy)
    assert bits(dx) == bits(torch.tensor([1.0, value, value, value, -0.0]))


def test_a_function_that_changes_a_gradient_is_given_it_and_returns_another():
    seen = []
    dy = some_gradient(torch.float32)
    dx = gradient_through(lambda x: change_gradient(x, lambda g: seen.append(g) or g.sign()), dy)
    assert torch.equal(dx, dy.sign())
    assert torch.equal(seen[0], dy)


@pytest.mark.parametrize("bad", [lambda dy: dy.sum(), lambda dy: dy.double(), lambda dy: None])
def test_a_function_that_returns_anything_but_a_tensor_like_the_gradient_is_refused(bad):
    with pytest.raises(UsageError, match=r"must return a tensor like it, got"):
        gradient_through(lambda x: change_gradient(x, bad), some_gradient(torch.float32))
