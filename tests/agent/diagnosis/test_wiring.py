"""Faults of the wiring are found in real trainings, and programs that are right stay silent."""

import copy

import pytest
import torch
from torch import nn

import gradscope
from gradscope.hooks import parameters_of

pytestmark = pytest.mark.slow

STEPS = 6


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(20, 8)
        self.block = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.1))
        self.unused = nn.Linear(8, 8)
        self.head = nn.Linear(8, 4)

    def forward(self, x):
        return self.head(self.block(self.embed(x).mean(1)))


def train(model, optimizers, *, steps=STEPS, batch=16, zero_grad=True, each=None, **options):
    """Train with gradscope; return the findings by code."""
    torch.manual_seed(0)
    with gradscope.attach(model, every=1, hub=None, record=False, quiet=True, **options) as scope:
        for step in range(steps):
            if each is not None:
                each(step)
            if zero_grad:
                for optimizer in optimizers:
                    optimizer.zero_grad()
            x, y = torch.randint(0, 20, (batch, 5)), torch.randint(0, 4, (batch,))
            nn.functional.cross_entropy(model(x), y).backward()
            for optimizer in optimizers:
                optimizer.step()
        assert scope.faults == {}
        return {finding.code: finding for finding in scope.findings}


def adam(parameters):
    return torch.optim.Adam(parameters, 1e-3)


def test_a_layer_that_no_optimizer_holds_is_named_in_the_third_step():
    model = Net()
    held = [p for name, p in model.named_parameters() if not name.startswith("head")]
    found = train(model, [adam(held)])
    assert set(found) == {"not-in-optimizer"}
    assert found["not-in-optimizer"].layers == ("head",)
    assert found["not-in-optimizer"].severity == "warning"
    assert found["not-in-optimizer"].found_step == 2
    assert found["not-in-optimizer"].evidence["parameters"] == 8 * 4 + 4


def test_an_optimizer_that_steps_every_fourth_step_holds_its_parameters():
    model = Net()
    head, rest = (
        adam(model.head.parameters()),
        adam([*model.embed.parameters(), *model.block.parameters()]),
    )
    with gradscope.attach(model, rest, every=1, hub=None, record=False, quiet=True) as scope:
        for step in range(8):
            rest.zero_grad()
            head.zero_grad()
            model(torch.randint(0, 20, (16, 5))).square().mean().backward()
            if step % 4 == 3:
                head.step()
            rest.step()
        assert scope.findings == ()


def test_a_trained_head_on_a_backbone_that_was_left_out_is_a_hint():
    model = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 4))
    optimizer = adam(model[4].parameters())
    with gradscope.attach(model, every=1, hub=None, record=False, quiet=True) as scope:
        for _ in range(STEPS):
            optimizer.zero_grad()
            model(torch.randn(8, 8)).square().mean().backward()
            optimizer.step()
        assert [(each.code, each.severity) for each in scope.findings] == [("not-in-optimizer", "hint")]


def test_a_layer_replaced_after_the_optimizer_was_made_is_found_with_its_cause():
    model = Net()
    optimizer = adam(model.parameters())
    model.head = nn.Linear(8, 4)
    found = train(model, [optimizer])
    assert set(found) == {"stale-optimizer", "not-in-optimizer"}
    assert found["stale-optimizer"].layers == ("head",)
    assert found["stale-optimizer"].evidence["tensors_not_in_model"] == 2


def test_an_optimizer_over_two_models_is_right():
    model, other = Net(), nn.Linear(8, 4)
    assert train(model, [adam([*model.parameters(), *other.parameters()])]) == {}


def test_an_optimizer_of_a_copied_model_is_found_although_no_step_ends():
    model = Net()
    optimizer = adam(model.parameters())
    found = train(copy.deepcopy(model), [optimizer], steps=70)
    assert set(found) == {"stale-optimizer"}
    assert found["stale-optimizer"].layers[0] == "embed"


