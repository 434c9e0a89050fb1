"""What is special about a site: keywords, in-place modules, loss scales, closures, sparse gradients."""

import copy

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import gradscope
from gradscope.errors import UsageError
from support.hooks import finish_first_checks, hooks_seen_by_layers
from support.models import make_deep_model

X = torch.randn(7, 4, generator=torch.Generator().manual_seed(5))


def gradients(model, x=X):
    model.zero_grad()
    model(x).square().sum().backward()
    model = getattr(model, "_orig_mod", model)
    return {name: p.grad.clone() for name, p in model.named_parameters()}


class Pair(nn.Module):
    """Takes a tensor by keyword, and others nested."""

    def forward(self, first, *, second, more):
        return first * 2 + second * 3 + more["a"][0] * 5


class TakesAll(nn.Module):
    def __init__(self):
        super().__init__()
        self.before, self.pair = nn.Linear(4, 4), Pair()

    def forward(self, x):
        h = self.before(x)
        return self.pair(h, second=h.sin(), more={"a": [h.cos(), 7, None]})


def test_at_the_input_keyword_and_nested_tensors_are_changed_as_positional_ones_are():
    torch.manual_seed(0)
    model = TakesAll()
    control = gradients(copy.deepcopy(model))
    with gradscope.attach(model, hub=None, quiet=True) as scope, scope.reverse("pair", site="input"):
        got = gradients(model)
    assert all(torch.equal(got[name], -control[name]) for name in control)


def test_at_the_input_a_modules_copy_and_removal_leave_no_trace():
    model = make_deep_model()
    with gradscope.attach(model, every=1000, hub=None, quiet=True) as scope:
        with scope.reverse("2", site="input"):
            twin = copy.deepcopy(model)
            control = gradients(make_deep_model())
            assert torch.equal(gradients(twin)["0.weight"], control["0.weight"])
            assert torch.equal(gradients(model)["0.weight"], -control["0.weight"])
        finish_first_checks(scope, model, X)
        assert hooks_seen_by_layers(model, X) == []
        assert not model[2]._forward_pre_hooks_with_kwargs


@pytest.mark.parametrize(
    "module",
    [nn.ReLU(inplace=True), nn.Sequential(nn.SiLU(inplace=True)), nn.Dropout(0.1, inplace=True)],
)
def test_an_in_place_module_is_refused_at_its_input_with_the_reason(module):
    model = nn.Sequential(nn.Linear(4, 4), module)
    with gradscope.attach(model, hub=None, quiet=True) as scope:
        for call in (
            lambda: scope.scale("1", factor=2.0, site="input"),
            lambda: scope.straight_through("1"),
        ):
            with pytest.raises(UsageError, match="1 writes into its input in place"):
                call()
        assert scope.interventions == ()


class Writes(nn.Module):
    def forward(self, x):
        return x.mul_(2)


def test_a_layer_found_to_write_into_its_input_is_taken_off_with_the_reason(caplog):
    model = nn.Sequential(nn.Linear(4, 4), Writes())
    with gradscope.attach(model, hub=None, quiet=True) as scope:
        intervention = scope.scale("1", factor=2.0, site="input")
        model(X).sum().backward()
        scope.mark_step()
        assert "writes into its input in place" in intervention.failure
        assert intervention.is_removed
    assert "was removed" in caplog.text


def test_a_forward_that_fails_leaves_nothing_in_the_way_of_the_next():
    model = make_deep_model()
    control = gradients(make_deep_model())
    with gradscope.attach(model, hub=None, quiet=True) as scope:
        scope.reverse("2", site="input")
        for _ in range(3):
            with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
                model[2](torch.ones(3, 4))
        assert torch.equal(gradients(model)["0.weight"], -control["0.weight"])
        scope.mark_step()
        (slot,) = [slot for _, slot in scope._engine.tracker.slots.with_inputs()]
        assert slot.calls == []
        assert torch.equal(gradients(model)["0.weight"], -control["0.weight"])
        assert not scope.faults


def test_parameters_of_a_container_are_changed_once_each_and_shared_ones_too():
    model = make_deep_model()
    model[4].weight = nn.Parameter(torch.randn(2, 6))
    model.add_module("again", nn.Identity())
    model[5].weight = model[2].weight
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    control = gradients(model)
    with gradscope.attach(model, optimizer, hub=None, quiet=True) as scope:
        scope.reverse(["", "2"], site="params")
        gradients(model)
        optimizer.step()
    for name, p in model.named_parameters():
        assert torch.equal(p.grad, -control[name]), name


