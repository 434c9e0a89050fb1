"""The report names the cause of a fault, and a cure that works. The Functions are written like those of users."""

import random

import numpy as np
import pytest
import torch
from torch import nn
from torch.autograd import Function

import gradscope
from gradscope.doctor import examine
from gradscope.errors import UsageError

pytestmark = pytest.mark.slow


def sample(*shape, dtype=torch.float32):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(5))


def function(forward, backward):
    """Return a Function with these methods."""
    return type(
        "Examined", (Function,), {"forward": staticmethod(forward), "backward": staticmethod(backward)}
    )


def text_of(report):
    return " ".join(f"{f.message} {f.cause} {f.fix} {f.evidence}" for f in report.findings)


def first(report):
    finding = report.findings[0]
    return finding.code, finding.severity, f"{finding.message} {finding.cause} {finding.fix}"


# grad_output


def _cross_entropy(ctx, logits, target):
    p = logits.softmax(-1)
    d = (p - torch.nn.functional.one_hot(target, p.shape[1])) / len(target)
    ctx.save_for_backward(d)
    return torch.nn.functional.cross_entropy(logits, target)


@pytest.mark.parametrize("factor", [1.0, 3.0])
def test_a_loss_whose_backward_ignores_grad_output_is_wrong_whatever_its_factor(factor):
    ignores = function(_cross_entropy, lambda ctx, g: (factor * ctx.saved_tensors[0], None))
    code, severity, words = first(examine(ignores, sample(4, 5), torch.tensor([0, 1, 2, 3])))
    assert (code, severity) == ("wrong-gradient", "error")
    assert "backward ignores grad_output" in words
    assert ("tried" in words) == (factor == 1.0)
    right = function(_cross_entropy, lambda ctx, g: (g * ctx.saved_tensors[0], None))
    assert "wrong-gradient" not in examine(right, sample(4, 5), torch.tensor([0, 1, 2, 3])).codes


def test_a_loss_that_ignores_grad_output_in_another_direction_is_wrong():
    squares = function(
        lambda ctx, x: (ctx.save_for_backward(x), (x**2).mean().reshape(1))[1],
        lambda ctx, g: ctx.saved_tensors[0].sign(),
    )
    assert "backward ignores grad_output" in first(examine(squares, sample(6)))[2]


def test_the_ignored_one_of_two_grad_outputs_is_named():
    both = function(
        lambda ctx, x: (ctx.save_for_backward(x), (x.sum() * 2, (x**2).sum()))[1],
        lambda ctx, a, b: a * 2 + 2 * ctx.saved_tensors[0],
    )
    assert "backward ignores grad_output 1" in first(examine(both, sample(5)))[2]


def test_losses_of_samples_that_ignore_grad_output_are_wrong():
    squares = function(
        lambda ctx, x: (ctx.save_for_backward(2 * x), (x**2).sum(1))[1],
        lambda ctx, g: ctx.saved_tensors[0],
    )
    assert "backward ignores grad_output" in first(examine(squares, sample(4, 3)))[2]


# State outside of ctx


class OnClass(Function):
    @staticmethod
    def forward(ctx, x):
        OnClass.kept = x.detach()
        return x**3

    @staticmethod
    def backward(ctx, g):
        return 3 * OnClass.kept**2 * g


GLOBAL = {}
STACK = []


class InGlobal(Function):
    @staticmethod
    def forward(ctx, x):
        GLOBAL["x"] = x
        return x**3

    @staticmethod
    def backward(ctx, g):
        return 3 * GLOBAL["x"] ** 2 * g


class OnStack(Function):
    @staticmethod
    def forward(ctx, x):
        STACK.append(x)
        return x**3

    @staticmethod
    def backward(ctx, g):
        return 3 * STACK.pop() ** 2 * g


def in_closure():
    kept = None

    def forward(ctx, x):
        nonlocal kept
        kept = x
        return x**3

    return function(forward, lambda ctx, g: 3 * kept**2 * g)


class SizeOnClass(Function):
    @staticmethod
    def forward(ctx, x):
        SizeOnClass.rows = x.shape[0]
        return x.mean(1)

    @staticmethod
    def backward(ctx, g):
        return (g / 3)[:, None].expand(SizeOnClass.rows, 3)


class FactorOnClass(Function):
    @staticmethod
    def forward(ctx, x, factor):
        FactorOnClass.factor = factor
        return x * factor

    @staticmethod
    def backward(ctx, g):
        return g * FactorOnClass.factor, None


