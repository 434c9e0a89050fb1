"""Arguments that are refused, and the messages."""

import math

import pytest
import torch

from gradscope.errors import UsageError
from gradscope.functional import (
    clamp_gradient,
    clip_gradient_norm,
    noise_gradient,
    reverse_gradient,
    scale_gradient,
    stop_gradient,
    straight_through,
)

X = torch.ones(3)
G = torch.Generator()

REFUSED_NUMBERS = [
    (reverse_gradient, "alpha", [math.nan, math.inf, -0.1, "1", None, True, torch.tensor(1.0)]),
    (scale_gradient, "factor", [math.nan, math.inf, -math.inf, "1", None]),
    (clip_gradient_norm, "max_norm", [math.nan, -1.0, -math.inf, 1j]),
    (clamp_gradient, "limit", [math.nan, -1.0, None]),
    (lambda x, std: noise_gradient(x, std, G), "std", [math.nan, math.inf, -0.1]),
]
ON_TENSORS = {
    "reverse_gradient": reverse_gradient,
    "scale_gradient": lambda x: scale_gradient(x, 1.0),
    "clip_gradient_norm": lambda x: clip_gradient_norm(x, 1.0),
    "clamp_gradient": lambda x: clamp_gradient(x, 1.0),
    "stop_gradient": stop_gradient,
    "noise_gradient": lambda x: noise_gradient(x, 1.0, G),
    "straight_through": lambda x: straight_through(x, torch.clone),
}


@pytest.mark.parametrize(
    ("function", "name", "value"), [(f, n, v) for f, n, vs in REFUSED_NUMBERS for v in vs]
)
def test_a_number_that_makes_no_sense_is_refused_by_name(function, name, value):
    with pytest.raises(UsageError, match=rf"expected {name} to be a real number.* got .*; pass a"):
        function(X, value)


@pytest.mark.parametrize(
    ("function", "value"),
    [(reverse_gradient, 0), (scale_gradient, -2), (clip_gradient_norm, math.inf), (clamp_gradient, 0)],
)
def test_a_number_at_the_border_is_taken(function, value):
    assert torch.equal(function(X, value), X)


@pytest.mark.parametrize("name", ON_TENSORS)
def test_anything_but_a_tensor_of_real_or_complex_numbers_is_refused(name):
    function = ON_TENSORS[name]
    with pytest.raises(UsageError, match=rf"{name} expected a tensor, got tuple"):
        function((X, X))
    with pytest.raises(
        UsageError, match=rf"{name} expected a floating-point or complex tensor, got torch.int64"
    ):
        function(torch.ones(3, dtype=torch.int64))
    with pytest.raises(
        UsageError, match=rf"{name} expected a dense .* tensor, got layout torch.sparse_coo.*to_dense"
    ):
        function(X.to_sparse())


@pytest.mark.parametrize("name", ON_TENSORS)
def test_a_jagged_tensor_is_refused_with_advice_that_works(name):
    jagged = torch.nested.nested_tensor([X, X[:1]], layout=torch.jagged, requires_grad=True)
    with pytest.raises(
        UsageError, match=r"got layout torch.jagged; call it on x.values\(\), .*x.offsets"
    ):
        ON_TENSORS[name](jagged)
    y = ON_TENSORS[name](jagged.values())
    again = torch.nested.nested_tensor_from_jagged(y, jagged.offsets())
    again.values().sum().backward()
    assert torch.equal(again.values(), jagged.values())


@pytest.mark.parametrize("name", ["clip_gradient_norm", "clamp_gradient", "noise_gradient"])
def test_a_sparse_gradient_is_refused_where_elements_are_changed(name):
    table = torch.randn(5, 2, requires_grad=True)
    rows = torch.nn.functional.embedding(torch.tensor([1, 3]), ON_TENSORS[name](table), sparse=True)
    with pytest.raises(
        UsageError,
        match=rf"{name} expected a dense gradient, got layout torch.sparse_coo.*sparse=False",
    ):
        rows.sum().backward()


def test_a_sparse_gradient_can_be_reversed():
    table = torch.randn(5, 2, requires_grad=True)
    torch.nn.functional.embedding(
        torch.tensor([1, 3]), reverse_gradient(table), sparse=True
    ).sum().backward()
    assert table.grad is not None
    assert table.grad.to_dense().sum(1).tolist() == [0.0, -2.0, 0.0, -2.0, 0.0]


@pytest.mark.parametrize("generator", [None, 3, "seed"])
def test_noise_needs_a_generator(generator):
    with pytest.raises(UsageError, match=r"expected a torch.Generator, got"):
        noise_gradient(X, 0.1, generator)


def test_noise_needs_a_generator_on_the_device_of_x():
    with pytest.raises(UsageError, match=r"expected a generator on meta, where x is, got one on cpu"):
        noise_gradient(torch.ones(3, device="meta"), 0.1, G)


@pytest.mark.parametrize(
    "forward", [lambda x: x > 0, lambda x: x.sum(), lambda x: x.double(), lambda x: 3.0]
)
def test_straight_through_refuses_a_value_unlike_its_input(forward):
    with pytest.raises(
        UsageError,
        match=r"expected forward\(x\) to be a tensor like x, torch.float32 of shape \(3,\), got",
    ):
        straight_through(X, forward)


def test_straight_through_refuses_what_is_not_callable():
    with pytest.raises(UsageError, match=r"expected a function of one tensor, got Tensor"):
        straight_through(X, X)