def test_the_optimizer_is_given_the_changed_gradient_and_it_stays_so():
    model, twin = make_deep_model(), make_deep_model()
    optimizer, by_hand = (torch.optim.SGD(m.parameters(), lr=0.1) for m in (model, twin))
    gradients(twin)
    for p in twin[2].parameters():
        p.grad.mul_(3.0)
    by_hand.step()
    with gradscope.attach(model, optimizer, every=1, hub=None, quiet=True) as scope:
        scope.scale("2", factor=3.0, site="params")
        gradients(model)
        places = [p.grad.data_ptr() for p in model.parameters()]
        optimizer.step()
        rows = scope.latest()["2"]
        assert [p.grad.data_ptr() for p in model.parameters()] == places
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(p, q)
        assert torch.equal(p.grad, q.grad)
    assert rows["param_grad"].norm == pytest.approx(3 * rows["param_grad_arriving"].norm, rel=1e-6)
    assert rows["param_grad.weight"].norm == pytest.approx(
        3 * rows["param_grad_arriving.weight"].norm, rel=1e-6
    )


@pytest.mark.parametrize("per", ["tensor", "layer", "all"])
def test_a_clip_at_the_parameters_takes_as_one_what_per_says(per):
    model = make_deep_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    control = gradients(model)
    with gradscope.attach(model, optimizer, hub=None, quiet=True) as scope:
        scope.clip(["0", "2"], max_norm=0.01, per=per, site="params")
        gradients(model)
        optimizer.step()
    chosen = [n for n in control if n[0] in "02"]
    groups = {
        "tensor": [[n] for n in chosen],
        "layer": [[n for n in chosen if n[0] == i] for i in "02"],
        "all": [chosen],
    }[per]
    got = dict(model.named_parameters())
    for group in groups:
        norm = sum(control[n].double().square().sum() for n in group).sqrt()
        for n in group:
            torch.testing.assert_close(
                got[n].grad, (control[n].double() * 0.01 / norm).float(), rtol=2e-6, atol=0
            )
    assert torch.equal(got["4.weight"].grad, control["4.weight"])


def test_a_clip_per_layer_at_the_output_takes_all_outputs_as_one():
    torch.manual_seed(0)
    model = nn.LSTM(3, 4)
    x = torch.randn(5, 2, 3, requires_grad=True)

    def arriving():
        out, (h, c) = model(x)
        seen = []
        for tensor in (out, h, c):
            tensor.register_hook(seen.append)
        (out.sum() + 2 * h.sum() + 3 * c.sum()).backward()
        return seen

    full = sum(g.double().square().sum() for g in arriving()).sqrt().item()
    grad = x.grad.clone()
    x.grad = None
    with gradscope.attach(model, hub=None, quiet=True) as scope:
        scope.clip("", max_norm=full / 4, per="layer")
        out, (h, c) = model(x)
        (out.sum() + 2 * h.sum() + 3 * c.sum()).backward()
    torch.testing.assert_close(x.grad, grad / 4)


def fused_adam(model):
    return torch.optim.AdamW(model.parameters(), lr=0.1, fused=True)


def plain_sgd(model):
    return torch.optim.SGD(model.parameters(), lr=0.1)


@pytest.mark.parametrize("make_optimizer", [plain_sgd, fused_adam])
@pytest.mark.parametrize("site", ["params", "output", "input"])
def test_under_a_loss_scale_a_clip_means_true_norms(site, make_optimizer):
    def run(scale):
        model = make_deep_model()
        optimizer = make_optimizer(model)
        scaler = torch.amp.GradScaler("cpu", init_scale=scale, enabled=scale != 1.0)
        with gradscope.attach(model, optimizer, scaler=scaler, every=1, hub=None, quiet=True) as scope:
            scope.clip("2", max_norm=0.01, site=site)
            scaler.scale(model(X).square().sum()).backward()
            scaler.step(optimizer)
            scaler.update()
            assert not scope.faults
            assert scope.latest()["0"]["param_grad"].norm < 0.1 or site == "params"
        return [p.detach() for p in model.parameters()]

    for got, expected in zip(run(2.0**14), run(1.0), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-8)