class HeldByModule(Function):
    @staticmethod
    def forward(ctx, x, module):
        ctx.module = module
        module.seen = x
        return x**3

    @staticmethod
    def backward(ctx, g):
        return 3 * ctx.module.seen**2 * g, None


class StatefulModule(nn.Module):
    def forward(self, x):
        return HeldByModule.apply(x, self)


@pytest.mark.parametrize(
    ("kept", "inputs", "name"),
    [
        (OnClass, (sample(4),), "OnClass.kept"),
        (InGlobal, (sample(4),), "GLOBAL['x']"),
        (lambda x: InGlobal.apply(x) * 2, (sample(4),), "GLOBAL['x']"),
        (OnStack, (sample(4),), "STACK"),
        (in_closure(), (sample(4),), "kept of the closure"),
        (SizeOnClass, (sample(4, 3),), "SizeOnClass.rows"),
        (FactorOnClass, (sample(4), 2.0), "FactorOnClass.factor"),
        (FactorOnClass, (sample(4), 2), "FactorOnClass.factor"),
        (StatefulModule(), (sample(4),), "StatefulModule.seen"),
        (nn.Sequential(nn.Linear(4, 4), StatefulModule()), (sample(2, 4),), "seen"),
    ],
)
def test_values_kept_outside_of_ctx_are_found_by_a_second_call(kept, inputs, name):
    report = examine(kept, *inputs)
    finding = report.findings[0]
    assert finding.code in ("wrong-gradient", "backward-raises"), str(report)
    assert "called twice before backward" in finding.message
    assert any(name in value for value in finding.evidence.values()), str(report)
    assert not hasattr(OnClass, "kept")


# What examine can take


def test_the_room_is_reached_by_importing_gradscope_alone():
    assert gradscope.doctor.examine is examine


class Embedding(Function):
    @staticmethod
    def forward(ctx, w, i):
        ctx.save_for_backward(i)
        ctx.shape = w.shape
        return w[i]

    @staticmethod
    def backward(ctx, g):
        (i,) = ctx.saved_tensors
        return torch.sparse_coo_tensor(i[None], g, ctx.shape), None


@pytest.mark.filterwarnings("ignore:Sparse invariant checks are implicitly disabled")
def test_a_sparse_gradient_is_compared_in_its_dense_form():
    assert examine(Embedding, sample(5, 2), torch.tensor([0, 3, 3])).codes == ()

    class Wrong(Embedding):
        @staticmethod
        def backward(ctx, g):
            (i,) = ctx.saved_tensors
            return torch.sparse_coo_tensor(i[None], 3 * g, ctx.shape), None

    assert examine(Wrong, sample(5, 2), torch.tensor([0, 3, 3])).codes == ("wrong-gradient-scale",)


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta state")
@pytest.mark.parametrize("layout", [torch.sparse_coo, torch.sparse_csr])
def test_a_sparse_matrix_among_the_arguments_is_passed_on(layout):
    product = function(
        lambda ctx, a, x: (setattr(ctx, "a", a), torch.sparse.mm(a, x))[1],
        lambda ctx, g: (None, torch.sparse.mm(ctx.a.t(), g)),
    )
    report = examine(product, torch.eye(3).to_sparse(layout=layout), sample(3, 2))
    assert {f.severity for f in report.findings} <= {"hint", "warning"}, str(report)
    assert not [note for note in report.notes if note.startswith("not examined:")], str(report)


def test_a_right_function_in_place_on_a_plain_tensor_is_examined():
    def forward(ctx, x):
        x.relu_()
        ctx.mark_dirty(x)
        ctx.save_for_backward(x)
        return x

    in_place = function(forward, lambda ctx, g: g * (ctx.saved_tensors[0] > 0))
    assert examine(in_place, sample(6)).codes == ("reimplements-builtin",)


# Random functions


def _dropout(is_scaled):
    def forward(ctx, x):
        mask = torch.rand_like(x) > 0.5
        ctx.save_for_backward(mask)
        return x * mask * 2

    return function(forward, lambda ctx, g: g * ctx.saved_tensors[0] * (2 if is_scaled else 1))


def _with_numpy(ctx, x):
    ctx.noise = float(np.random.rand()) + random.random()  # noqa: NPY002 - as users write it
    return x * ctx.noise


