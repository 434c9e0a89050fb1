"""Faults between the last layer and the loss are found in the first step, and right programs stay silent."""

import gc
import warnings
import weakref

import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 - as torch's documentation writes it

import gradscope
from gradscope.hooks import BackwardRootHook

N = 6


def classifier(*last):
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4), *last)


def regressor(*last):
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 1), *last)


def alive(model):
    """Let the output before the last ReLU be positive for all samples: dead units are a finding of their own."""
    nn.init.constant_(model[2].bias, 5.0)
    return model


def convolutional(*layers):
    return nn.Sequential(
        nn.Unflatten(1, (1, 8)),
        *layers,
        nn.ReLU(),
        nn.AdaptiveMaxPool1d(2),
        nn.Flatten(),
        nn.Linear(8, 4),
    )


def classes():
    return torch.arange(N) % 4


def values():
    return torch.linspace(-1, 1, N)


def train(model, loss_of, steps=3, features=8):
    """Return the findings by code, without those of the wiring."""
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    with (
        warnings.catch_warnings(),
        gradscope.attach(model, every=1, hub=None, record=False, quiet=True) as scope,
    ):
        warnings.simplefilter("ignore")  # PyTorch warns about shapes that differ, in some losses
        for _ in range(steps):
            optimizer.zero_grad()
            loss_of(model(torch.randn(N, features))).backward()
            optimizer.step()
        assert scope.faults == {}
        return {finding.code: finding for finding in scope.findings}