def test_with_lbfgs_each_evaluation_is_changed():
    def run(change, attach):
        model = make_deep_model()
        optimizer = torch.optim.LBFGS(model.parameters(), max_iter=4)

        def closure():
            optimizer.zero_grad()
            loss = model(X).square().sum()
            loss.backward()
            change(model)
            return loss

        with attach(model, optimizer):
            optimizer.step(closure)
        return [p.detach() for p in model.parameters()]

    def by_hand(model):
        for p in model.parameters():
            p.grad.mul_(0.5)

    class Scaled:
        def __init__(self, model, optimizer):
            self.scope = gradscope.attach(model, optimizer, every=2, hub=None, quiet=True)
            self.scope.scale("", factor=0.5, site="params")

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.scope.detach()

    class Bare:
        def __init__(self, *_):
            pass

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

    for got, expected in zip(run(lambda m: None, Scaled), run(by_hand, Bare), strict=True):
        assert torch.equal(got, expected)


def test_a_sparse_gradient_is_changed_in_the_rows_it_has():
    torch.manual_seed(0)
    model = nn.EmbeddingBag(9, 3, sparse=True, mode="sum")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    ids, offsets = torch.tensor([1, 3, 3, 8]), torch.tensor([0, 2])

    def run():
        model.zero_grad()
        (model(ids, offsets) * torch.arange(6.0).view(2, 3)).sum().backward()
        optimizer.step()
        return model.weight.grad.to_dense()

    control = run()
    with gradscope.attach(model, optimizer, hub=None, quiet=True) as scope:
        with scope.clamp("", limit=2.0, site="params"):
            clamped = run()
            assert model.weight.grad.is_sparse
        with scope.clip("", max_norm=1.0, site="params"):
            clipped = run()
        assert not scope.faults
    assert torch.equal(clamped, control.clamp(-2.0, 2.0))
    torch.testing.assert_close(clipped, control / control.norm())


def test_a_layer_without_a_gradient_is_refused_at_the_parameters():
    model = make_deep_model()
    model[2].requires_grad_(False)
    with gradscope.attach(model, hub=None, quiet=True) as scope:
        for layer in ("1", "2"):
            with pytest.raises(UsageError, match=f"{layer} has no trainable parameters"):
                scope.scale(layer, factor=2.0, site="params")


def test_straight_through_passes_the_gradient_by_the_layer_and_the_layer_gets_zeros():
    class Rounds(nn.Module):
        def __init__(self):
            super().__init__()
            self.gain = nn.Parameter(torch.ones(()))

        def forward(self, x):
            return (x * self.gain * 4).round() / 4

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), Rounds(), nn.Linear(5, 2))
    control = gradients(copy.deepcopy(model))
    assert not control["0.weight"].any()
    with gradscope.attach(model, hub=None, quiet=True) as scope, scope.straight_through("1"):
        got = gradients(model)
    h = model[0](X)
    rounded = ((h.detach() * 4).round() / 4).requires_grad_()
    model[2](rounded).square().sum().backward()
    (expected,) = torch.autograd.grad(h, model[0].weight, rounded.grad)
    assert torch.equal(got["0.weight"], expected)
    assert torch.equal(got["2.weight"], control["2.weight"])
    assert got["1.gain"].item() == 0.0


ACTIVATIONS = {
    "scale": (lambda s, site: s.scale_activation("2", factor=0.5, site=site), lambda v: v * 0.5),
    "clamp": (
        lambda s, site: s.clamp_activation("2", limit=0.2, site=site),
        lambda v: v.clamp(-0.2, 0.2),
    ),
    "zero": (lambda s, site: s.zero_activation("2", site=site), lambda v: v * 0.0),
    "round": (
        lambda s, site: s.round_activation("2", dtype="bfloat16", site=site),
        lambda v: v + (v.bfloat16().float() - v).detach(),
    ),
}