def train_copies(steps, *, is_written, is_named, near=1.0):
    """Train float32 copies of a bf16 model; return the findings by code. near: the copies are this times the model."""
    model = Net().bfloat16()
    copies = [(near * p.detach()).float().requires_grad_() for p in model.parameters()]
    optimizer = adam(copies)
    named = [optimizer] if is_named else []
    with gradscope.attach(model, *named, every=1, hub=None, record=False, quiet=True) as scope:
        for _ in range(steps):
            model.zero_grad()
            model(torch.randint(0, 20, (16, 5))).float().square().mean().backward()
            for copied, p in zip(copies, model.parameters(), strict=True):
                copied.grad = None if p.grad is None else p.grad.float()
            optimizer.step()
            with torch.no_grad():
                for copied, p in zip(copies if is_written else [], model.parameters(), strict=False):
                    p.copy_(copied)
        assert scope.faults == {}
        return {finding.code: finding for finding in scope.findings}


@pytest.mark.parametrize("is_named", [True, False])
def test_float32_copies_that_are_not_written_back_are_found(is_named):
    found = train_copies(10, is_written=False, is_named=is_named)
    assert set(found) == {"stale-optimizer"}
    assert "never written back" in found["stale-optimizer"].message
    assert found["stale-optimizer"].found_step == (2 if is_named else 0)


@pytest.mark.parametrize("is_named", [True, False])
def test_float32_copies_that_train_a_model_are_right(is_named):
    assert train_copies(10, is_written=True, is_named=is_named) == {}


def test_another_model_of_the_same_shapes_is_not_taken_for_a_copy():
    assert train_copies(10, is_written=False, is_named=True, near=-1.0) == {}


