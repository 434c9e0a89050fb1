"""How the functions sit in a graph: in-place neighbours, views, residuals, func, compile."""

import pytest
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

pytestmark = pytest.mark.slow


def noise(x: Tensor) -> Tensor:
    return noise_gradient(x, 0.1, torch.Generator().manual_seed(3))


DETERMINISTIC = {
    "reverse": (lambda x: reverse_gradient(x, 0.5), lambda dy: -0.5 * dy),
    "scale": (lambda x: scale_gradient(x, 3.0), lambda dy: 3.0 * dy),
    "clip": (lambda x: clip_gradient_norm(x, 0.25), lambda dy: dy * (0.25 / dy.norm()).clamp(max=1.0)),
    "clip not reached": (lambda x: clip_gradient_norm(x, 1e3), lambda dy: dy),
    "clamp": (lambda x: clamp_gradient(x, 0.25), lambda dy: dy.clamp(-0.25, 0.25)),
    "stop": (stop_gradient, torch.zeros_like),
    "replace non-finite": (replace_nonfinite_gradient, lambda dy: dy),
    "change": (lambda x: change_gradient(x, lambda dy: dy * dy.abs()), lambda dy: dy * dy.abs()),
    "straight through": (lambda x: straight_through(x, torch.clone), lambda dy: dy),
}
ALL = {name: function for name, (function, _) in DETERMINISTIC.items()} | {"noise": noise}
NEUTRAL = ("clip not reached", "straight through", "replace non-finite")


def double(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_the_map_of_the_gradient_has_the_derivatives_that_finite_differences_give(name):
    function = DETERMINISTIC[name][0]
    x = double(3, 4).requires_grad_()

    def backward_map(dy: Tensor) -> Tensor:
        (dx,) = torch.autograd.grad(function(x), x, dy, create_graph=True)
        return dx

    dy = double(3, 4).requires_grad_()
    assert torch.autograd.gradcheck(backward_map, (dy,))
    assert torch.autograd.gradgradcheck(backward_map, (dy,))


@pytest.mark.parametrize("name", ALL)
def test_gradgradcheck_passes_in_double(name):
    assert torch.autograd.gradgradcheck(ALL[name], (double(3, 4).requires_grad_(),))


@pytest.mark.parametrize("name", NEUTRAL)
def test_gradcheck_passes_where_the_gradient_is_the_derivative(name):
    assert torch.autograd.gradcheck(ALL[name], (double(3, 4).requires_grad_(),))


def _linear(x, f):
    return f(x * 2)


def _in_place_after(x, f):
    return torch.relu_(f(x * 2))


def _view_then_in_place(x, f):
    return f(x * 2).view(-1).relu_()


def _after_sigmoid(x, f):
    return f(torch.sigmoid(x)).mul_(2)


def _identity_in_a_residual(x, f):
    h = x * 2
    return h + f(nn.Identity()(h))


EXPECTED = {  # d(loss)/dx for loss = sum(w * y), with the map of the gradient applied where f stands
    _linear: lambda x, w, back: 2 * back(w),
    _in_place_after: lambda x, w, back: 2 * back(w * (x > 0)),
    _view_then_in_place: lambda x, w, back: 2 * back((w.reshape(-1) * (x.view(-1) > 0)).view_as(x)),
    _after_sigmoid: lambda x, w, back: back(2 * w) * torch.sigmoid(x) * (1 - torch.sigmoid(x)),
    _identity_in_a_residual: lambda x, w, back: 2 * (w + back(w)),
}


@pytest.mark.parametrize("network", EXPECTED)
@pytest.mark.parametrize("name", DETERMINISTIC)
def test_the_gradient_is_exact_beside_in_place_operations_views_and_residuals(name, network):
    function, back = DETERMINISTIC[name]
    x, w = double(3, 4).requires_grad_(), double(4, 3).t()
    y = network(x, function)
    (y * w.reshape(y.shape)).sum().backward()
    torch.testing.assert_close(x.grad, EXPECTED[network](x.detach(), w, back))


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_func_grad_equals_autograd(name):
    function = DETERMINISTIC[name][0]
    x = double(3, 4)
    leaf = x.clone().requires_grad_()
    (function(leaf) ** 3).sum().backward()
    assert leaf.grad is not None
    torch.testing.assert_close(torch.func.grad(lambda v: (function(v) ** 3).sum())(x), leaf.grad)


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_vmap_of_grad_equals_a_loop_over_samples(name):
    function = DETERMINISTIC[name][0]
    sample_gradient = torch.func.grad(lambda v: (function(v) ** 3).sum())
    x = double(5, 3)
    looped = torch.stack([sample_gradient(row) for row in x])
    torch.testing.assert_close(torch.vmap(sample_gradient)(x), looped)
    torch.testing.assert_close(torch.vmap(sample_gradient, in_dims=1, out_dims=1)(x.t()), looped.t())


def test_under_vmap_each_sample_has_noise_of_its_own():
    gradient = torch.func.grad(lambda v: noise(v).sum())
    per_sample = torch.vmap(gradient)(torch.zeros(6, 3))
    assert per_sample.unique().numel() == 18


@pytest.mark.parametrize("name", ALL)
def test_jacrev_of_jacrev_runs(name):
    assert torch.func.jacrev(torch.func.jacrev(lambda v: (ALL[name](v) ** 3).sum()))(
        double(3)
    ).shape == (3, 3)


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
@pytest.mark.parametrize("name", DETERMINISTIC)
def test_the_whole_graph_compiles_and_gives_the_eager_gradient(name):
    function = DETERMINISTIC[name][0]
    torch._dynamo.reset()

    def network(v: Tensor) -> Tensor:
        return torch.relu_(function(v * 2) + v)

    gradients = []
    for run in (network, torch.compile(network, backend="aot_eager", fullgraph=True)):
        x = double(3, 4).requires_grad_()
        run(x).square().sum().backward()
        gradients.append(x.grad)
    torch.testing.assert_close(gradients[1], gradients[0], rtol=0, atol=0)


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
def test_fullgraph_refuses_noise_because_dynamo_cannot_trace_a_generator():
    torch._dynamo.reset()
    generator = torch.Generator()
    compiled = torch.compile(
        lambda v: noise_gradient(v, 0.1, generator), backend="aot_eager", fullgraph=True
    )
    with pytest.raises(torch._dynamo.exc.Unsupported):
        compiled(double(3).requires_grad_())


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
def test_noise_breaks_a_compiled_graph_and_gives_the_eager_gradient():
    torch._dynamo.reset()
    generator = torch.Generator()

    def network(v: Tensor) -> Tensor:
        return noise_gradient(v * 2, 0.1, generator) * 3

    gradients = []
    for run in (network, torch.compile(network, backend="aot_eager")):
        generator.manual_seed(3)
        x = double(3, 4).requires_grad_()
        run(x).sum().backward()
        gradients.append(x.grad)
    torch.testing.assert_close(gradients[1], gradients[0], rtol=0, atol=0)