@pytest.mark.parametrize("site", ["output", "input"])
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_an_activation_is_changed_and_the_gradient_is_autograds_of_that(name, site):
    install, change = ACTIVATIONS[name]
    model, twin = make_deep_model(), make_deep_model()
    if site == "output":
        twin[2].register_forward_hook(lambda _m, _a, out: change(out))
    else:
        twin[2].register_forward_pre_hook(lambda _m, args: change(args[0]))
    with gradscope.attach(model, hub=None, quiet=True) as scope, install(scope, site):
        torch.testing.assert_close(model(X), twin(X), rtol=1e-6, atol=1e-7)
        with torch.no_grad():  # in evaluation too
            torch.testing.assert_close(model(X), twin(X), rtol=1e-6, atol=1e-7)
        got, expected = gradients(model), gradients(twin)
    for key in got:
        torch.testing.assert_close(got[key], expected[key], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float8_e4m3fn", "float8_e5m2"])
def test_rounding_gives_the_values_of_the_lower_precision_in_the_tensors_own(dtype):
    model = make_deep_model()
    with gradscope.attach(model, hub=None, quiet=True) as scope:
        plain = model[2](model[:2](X))
        scope.mark_step()
        with scope.round_activation("2", dtype=dtype):
            got = model[2](model[:2](X))
    assert torch.equal(got, plain.to(getattr(torch, dtype)).float())
    assert got.dtype is torch.float32


@pytest.mark.parametrize("reentrant", [True, False])
def test_noise_on_an_activation_is_the_same_when_checkpointing_computes_again(reentrant):
    class Checkpointed(nn.Module):
        def __init__(self, *, is_checkpointed):
            super().__init__()
            torch.manual_seed(0)
            self.a, self.b, self.c = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)
            self.is_checkpointed = is_checkpointed

        def block(self, x):
            return self.b(self.a(x).tanh()).tanh()

        def forward(self, x):
            for _ in range(3):
                x = (
                    checkpoint(self.block, x, use_reentrant=reentrant)
                    if self.is_checkpointed
                    else self.block(x)
                )
            return self.c(x)

    results = []
    for is_checkpointed in (False, True):
        model = Checkpointed(is_checkpointed=is_checkpointed)
        state = torch.get_rng_state()
        with gradscope.attach(model, hub=None, quiet=True) as scope:
            scope.noise_activation("a", std=0.5, seed=3)
            results.append(gradients(model, X.clone().requires_grad_()))
        assert torch.equal(torch.get_rng_state(), state)
    for name, expected in results[0].items():
        torch.testing.assert_close(results[1][name], expected, rtol=1e-5, atol=1e-6)


def test_noise_relative_to_the_gradient_grows_with_it():
    added = []
    for size in (1.0, 1000.0):
        model = make_deep_model()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
        with gradscope.attach(model, optimizer, hub=None, quiet=True) as scope:
            scope.noise("2", std=0.1, seed=3, relative=True, site="params")
            (model(X).square().sum() * size).backward()
            before = model[2].weight.grad.clone()
            optimizer.step()
            added.append((model[2].weight.grad - before) / size)
    torch.testing.assert_close(added[0], added[1], rtol=1e-3, atol=1e-5)


@pytest.fixture
def dynamo():
    """Dynamo as if it had not been used, before and after."""
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
@pytest.mark.parametrize("site", ["output", "input"])
def test_in_a_compiled_model_it_acts_as_in_an_eager_one_and_the_graph_is_back_afterwards(site, dynamo):
    model = make_deep_model()
    control = gradients(make_deep_model())
    ran = []
    compiled = torch.compile(
        model, backend=lambda graph, _: lambda *a: ran.append(1) or graph.forward(*a)
    )
    with gradscope.attach(model, every=100, hub=None, quiet=True) as scope:
        gradients(compiled)
        scope.mark_step()
        assert torch.equal(gradients(compiled)["2.weight"], control["2.weight"])
        scope.mark_step()
        count = len(ran)
        assert count
        intervention = scope.reverse("2", site=site)
        assert torch.equal(gradients(compiled)["0.weight"], -control["0.weight"])
        assert len(ran) == count
        intervention.remove()
        scope.mark_step()
        assert torch.equal(gradients(compiled)["2.weight"], control["2.weight"])
        assert len(ran) > count
        assert not scope.faults
    assert torch._dynamo.eval_frame._stance.stance == "default"


def test_neutral_values_are_bitwise_neutral_at_output_and_parameters_over_many_steps():
    def train(install):
        torch.manual_seed(0)
        model = make_deep_model()
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        with gradscope.attach(model, optimizer, every=2, hub=None, quiet=True) as scope:
            install(scope)
            for i in range(20):
                optimizer.zero_grad()
                model(X + i).square().mean().backward()
                optimizer.step()
            assert not scope.faults
        return [p.detach().clone() for p in model.parameters()]

    def neutral(scope):
        for site in ("output", "params"):
            scope.scale("", factor=1.0, site=site)
            scope.scale(["0", "1", "3"], factor=1.0, site="output")
            scope.clip("2", max_norm=float("inf"), site=site)
            scope.clamp("4", limit=float("inf"), site=site)
            scope.noise("4", std=0.0, site=site)
            scope.replace_nonfinite("0", site=site)

    def removed(scope):
        for site in ("output", "input", "params"):
            scope.reverse("", site=site).remove()

    bare = train(lambda scope: None)
    for other in (neutral, removed):
        assert all(torch.equal(a, b) for a, b in zip(bare, train(other), strict=True))