def test_a_random_function_is_examined_with_seeds():
    report = examine(_dropout(is_scaled=True), sample(8, 5))
    assert report.codes == ("nondeterministic",)
    assert report.findings[0].severity == "hint"
    assert {step.status for step in report.steps} == {"passed"}
    report = examine(_dropout(is_scaled=False), sample(8, 5))
    assert report.codes == ("wrong-gradient-scale", "nondeterministic")
    numpy = function(_with_numpy, lambda ctx, g: g * ctx.noise)
    assert examine(numpy, sample(8)).codes == ("nondeterministic",)


def test_a_mask_drawn_again_in_backward_is_wrong():
    redraws = function(
        lambda ctx, x: x * (torch.rand_like(x) > 0.5), lambda ctx, g: g * (torch.rand_like(g) > 0.5)
    )
    code, _, words = first(examine(redraws, sample(8, 5)))
    assert code == "wrong-gradient"
    assert "right once the random state is set to that of forward" in words
    assert "save what forward drew, such as the mask, with ctx.save_for_backward (tried)" in words


def test_two_equal_gradients_of_which_one_is_broadcast_are_not_in_another_order():
    adds = function(lambda ctx, x, b: x + b, lambda ctx, g: (g, g))
    report = examine(adds, sample(4, 3), sample(3))
    assert report.codes[0] == "broadcast-not-reduced"
    assert report.ok