class Listed(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers, self.head = [nn.Linear(8, 8), nn.Linear(8, 8)], nn.Linear(8, 4)

    def forward(self, x):
        x = nn.functional.one_hot(x, 20)[..., :8].float().mean(1)
        for layer in self.layers:
            x = layer(x).relu()
        return self.head(x)


def test_layers_in_a_plain_list_are_found_with_their_cause():
    model = Listed()
    found = train(model, [adam(model.parameters())])
    assert set(found) == {"not-in-optimizer"}
    assert found["not-in-optimizer"].layers == ("layers[0]", "layers[1]")
    assert "list" in found["not-in-optimizer"].cause
    model = Listed()
    assert (
        train(
            model,
            [adam([*model.parameters(), *(p for each in model.layers for p in each.parameters())])],
        )
        == {}
    )


def test_a_parameter_in_two_optimizers_is_found():
    model = Net()
    found = train(model, [adam(model.parameters()), torch.optim.SGD(model.head.parameters(), 1e-3)])
    assert set(found) == {"in-two-optimizers"}
    assert found["in-two-optimizers"].layers == ("head",)


def test_two_optimizers_with_different_parameters_are_right():
    model = Net()
    rest = [p for name, p in model.named_parameters() if not name.startswith("head")]
    assert train(model, [adam(rest), torch.optim.SGD(model.head.parameters(), 1e-3)]) == {}


def test_a_layer_frozen_inside_a_trained_model_is_a_warning():
    model = Net()
    model.head.requires_grad_(False)
    found = train(model, [adam(model.parameters())])
    assert {code: finding.severity for code, finding in found.items()} == {"frozen": "warning"}
    assert found["frozen"].layers == ("head",)


def test_a_frozen_embedding_inside_a_trained_model_is_a_hint():
    model = Net()
    model.unused = nn.Embedding(4, 8).requires_grad_(False)
    found = train(model, [adam(model.parameters())])
    assert {code: finding.severity for code, finding in found.items()} == {"frozen": "hint"}


class Adapted(nn.Module):
    """A frozen layer with a trained low-rank correction."""

    def __init__(self, inner, outer):
        super().__init__()
        self.base = nn.Linear(inner, outer).requires_grad_(False)
        self.down, self.up = nn.Linear(inner, 1, bias=False), nn.Linear(1, outer, bias=False)

    def forward(self, x):
        return self.base(x) + self.up(self.down(x))


def test_frozen_layers_with_adapters_in_the_optimizer_are_a_hint():
    model = Net()
    model.body, model.head = Adapted(8, 8), Adapted(8, 4)
    found = train(model, [adam(model.parameters())])
    assert {code: finding.severity for code, finding in found.items()} == {"frozen": "hint"}
    assert set(found["frozen"].layers) == {"body.base", "head.base"}


def test_a_frozen_beginning_in_the_optimizer_is_a_hint_and_outside_of_it_silent():
    model = Net()
    model.embed.requires_grad_(False)
    assert train(model, [adam(model.parameters())])["frozen"].severity == "hint"
    assert train(model, [adam([p for p in model.parameters() if p.requires_grad])]) == {}


@pytest.mark.parametrize("set_to_none", [True, False])
def test_gradients_that_are_zeroed_are_right(set_to_none):
    model = Net()
    optimizer = adam(model.parameters())
    found = train(
        model, [optimizer], zero_grad=False, each=lambda _: optimizer.zero_grad(set_to_none=set_to_none)
    )
    assert found == {}


def test_gradients_that_are_never_zeroed_are_found_in_the_fourth_step():
    model = Net()
    found = train(model, [adam(model.parameters())], zero_grad=False)
    assert set(found) == {"never-zeroed"}
    assert found["never-zeroed"].severity == "error"
    assert found["never-zeroed"].found_step == 3


def test_the_optimizer_that_never_zeroes_is_named():
    model = Net()
    body, head = (
        adam([*model.embed.parameters(), *model.block.parameters()]),
        adam(model.head.parameters()),
    )

    def zero(_step):
        head.zero_grad()

    found = train(model, [body, head], zero_grad=False, each=zero)
    assert set(found) == {"never-zeroed"}
    assert found["never-zeroed"].layers == ("embed", "block.0", "block.1")


@pytest.mark.parametrize("rest", [0, 1, 2])
def test_an_optimizer_that_steps_rarely_and_zeroes_before_its_own_backward_is_right(rest):
    model = Net()
    often, rarely = (
        adam(model.head.parameters()),
        adam([*model.embed.parameters(), *model.block.parameters()]),
    )
    with gradscope.attach(model, every=1, hub=None, record=False, quiet=True) as scope:
        for step in range(2 * STEPS):
            x = torch.randint(0, 20, (16, 5))
            often.zero_grad()
            model(x).square().mean().backward()
            often.step()
            if step % 3 == rest:
                rarely.zero_grad()
                model(x).square().mean().backward()
                rarely.step()
        assert [each.code for each in scope.findings if each.code == "never-zeroed"] == []


def test_accumulated_gradients_are_right():
    model = Net()
    optimizer = adam(model.parameters())
    with gradscope.attach(model, every=1, hub=None, record=False, quiet=True) as scope:
        for micro in range(4 * STEPS):
            model(torch.randint(0, 20, (16, 5))).square().mean().backward()
            if micro % 4 == 3:
                optimizer.step()
                optimizer.zero_grad()
        assert scope.step == STEPS
        assert scope.findings == ()


def test_a_discriminator_through_which_the_generator_trains_is_right():
    generator, model = nn.Linear(3, 8), nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 1))
    optimizers = adam(generator.parameters()), adam(model.parameters())
    with gradscope.attach(model, every=1, hub=None, record=False, quiet=True) as scope:
        for _ in range(STEPS):
            optimizers[1].zero_grad()
            (model(torch.randn(4, 8)) - model(generator(torch.randn(4, 3)).detach())).mean().backward()
            optimizers[1].step()
            optimizers[0].zero_grad()
            model(
                generator(torch.randn(4, 3))
            ).mean().backward()  # gradients of the step before are there
            optimizers[0].step()
        assert scope.findings == ()


@pytest.mark.parametrize("count", [1, 3])
def test_accumulated_gradients_that_are_never_zeroed_are_found(count):
    model = Net()
    optimizer = adam(model.parameters())
    with gradscope.attach(model, every=1, hub=None, record=False, quiet=True) as scope:
        for _ in range(STEPS):
            for _ in range(count):
                model(torch.randint(0, 20, (16, 5))).square().mean().backward()
            optimizer.step()
        assert [each.code for each in scope.findings] == ["never-zeroed"]


def test_a_model_that_trains_in_eval_mode_is_found():
    model = Net().eval()
    found = train(model, [adam(model.parameters())])
    assert set(found) == {"eval-mode"}
    assert found["eval-mode"].layers == ("block.1", "block.3")
    assert found["eval-mode"].severity == "warning"