FAULTS = {
    "softmax before cross entropy": (
        classifier(nn.Softmax(-1)), lambda out: F.cross_entropy(out, classes()), "double-softmax", "3",
    ),
    "softmax before cross entropy with soft labels": (
        classifier(nn.Softmax(-1)), lambda out: F.cross_entropy(out, torch.full((N, 4), 0.25)),
        "double-softmax", "3",
    ),
    "sigmoid before the with-logits loss": (
        regressor(nn.Sigmoid()),
        lambda out: F.binary_cross_entropy_with_logits(out.squeeze(1), (values() > 0).float()),
        "double-softmax", "3",
    ),
    "log_softmax over the batch": (
        classifier(nn.LogSoftmax(0)), lambda out: F.nll_loss(out, classes()), "wrong-softmax-dim", "3",
    ),
    "softmax over the batch before a loss by hand": (
        classifier(nn.Softmax(0)),
        lambda out: -out.clamp_min(1e-9).log().gather(1, classes()[:, None]).mean(),
        "wrong-softmax-dim", "3",
    ),
    "mse_loss of (N, 1) and (N,)": (
        regressor(), lambda out: F.mse_loss(out, values()), "loss-broadcast", "2",
    ),
    "l1_loss of (N, 1) and (N,)": (
        regressor(), lambda out: F.l1_loss(out, values()), "loss-broadcast", "2",
    ),
    "huber_loss of (N, 1) and (N,)": (
        regressor(), lambda out: F.huber_loss(out, values()), "loss-broadcast", "2",
    ),
    "a squared difference of (N, 1) and (N,)": (
        regressor(), lambda out: ((out - values()) ** 2).mean(), "loss-broadcast", "2",
    ),
    "an absolute difference of (N,) and (N, 1)": (
        regressor(nn.Flatten(0)), lambda out: (values()[:, None] - out).abs().mean(),
        "loss-broadcast", "2",
    ),
    "ReLU before cross entropy": (
        alive(classifier(nn.ReLU())), lambda out: F.cross_entropy(out, classes()), "relu-at-output", "3",
    ),
    "ReLU before the with-logits loss": (
        alive(regressor(nn.ReLU())),
        lambda out: F.binary_cross_entropy_with_logits(out.squeeze(1), (values() > 0).float()),
        "relu-at-output", "3",
    ),
    "two linear layers": (
        nn.Sequential(nn.Linear(8, 16), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 4)),
        lambda out: F.cross_entropy(out, classes()), "linear-chain", "0",
    ),
    "two linear layers with dropout between them": (
        nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 16), nn.Dropout(0.1), nn.Linear(16, 4)),
        lambda out: F.cross_entropy(out, classes()), "linear-chain", "2",
    ),
    "two convolutions": (
        convolutional(nn.Conv1d(1, 4, 3), nn.Conv1d(4, 4, 3)),
        lambda out: F.cross_entropy(out, classes()), "linear-chain", "1",
    ),
    "two convolutions with BatchNorm between them": (
        convolutional(nn.Conv1d(1, 4, 3), nn.BatchNorm1d(4), nn.Conv1d(4, 4, 3)),
        lambda out: F.cross_entropy(out, classes()), "linear-chain", "1",
    ),
    "a convolution directly before a linear layer": (
        nn.Sequential(nn.Unflatten(1, (1, 8)), nn.Conv1d(1, 4, 3), nn.Flatten(), nn.Linear(24, 4)),
        lambda out: F.cross_entropy(out, classes()), "linear-chain", "1",
    ),
    "a part of the loss as a number": (
        classifier(), lambda out: F.cross_entropy(out, classes()) + 0.1 * out.square().mean().item(),
        "detached-loss-part", None,
    ),
    "a part of the loss that is detached": (
        classifier(), lambda out: out.square().mean().detach() + F.cross_entropy(out, classes()),
        "detached-loss-part", None,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_found_in_the_first_step_with_its_layer(name):
    model, loss_of, code, layer = FAULTS[name]
    found = train(model, loss_of)
    assert set(found) == {code}
    assert found[code].severity != "hint"
    assert next(iter(found[code].layers), None) == layer
    assert found[code].found_step == 0


class Attention(nn.Module):
    """A transformer block with a classifier: softmax over keys inside, residual connections."""

    def __init__(self):
        super().__init__()
        self.project = nn.Linear(8, 8 * 4)
        self.block = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.head = nn.Linear(8, 4)

    def forward(self, x):
        return self.head(self.block(self.project(x).view(len(x), 4, 8)).mean(1))


class LoRA(nn.Module):
    def __init__(self):
        super().__init__()
        self.base = nn.Linear(8, 16).requires_grad_(False)
        self.down, self.up = nn.Linear(8, 2, bias=False), nn.Linear(2, 16, bias=False)
        self.head = nn.Linear(16, 4)

    def forward(self, x):
        return self.head(F.relu(self.base(x) + self.up(self.down(x))))


class ResidualStream(nn.Module):
    """The first linear layer feeds a branch and the connection around it."""

    def __init__(self):
        super().__init__()
        self.stem, self.inner, self.outer = nn.Linear(8, 16), nn.Linear(16, 16), nn.Linear(16, 16)
        self.head = nn.Sequential(nn.ReLU(), nn.Linear(16, 4))

    def forward(self, x):
        x = self.stem(x)
        return self.head(x + self.outer(F.relu(self.inner(x))))


class LowRankHead(nn.Module):
    """LoRA by matrix products, with a rank above the number of classes."""

    def __init__(self):
        super().__init__()
        self.base = nn.Linear(8, 16)
        self.head = nn.Linear(16, 3)
        self.down, self.up = nn.Parameter(torch.randn(4, 16) / 4), nn.Parameter(torch.zeros(3, 4))

    def forward(self, x):
        hidden = F.relu(self.base(x))
        return self.head(hidden) + hidden @ self.down.T @ self.up.T


class InstancePool(nn.Module):
    """Attention over the instances of one bag: softmax over dimension 0 is right."""

    def __init__(self):
        super().__init__()
        self.score, self.head = nn.Linear(8, 1), nn.Linear(8, 1)

    def forward(self, x):
        weights = torch.softmax(self.score(x), dim=0)
        return self.head((weights * x).sum(0, keepdim=True))


SOUND = {
    "logits and cross entropy": (classifier(), lambda out: F.cross_entropy(out, classes())),
    "log_softmax and nll_loss": (classifier(nn.LogSoftmax(-1)), lambda out: F.nll_loss(out, classes())),
    "log_softmax and cross entropy": (
        classifier(nn.LogSoftmax(-1)), lambda out: F.cross_entropy(out, classes()),
    ),
    "sigmoid and binary_cross_entropy": (
        regressor(nn.Sigmoid(), nn.Flatten(0)),
        lambda out: F.binary_cross_entropy(out, (values() > 0).float()),
    ),
    "mse_loss of equal shapes": (regressor(), lambda out: F.mse_loss(out, values()[:, None])),
    "a squared difference of equal shapes": (
        regressor(), lambda out: (out.squeeze(1) - values()).square().mean(),
    ),
    "a mean of the targets subtracted": (regressor(), lambda out: (out - values().mean()).square().mean()),
    "pairwise distances of the outputs": (
        regressor(), lambda out: (out - out.squeeze(1)).square().mean(),
    ),
    "distances to prototypes": (
        classifier(), lambda out: (out[:, None, :] - torch.randn(3, 4)).square().sum(-1).min(1)[0].mean(),
    ),
    "contrastive loss over the batch": (
        classifier(),
        lambda out: F.cross_entropy(out @ out.T, torch.arange(N))
        + F.cross_entropy((out @ out.T).T, torch.arange(N)),
    ),
    "distillation": (
        classifier(),
        lambda out: F.kl_div(F.log_softmax(out, -1), torch.full((N, 4), 0.25), reduction="batchmean"),
    ),
    "attention": (Attention(), lambda out: F.cross_entropy(out, classes())),
    "LoRA": (LoRA(), lambda out: F.cross_entropy(out, classes())),
    "LoRA with a rank above the number of classes": (
        LowRankHead(), lambda out: F.cross_entropy(out, classes() % 3),
    ),
    "a residual stream": (ResidualStream(), lambda out: F.cross_entropy(out, classes())),
    "attention over instances": (
        InstancePool(), lambda out: F.binary_cross_entropy_with_logits(out, torch.ones(1, 1)),
    ),
    "depthwise separable convolutions": (
        convolutional(nn.Conv1d(1, 4, 3), nn.ReLU(), nn.Conv1d(4, 4, 3, groups=4), nn.Conv1d(4, 4, 3)),
        lambda out: F.cross_entropy(out, classes()),
    ),
    "a transposed convolution before a convolution": (
        convolutional(nn.ConvTranspose1d(1, 4, 3), nn.Conv1d(4, 4, 3)),
        lambda out: F.cross_entropy(out, classes()),
    ),
    "losses that are added from zero on": (
        classifier(), lambda out: sum([F.cross_entropy(out, classes()), out.square().mean()]),
    ),
    "a bottleneck of linear layers": (
        nn.Sequential(nn.Linear(8, 2), nn.Linear(2, 8)), lambda out: out.square().mean(),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SOUND)
def test_a_right_program_stays_silent(name):
    model, loss_of = SOUND[name]
    assert {code: f.message for code, f in train(model, loss_of).items() if f.severity != "hint"} == {}


HINTS = {
    "a convolution of one pixel": (
        convolutional(nn.Conv1d(1, 4, 3), nn.Conv1d(4, 4, 1)),
        lambda out: F.cross_entropy(out, classes()), "linear-chain",
    ),
    "BatchNorm without weights": (
        nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8, affine=False), nn.Linear(8, 4)),
        lambda out: F.cross_entropy(out, classes()), "linear-chain",
    ),
    "a constant in the loss": (
        classifier(), lambda out: F.cross_entropy(out, classes()) + 1e-6, "detached-loss-part",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", HINTS)
def test_what_programs_also_do_on_purpose_is_a_hint(name):
    model, loss_of, code = HINTS[name]
    found = train(model, loss_of)
    assert {each.code: each.severity for each in found.values()} == {code: "hint"}


def test_a_relu_before_a_squared_error_is_a_hint():
    found = train(alive(regressor(nn.ReLU())), lambda out: F.mse_loss(out, values()[:, None]))
    assert found["relu-at-output"].severity == "hint"


def test_the_graph_is_not_kept():
    model = classifier()
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    with gradscope.attach(model, every=1, hub=None, record=False, quiet=True):
        loss = F.cross_entropy(model(torch.randn(N, 8)), classes())
        output = weakref.ref(loss)
        node = loss.grad_fn
        ended = []
        node.metadata["canary"] = _Canary(ended)
        del node
        loss.backward()
        optimizer.step()
        del loss
        gc.collect()
        assert output() is None
        assert ended == ["gone"]


class _Canary:
    """Notes when the graph node that holds it is freed."""

    def __init__(self, ended):
        self._ended = ended

    def __del__(self):
        self._ended.append("gone")


def test_backward_is_torchs_own_again_after_the_first_steps():
    original = torch.autograd.backward
    train(classifier(), lambda out: F.cross_entropy(out, classes()), steps=6)
    assert torch.autograd.backward is original


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_two_hooks_leave_torchs_own_backward_in_whichever_order_they_are_removed(order):
    original = torch.autograd.backward
    calls = []
    hooks = [BackwardRootHook(lambda _: calls.append(0)), BackwardRootHook(lambda _: calls.append(1))]
    for hook in hooks:
        hook.install()
    torch.ones(1, requires_grad=True).sum().backward()
    assert calls == [0, 1]
    for position in order:
        hooks[position].remove()
    assert torch.autograd.backward is original


def test_all_arguments_that_backward_takes_give_the_same_gradients():
    x = torch.ones(3, requires_grad=True)
    arguments = (
        x.sum,
        lambda: [x.sum(), (2 * x).sum()],
        lambda: (each for each in (x.sum(), (2 * x).sum())),
        lambda: torch.autograd.graph.get_gradient_edge(x.sum()),
    )
    hook = BackwardRootHook(lambda _: None)
    for make in arguments:
        gradients = []
        for is_hooked in (False, True):
            x.grad = None
            if is_hooked:
                hook.install()
            grads = (torch.ones(()),) if hasattr(make(), "node") else None
            torch.autograd.backward(make(), grads)
            hook.remove()
            gradients.append(x.grad)
        assert torch.equal(*gradients)


def test_a_function_that_the_script_has_put_in_place_of_backward_stays():
    original = torch.autograd.backward
    calls = []
    hook = BackwardRootHook(calls.append)
    hook.install()
    installed = torch.autograd.backward

    def theirs(tensors, *args, **kwargs):
        return installed(tensors, *args, **kwargs)

    torch.autograd.backward = theirs
    try:
        hook.remove()
        assert torch.autograd.backward is theirs
        x = torch.ones(1, requires_grad=True)
        x.sum().backward()
        assert x.grad == 1
        assert calls == []
    finally:
        torch.autograd.backward = original


def test_an_error_of_backward_reaches_the_script():
    model = classifier()
    with gradscope.attach(model, every=1, hub=None, record=False, quiet=True):
        loss = model(torch.randn(N, 8)).sum()
        loss.backward()
        with pytest.raises(RuntimeError, match="backward through the graph a second time"):
            loss.backward()


def test_a_relu_at_the_output_explains_an_output_of_zeros():
    model = regressor(nn.ReLU())
    nn.init.constant_(model[2].bias, -9.0)
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    with gradscope.attach(model, every=1, hub=None, record=False, quiet=True) as scope:
        for _ in range(5):
            optimizer.zero_grad()
            out = model(torch.randn(N, 8)).squeeze(1)
            F.binary_cross_entropy_with_logits(out, (values() > 0).float()).backward()
            optimizer.step()
        verdict = scope.diagnose()
    assert [each.code for each in verdict.findings] == ["relu-at-output"]
    assert [each.code for each in verdict.consequences[0]] == ["dead-units"]