def test_the_input_of_a_module_with_parameters_is_examined_though_it_requires_no_gradient():
    twice = function(lambda ctx, x: 2 * x, lambda ctx, g: 3 * g)

    class Module(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(3, 3)

        def forward(self, x):
            return twice.apply(x) + self.linear.bias

    report = examine(Module(), sample(4, 3))
    assert report.codes[0] == "wrong-gradient-scale"
    assert "the gradient of x is 1.5 times the derivative" in text_of(report)


def test_a_nested_tensor_alone_is_refused_with_advice():
    jagged = torch.nested.nested_tensor([sample(2, 3), sample(1, 3)], layout=torch.jagged)
    with pytest.raises(
        UsageError, match=r"got a jagged tensor of float32; pass dense .* from its values"
    ):
        examine(_dropout(is_scaled=True), jagged)


def test_a_generator_among_the_arguments_is_copied_for_each_run():
    generator = torch.Generator().manual_seed(3)
    state = generator.get_state()

    def forward(ctx, x, generator):
        ctx.noise = torch.rand(x.shape, generator=generator).to(x.dtype) > 0.3
        return x * ctx.noise

    assert (
        examine(function(forward, lambda ctx, g: (g * ctx.noise, None)), sample(9), generator).codes
        == ()
    )
    assert torch.equal(generator.get_state(), state)


# Causes and cures


def _inner_graph(ctx, x):
    with torch.enable_grad():
        z = x.detach().requires_grad_()
        ctx.z, ctx.y = z, z**2
    return ctx.y.detach()


def _cached(ctx, x):
    ctx.cache, ctx.stack = x, [x]
    return x.exp()


def _inner_backward(ctx, g):
    ctx.z.grad = None
    ctx.y.backward(g)
    return ctx.z.grad


def _pops(ctx, g):
    return g * ctx.stack.pop().exp()


def _clears(ctx, g):
    x, ctx.cache = ctx.cache, None
    return g * x.exp()


@pytest.mark.parametrize(
    ("forward", "backward", "cause", "fix"),
    [
        (
            _inner_graph,
            lambda ctx, g: torch.autograd.grad(ctx.y, ctx.z, g)[0],
            "frees a graph that forward has made",
            "retain_graph=True in backward",
        ),
        (
            _inner_graph,
            _inner_backward,
            "frees a graph that forward has made",
            "retain_graph=True in backward",
        ),
        (_cached, _pops, "deletes or replaces an attribute of ctx", "do not change ctx in backward"),
        (_cached, _clears, "deletes or replaces an attribute of ctx", "do not change ctx in backward"),
    ],
)
def test_a_backward_that_runs_once_is_reported_with_its_cure(forward, backward, cause, fix):
    report = examine(function(forward, backward), sample(4))
    (finding,) = [f for f in report.findings if f.code == "backward-raises"]
    assert finding.severity == "warning"
    assert "second backward" in finding.message
    assert cause in finding.cause
    assert fix in finding.fix
    assert "tried" in finding.fix
    assert "set_materialize_grads" not in text_of(report)


def test_a_second_backward_with_another_gradient_is_reported():
    def backward(ctx, g):
        ctx.factor *= 2
        return g * ctx.factor

    counts = function(lambda ctx, x: (setattr(ctx, "factor", 1.0), 2 * x)[1], backward)
    report = examine(counts, sample(4))
    assert "nondeterministic" in report.codes
    assert "second backward" in text_of(report)


def _saves(*which):
    def forward(ctx, a, b):
        for i in which:
            ctx.save_for_backward((a, b)[i])
        return a * b

    return forward


def _inner_without_grad_mode(ctx, g):
    (x,) = ctx.saved_tensors
    z = x.detach().requires_grad_()
    return torch.autograd.grad(z**2, z, g)[0]


@pytest.mark.parametrize(
    ("forward", "backward", "count", "words"),
    [
        (
            lambda ctx, x: (ctx.save_for_backward(x), x**2)[1],
            lambda ctx, g: 2 * g * ctx.saved_tensors,
            1,
            "unpack it",
        ),
        (
            lambda ctx, x: (ctx.save_for_backward(x), x.sin())[1],
            lambda ctx, g: g * torch.cos(ctx.saved_tensors),
            1,
            "unpack it",
        ),
        (
            lambda ctx, a, b: (ctx.save_for_backward(a.sum(), b), a * b)[1],
            lambda ctx, g: (torch.mul(g, ctx.saved_tensors), g * ctx.saved_tensors[0]),
            2,
            "unpack it",
        ),
        (
            _saves(0, 1),
            lambda ctx, g: (g * ctx.saved_tensors[1], g * ctx.saved_tensors[0]),
            2,
            "call it once with all tensors",
        ),
        (
            lambda ctx, x: (ctx.save_for_backward(x), x**2)[1],
            _inner_without_grad_mode,
            1,
            "torch.enable_grad()",
        ),
    ],
)
def test_the_cure_of_an_exception_in_backward_was_tried(forward, backward, count, words):
    report = examine(function(forward, backward), *(sample(3) + i for i in range(count)))
    code, severity, text = first(report)
    assert (code, severity) == ("backward-raises", "error"), str(report)
    assert words in text
    assert "tried: backward then runs" in text


@pytest.mark.parametrize("kind", [list, lambda tensors: {"y": tensors[0]}])
def test_tensors_that_forward_returns_in_a_list_or_dict_have_no_gradient(kind):
    splits = function(lambda ctx, x: kind([x * 2, x * 3]), lambda ctx, *gs: sum(gs))
    code, _, text = first(examine(splits, sample(4)))
    assert code == "missing-gradient"
    assert "return a tuple of tensors (tried" in text


@pytest.mark.parametrize("shapes", [((3,), (3,)), ((4, 3), (3,)), ((2, 3), (3, 4))])
def test_exchanged_gradients_are_named(shapes):
    is_product = len(shapes[1]) == 2
    a, b = sample(*shapes[0]), sample(*shapes[1]) + 1

    def forward(ctx, a, b):
        ctx.save_for_backward(a, b)
        return a @ b if is_product else a * b

    def backward(ctx, g):
        a, b = ctx.saved_tensors
        da, db = (
            (g @ b.mT, a.mT @ g)
            if is_product
            else ((g * b).sum_to_size(a.shape), (g * a).sum_to_size(b.shape))
        )
        return db, da

    report = examine(function(forward, backward), a, b)
    assert "order of the gradients of a and b is reversed" in first(report)[2], str(report)
    assert not report.ok


def test_exchanged_gradients_are_named_behind_a_callable_and_for_one_needed_input():
    swapped = function(
        lambda ctx, a, b: (ctx.save_for_backward(a, b), a * b)[1],
        lambda ctx, g: (g * ctx.saved_tensors[0], g * ctx.saved_tensors[1]),
    )
    a, b = sample(4), sample(4) + 1
    report = examine(swapped, a.clone().requires_grad_(), b)
    assert "order of the gradients of a and b is reversed" in first(report)[2], str(report)
    report = examine(lambda a, b: 1 * swapped.apply(a, b), a, b)
    assert "order of the gradients of argument 0 and argument 1" in first(report)[2], str(report)


def test_a_missing_conjugate_is_not_called_a_missing_transpose():
    def convolve(ctx, x, w):
        ctx.save_for_backward(x, w)
        return torch.fft.irfft(torch.fft.rfft(x) * torch.fft.rfft(w), n=x.shape[-1])

    def backward(ctx, g):
        x, w = (torch.fft.rfft(t) for t in ctx.saved_tensors)
        return tuple(torch.fft.irfft(torch.fft.rfft(g) * t, n=g.shape[-1]) for t in (w, x))

    report = examine(function(convolve, backward), sample(8), sample(8) + 0.3)
    assert report.codes[0] == "wrong-gradient", str(report)
    assert "missing-transpose" not in text_of(report)
    assert "conjugate is missing" in first(report)[2]

    z = sample(4, dtype=torch.complex64)
    square = function(
        lambda ctx, z: (ctx.save_for_backward(z), z * z)[1], lambda ctx, g: 2 * g * ctx.saved_tensors[0]
    )
    assert "once the saved z is conjugated" in first(examine(square, z))[2]
    turned = function(lambda ctx, z: z * 1j, lambda ctx, g: g * 1j)
    assert (
        "conjugate" in first(examine(turned, z))[2]
        or examine(turned, z).codes[0] == "wrong-gradient-sign"
    )


def test_the_fix_for_an_intermediate_on_ctx_cures_the_second_derivative_too():
    def forward(ctx, x):
        ctx.y = x.sin()
        return ctx.y * x

    faulty = function(forward, lambda ctx, g: g * (ctx.y + ctx.y.acos()))
    (finding,) = [f for f in examine(faulty, sample(4)).findings if f.code == "saved-on-ctx"]
    assert "compute ctx.y from them in backward" in finding.fix


def test_a_backward_of_a_module_is_never_called():
    class Reversal(nn.Module):
        def forward(self, x):
            return x * 1

        def backward(self, g):
            return -g

    class Plain:
        def __call__(self, x):
            return x * 1

        backward = Reversal.backward

    class Trains(nn.Linear):
        def backward(self, loss):
            loss.backward()

    for subject in (Reversal(), nn.Sequential(nn.Linear(3, 3), Reversal()), Plain()):
        report = examine(subject, sample(2, 3))
        assert (report.codes, report.ok) == (("backward-never-called",), True), str(report)
    assert examine(Trains(3, 3), sample(2, 3)).codes == ()


# The user's objects


class Reversible(Function):
    @staticmethod
    def forward(ctx, x, module):
        ctx.save_for_backward(x)
        ctx.module = module
        with torch.no_grad():
            return module(x)

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        ctx.module.train()
        with torch.enable_grad():
            z = x.detach().requires_grad_()
            ctx.module(z).backward(g)
        return z.grad, None


def _a_network():
    network = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Dropout(0.5)).eval()
    network[0].weight.grad = torch.ones(3, 3)
    return network