def test_batchnorm_in_eval_mode_inside_a_trained_model_is_a_hint():
    model = Net()
    model.block[1].eval()
    found = train(model, [adam(model.parameters())])
    assert {code: finding.severity for code, finding in found.items()} == {"eval-mode": "hint"}


def test_a_frozen_backbone_in_eval_mode_is_right():
    model = Net()
    model.embed.requires_grad_(False)
    model.block.requires_grad_(False)
    model.block.eval()
    assert train(model, [adam([p for p in model.parameters() if p.requires_grad])]) == {}


def test_an_evaluation_between_the_steps_is_right():
    model = Net()

    def evaluate(step):
        model.eval()
        with torch.no_grad():
            model(torch.randint(0, 20, (4, 5)))
        model.train()

    assert train(model, [adam(model.parameters())], each=evaluate) == {}


@pytest.mark.parametrize(("batch", "severity"), [(2, "warning"), (4, "hint"), (8, None)])
def test_batchnorm_over_few_values_is_found(batch, severity):
    model = Net()
    found = train(model, [adam(model.parameters())], batch=batch)
    assert {code: finding.severity for code, finding in found.items()} == (
        {} if severity is None else {"batchnorm-batch-size-one": severity}
    )
    if severity:
        assert found["batchnorm-batch-size-one"].evidence["values_per_channel"] == batch


def test_a_convolution_with_a_batch_of_one_has_many_values_per_channel():
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 2)
    )
    optimizer = adam(model.parameters())
    with gradscope.attach(model, every=1, hub=None, record=False, quiet=True) as scope:
        for _ in range(STEPS):
            optimizer.zero_grad()
            model(torch.randn(1, 1, 8, 8)).square().mean().backward()
            optimizer.step()
        assert scope.findings == ()


def test_dropout_that_keeps_too_little_is_found():
    model = Net()
    model.block[3].p = 0.95
    found = train(model, [adam(model.parameters())])
    assert set(found) == {"dropout-too-strong"}
    assert found["dropout-too-strong"].layers == ("block.3",)


class WithoutGraph(Net):
    def forward(self, x):
        with torch.no_grad():
            hidden = self.block(self.embed(x).mean(1))
        return self.head(hidden)


def test_layers_that_run_only_under_no_grad_are_found_unless_they_are_in_eval_mode_or_not_held():
    model = WithoutGraph()
    held = [*model.block.parameters(), *model.head.parameters()]
    found = train(model, [adam(held)])
    assert set(found) == {"no-gradient"}
    assert found["no-gradient"].layers == ("block.0", "block.1")
    assert "no_grad" in found["no-gradient"].message
    model = WithoutGraph()
    assert train(model, [adam(model.head.parameters())]) == {}
    model = WithoutGraph()
    model.block.eval()
    assert "no-gradient" not in train(model, [adam(held)])


def test_layers_under_no_grad_of_an_optimizer_that_has_not_stepped_yet_are_right():
    model = nn.ModuleDict({"actor": nn.Linear(8, 8), "critic": nn.Linear(8, 1)})
    actor, critic = adam(model["actor"].parameters()), adam(model["critic"].parameters())
    with gradscope.attach(model, every=1, hub=None, record=False, quiet=True) as scope:
        for _ in range(STEPS):  # only the critic is trained in the first steps
            with torch.no_grad():
                action = model["actor"](torch.randn(16, 8))
            actor.zero_grad()
            critic.zero_grad()
            model["critic"](action).square().mean().backward()
            critic.step()
        assert scope.findings == ()


@pytest.mark.parametrize("fault", ["none", "clipped scaled", "scaler is off"])
def test_clipping_before_unscale_is_found(fault):
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    scaler = torch.amp.GradScaler("cpu", enabled=fault != "scaler is off")
    with gradscope.attach(model, every=1, hub=None, record=False, quiet=True) as scope:
        for _ in range(STEPS):
            optimizer.zero_grad()
            x, y = torch.randint(0, 20, (16, 5)), torch.randint(0, 4, (16,))
            scaler.scale(nn.functional.cross_entropy(model(x), y)).backward()
            if fault == "none":
                scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            scaler.step(optimizer)
            scaler.update()
        assert scope.faults == {}
        expected = ["clip-before-unscale"] if fault == "clipped scaled" else []
        assert [each.code for each in scope.findings] == expected