NETWORK = _a_network()


@pytest.mark.parametrize("way", ["argument", "closure", "global", "module"])
def test_a_module_that_backward_trains_is_left_as_it_was(way):
    network = NETWORK if way == "global" else _a_network()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    random_state = torch.get_rng_state()
    if way == "argument":
        examine(Reversible, sample(4, 3), network)
    elif way == "closure":
        examine(lambda x: Reversible.apply(x, network), sample(4, 3))
    elif way == "global":
        examine(lambda x: Reversible.apply(x, NETWORK), sample(4, 3))
    else:
        wrapper = StatefulModule()
        wrapper.inner = network
        wrapper.forward = lambda x: Reversible.apply(x, network)
        examine(wrapper, sample(4, 3))
    assert torch.equal(network[0].weight.grad, torch.ones(3, 3))
    assert [p.grad for p in network.parameters()][1:] == [None] * 3
    assert not any(module.training for module in network.modules())
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random_state)


# One row


def test_a_batch_of_one_is_tried_if_forward_drops_the_batch_dim():
    def forward(ctx, x, w):
        ctx.save_for_backward(x, w)
        return (x @ w[:, None]).squeeze()

    def backward(ctx, g):
        x, w = ctx.saved_tensors
        return g[:, None] * w, x.t() @ g

    code, _, text = first(examine(function(forward, backward), sample(4, 3), sample(3)))
    assert code == "backward-raises"
    assert "a batch of 1" in text

    squeezed = function(
        lambda ctx, x: x.sum(1).squeeze(), lambda ctx, g: g.reshape(-1, 1).expand(-1, 3)
    )
    report = examine(squeezed, sample(4, 3))
    assert "forward returns shapes [()]" in text_of(report), str(report)


def test_forward_that_raises_on_one_row_is_reported():
    def forward(ctx, x):
        assert x.shape[0] > 1
        return x * 2

    code, _, text = first(examine(function(forward, lambda ctx, g: g * 2), sample(4, 3)))
    assert code == "forward-raises"
    assert "a batch of 1" in text