@pytest.mark.parametrize(
    ("change", "code"), [("dtype", "dtype-changed"), ("rank", "shape-changed"), ("length", "")]
)
def test_an_output_that_changes_its_form_after_the_first_steps_is_found(change, code):
    model = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 4))
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    with gradscope.attach(model, every=1, hub=None, record=False, quiet=True) as scope:
        for step in range(60):
            if step == 10 and change == "dtype":
                model.double()
            x = torch.randn(
                16 if step < 10 or change != "length" else 12, 8, dtype=model[0].weight.dtype
            )
            optimizer.zero_grad()
            model(x[0] if step >= 10 and change == "rank" else x).square().mean().backward()
            optimizer.step()
        found = [each for each in scope.findings if each.code.endswith("changed")]
        assert [each.code for each in found] == ([code] if code else [])
        assert [each.layers[0] for each in found] == (["0"] if code else [])


class Layered(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.rnn = nn.Embedding(20, 8), nn.LSTM(8, 8, num_layers=2, dropout=0.95)
        self.head = nn.Linear(8, 4)

    def forward(self, x):
        return self.head(self.rnn(self.embed(x))[0].mean(1))


def test_dropout_inside_an_lstm_that_keeps_too_little_is_found():
    model = Layered()
    found = train(model, [adam(model.parameters())])
    assert set(found) == {"dropout-too-strong"}
    assert found["dropout-too-strong"].layers == ("rnn",)


class Detached(Net):
    def forward(self, x):
        return self.head(self.block(self.embed(x).mean(1))) + self.unused(torch.ones(8)).detach().sum()


def test_a_layer_that_ran_and_got_no_gradient_is_found_and_one_that_did_not_run_is_silent():
    model = Detached()
    found = train(model, [adam(model.parameters())])
    assert set(found) == {"no-gradient"}
    assert found["no-gradient"].layers == ("unused",)
    model = Net()
    assert train(model, [adam(model.parameters())]) == {}


def test_tied_weights_that_are_replaced_are_found():
    model = Net()
    model.unused.weight = model.block[0].weight
    held = list(model.parameters())

    def untie(step):
        if step == 3:
            model.unused.weight = nn.Parameter(model.unused.weight.detach().clone())

    found = train(model, [adam(held)], each=untie)
    assert set(found) == {"tied-weights-broken"}
    assert "unused.weight" in found["tied-weights-broken"].message


def test_a_lazy_layer_that_never_runs_is_silent():
    model = Net()
    model.unused = nn.LazyLinear(4)
    held = [p for name, p in model.named_parameters() if not name.startswith("unused")]
    assert train(model, [adam(held)]) == {}


def test_tied_weights_are_right():
    model = Net()
    model.unused.weight = model.block[0].weight
    assert train(model, [adam(model.parameters())]) == {}


def test_the_probe_leaves_parameters_as_they_were_and_the_training_bitwise_the_same():
    model = Net()
    twin = copy.deepcopy(model)
    optimizers = [adam(model.parameters()), adam(twin.parameters())]
    train(model, optimizers[:1], steps=8)
    torch.manual_seed(0)
    for _ in range(8):
        optimizers[1].zero_grad()
        x, y = torch.randint(0, 20, (16, 5)), torch.randint(0, 4, (16,))
        nn.functional.cross_entropy(twin(x), y).backward()
        optimizers[1].step()
    for ours, theirs in zip(parameters_of(optimizers[0]), parameters_of(optimizers[1]), strict=True):
        assert torch.equal(ours, theirs)
        assert ours._backward_hooks is None


def test_a_finding_is_reported_once_and_an_error_once_on_stderr(capsys):
    model = Net()
    optimizer = adam(model.parameters())
    with gradscope.attach(model, every=1, hub=None, record=False) as scope:
        for _ in range(120):  # two rounds of checks
            model(torch.randint(0, 20, (16, 5))).square().mean().backward()
            optimizer.step()
        assert [each.code for each in scope.findings].count("never-zeroed") == 1
    lines = [line for line in capsys.readouterr().err.splitlines() if "never zeroed" in line]
    assert len(lines) == 1
    assert "zero_grad()" in lines[0]
