"""Faults in inputs, units, outputs and updates are found in real trainings; look-alikes are silent."""

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import gradscope

STEPS = 14


def mlp(inputs=16, outputs=4, width=32):
    return nn.Sequential(
        nn.Linear(inputs, width),
        nn.ReLU(),
        nn.Linear(width, width),
        nn.ReLU(),
        nn.Linear(width, outputs),
    )


def convolutions():
    return nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)
    )


def batch(step=0, *, scale=1.0):
    x = torch.randn(32, 16)
    return x * scale, x[:, :4].argmax(1)


def images(step, *, scale):
    return torch.rand(16, 1, 8, 8) * scale, torch.randint(4, (16,))


def train(
    model, batch=batch, *, loss=nn.functional.cross_entropy, optimizer=None, steps=STEPS, every=1
):
    """Train with gradscope; return the findings that come from signals, by code."""
    torch.manual_seed(0)
    optimizer = optimizer or torch.optim.Adam(model.parameters(), 1e-3)
    with gradscope.attach(model, every=every, hub=None, record=False, quiet=True) as scope:
        for step in range(steps):
            x, y = batch(step)
            optimizer.zero_grad()
            loss(model(x), y).backward()
            optimizer.step()
        assert scope.faults == {}
        found = {}
        for finding in scope.findings:
            if finding.code in CODES:
                found.setdefault(finding.code, finding)
        return found


CODES = ("input-scale", "repeated-batch", "collapsed-output", "lost-updates", "dead-units", "underflow")


def test_pixels_from_0_to_255_are_named_at_the_first_layer_within_four_steps():
    found = train(convolutions(), lambda step: images(step, scale=255))
    assert set(found) == {"input-scale"}
    finding = found["input-scale"]
    assert (finding.layers, finding.severity, finding.found_step) == (("0",), "warning", 3)
    assert finding.evidence["max"] == pytest.approx(255, abs=1)
    assert finding.evidence["mean"] == pytest.approx(127.5, abs=5)
    assert finding.evidence["standard_deviation"] == pytest.approx(255 / 12**0.5, abs=5)


def test_one_feature_in_other_units_is_named():
    def raw(step):
        x, y = batch()
        x[:, 3] *= 1000
        return x, y

    found = train(mlp(), raw)
    assert "feature 3 of 16" in found["input-scale"].message
    assert found["input-scale"].evidence["share_of_largest_feature"] > 0.999


def test_tiny_and_constant_inputs_are_found():
    assert "far below 1" in train(mlp(), lambda step: batch(scale=1e-4))["input-scale"].message
    constant = train(mlp(), lambda step: (torch.full((32, 16), 2.0), torch.randint(4, (32,))))
    assert "the constant 2" in constant["input-scale"].message


class Scaling(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = convolutions()

    def forward(self, x):
        return self.body(x / 255 - 0.5)


@pytest.mark.parametrize(
    ("model", "data"),
    [
        pytest.param(convolutions(), lambda step: images(step, scale=1), id="pixels from 0 to 1"),
        pytest.param(Scaling(), lambda step: images(step, scale=255), id="a model that scales"),
        pytest.param(
            nn.Sequential(nn.BatchNorm1d(16), *mlp()), lambda step: batch(scale=255), id="BatchNorm first"
        ),
        pytest.param(
            nn.Sequential(nn.Embedding(1000, 16), nn.Flatten(), nn.Linear(64, 4)),
            lambda step: (torch.randint(1000, (32, 4)), torch.randint(4, (32,))),
            id="tokens",
        ),
        pytest.param(
            mlp(500), lambda step: (torch.eye(500)[torch.randint(500, (32,))], torch.randint(4, (32,))),
            id="one-hot",
        ),
    ],
)  # fmt: skip
def test_inputs_of_the_right_scale_are_silent(model, data):
    assert train(model, data) == {}


def test_a_layer_before_a_normalization_is_a_hint():
    model = nn.Sequential(nn.Linear(16, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 4))
    assert train(model, lambda step: batch(scale=255))["input-scale"].severity == "hint"


def test_a_new_iterator_in_each_step_is_found():
    loader = DataLoader(TensorDataset(*batch()), 8)
    found = train(mlp(), lambda step: next(iter(loader)))
    assert set(found) == {"repeated-batch"}
    assert (found["repeated-batch"].severity, found["repeated-batch"].found_step) == ("warning", 5)
    assert found["repeated-batch"].evidence["source"] == "part"


def test_a_seed_that_is_set_in_each_step_is_found():
    def seeded(step):
        torch.manual_seed(0)
        return batch()

    assert train(mlp(), seeded)["repeated-batch"].severity == "warning"


def test_a_loader_that_yields_the_whole_data_set_is_a_hint():
    loader = DataLoader(TensorDataset(*batch()), 32)
    assert train(mlp(), lambda step: next(iter(loader)))["repeated-batch"].severity == "hint"


def test_one_batch_on_purpose_and_batches_that_return_are_silent():
    x, y = batch()
    assert train(mlp(), lambda step: (x, y)) == {}
    assert train(mlp(), lambda step: (x[:8], y[:8])) == {}
    parts = [(part.clone(), target) for part, target in zip(x.split(8), y.split(8), strict=True)]
    assert train(mlp(), lambda step: (parts[step % 3][0].clone(), parts[step % 3][1]), steps=60) == {}
    grid = torch.linspace(-1, 1, 64)[:, None]
    model = nn.Sequential(nn.Linear(1, 16), nn.Tanh(), nn.Linear(16, 1))
    assert train(model, lambda step: (grid.clone(), grid.sin()), loss=nn.functional.mse_loss) == {}


def test_a_batch_of_equal_samples_is_found_unless_it_was_expanded():
    target = torch.randint(4, (32,))
    found = train(mlp(), lambda step: (torch.randn(1, 16).repeat(32, 1), target))
    assert "all 32 samples of a batch are the same" in found["repeated-batch"].message
    assert train(mlp(), lambda step: (torch.randn(1, 16).expand(32, -1), target)) == {}


class Functional(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1, self.fc2, self.head = nn.Linear(16, 64), nn.Linear(64, 64), nn.Linear(64, 4)

    def forward(self, x):
        return self.head(nn.functional.relu(self.fc2(nn.functional.relu(self.fc1(x)))))


@pytest.mark.parametrize("is_module", [True, False])
def test_dead_units_are_counted_for_modules_and_functions(is_module):
    model = mlp(width=64) if is_module else Functional()
    layer = "2" if is_module else "fc2"
    with torch.no_grad():
        model.get_submodule(layer).bias[10:50] = -100
    finding = train(model)["dead-units"]
    assert finding.layers[0] == layer
    assert finding.message == f"40 of 64 units of `{layer}` are zero for all samples in steps 1-8"
    assert finding.severity == "warning"


def test_dead_channels_of_a_convolution_are_counted():
    model = convolutions()
    with torch.no_grad():
        model[0].bias[:6] = -100
    finding = train(model, lambda step: images(step, scale=1))["dead-units"]
    assert finding.layers[0] == "0"
    assert finding.evidence["dead_units"] == 6
    assert finding.evidence["units"] == 8


def test_a_deep_network_with_units_that_are_off_by_their_bias_is_silent():
    model = nn.Sequential(*[mlp(16, 16, 16) for _ in range(4)])
    assert train(model, loss=lambda out, y: nn.functional.cross_entropy(out[:, :4], y)) == {}


def test_an_output_without_a_trace_of_the_sample_is_found_with_the_layer_where_it_is_lost():
    model = nn.Sequential(
        *[each for _ in range(16) for each in (nn.Linear(16, 16), nn.Sigmoid())], nn.Linear(16, 4)
    )
    finding = train(model)["collapsed-output"]
    layer = int(finding.layers[0])
    values = torch.randn(32, 16)
    with torch.no_grad():
        ratios = []
        for position, module in enumerate(model):
            values = module(values)
            spread = values.double().var(0, correction=0).mean() / values.double().square().mean()
            ratios.append((position, float(spread)))
    same = [position for position, ratio in ratios if ratio <= 1e-10]
    assert layer in range(same[0] - 2, same[0] + 3)


def test_an_encoder_whose_embeddings_become_equal_is_found():
    model = nn.Sequential(nn.Linear(16, 8))
    found = train(
        model,
        loss=lambda out, y: 10 * (out - out.roll(1, 0)).square().sum(1).mean(),
        optimizer=torch.optim.SGD(model.parameters(), 0.01),
        steps=60,
    )
    assert "has fallen from" in found["collapsed-output"].message


def test_heads_that_begin_at_zero_and_a_batch_of_one_are_silent():
    model = mlp()
    nn.init.zeros_(model[4].weight)
    assert train(model) == {}
    nn.init.zeros_(model[4].bias)
    assert train(model) == {}
    assert train(mlp(), lambda step: (torch.randn(1, 16), torch.randint(4, (1,)))) == {}


def halved(step):
    x, y = batch()
    return x.bfloat16(), y


def test_updates_that_bfloat16_rounds_away_are_found():
    model = mlp().bfloat16()
    before = [parameter.detach().clone() for parameter in model.parameters()]
    optimizer = torch.optim.Adam(model.parameters(), 1e-5)
    finding = train(model, halved, optimizer=optimizer, steps=6)["lost-updates"]
    same = torch.cat([(a == b).flatten() for a, b in zip(before, model.parameters(), strict=True)])
    assert finding.found_step == 5
    assert finding.evidence["share_of_updates"] == pytest.approx(float(same.float().mean()), abs=0.1)
    assert set(finding.layers) == {"0", "2", "4"}


class Halved(nn.Module):
    """A network under autocast; its loss is multiplied by `scale` in the backward pass."""

    def __init__(self, dtype, scale):
        super().__init__()
        self.network, self.dtype, self.scale = mlp(), dtype, scale

    def forward(self, x):
        with torch.autocast("cpu", self.dtype, enabled=self.dtype is not torch.float32):
            out = self.network(x).float()
        return out * self.scale + (out * (1 - self.scale)).detach()


@pytest.mark.parametrize(
    ("dtype", "scale", "is_found"),
    [
        (torch.float16, 1e-4, True),
        (torch.float16, 1.0, False),
        (torch.float16, 1e-4 / 3 * 2.0**16, False),
        (torch.bfloat16, 2.0**-13, False),
        (torch.float32, 2.0**-13, False),
    ],
)
def test_float32_gradients_that_were_lost_in_float16_are_found(dtype, scale, is_found):
    """Under autocast the gradients are float32 again, with the values of float16."""
    model = Halved(dtype, scale)
    found = train(model, steps=6)
    assert list(found) == ["underflow"] * is_found
    if is_found:
        gradients = torch.cat([each.grad.flatten() for each in model.parameters()])
        small = gradients[gradients != 0].abs() < 2.0**-17
        evidence = found["underflow"].evidence
        assert evidence["share_below_8e-6"] == pytest.approx(float(small.float().mean()), abs=0.1)
        assert found["underflow"].found_step == 5


class Own(torch.optim.AdamW):
    """An optimizer that may round stochastically."""


@pytest.mark.parametrize(
    "kind", ["a large step", "an optimizer of its own", "float32 copies", "warm-up"]
)
def test_updates_that_arrive_are_silent(kind):
    model = mlp().bfloat16()
    rate, make = (1e-2, torch.optim.Adam) if kind == "a large step" else (1e-5, torch.optim.AdamW)
    optimizer = (Own if kind == "an optimizer of its own" else make)(model.parameters(), rate)
    if kind == "float32 copies":
        optimizer = torch.optim.AdamW([p.detach().float() for p in model.parameters()], rate)

    def warming(step):
        optimizer.param_groups[0]["lr"] = 1e-6 * (step + 1)
        return halved(step)

    found = train(model, warming if kind == "warm-up" else halved, optimizer=optimizer)
    assert "lost-updates" not in found


@pytest.mark.parametrize("is_given", [True, False])
@pytest.mark.parametrize("is_unscaled", [True, False])
def test_clipping_before_unscale_is_an_error(is_given, is_unscaled):
    torch.manual_seed(0)
    model, scaler = mlp(), torch.amp.GradScaler("cpu", init_scale=1024)
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    given = {"scaler": scaler} if is_given else {}
    with gradscope.attach(model, every=1, hub=None, record=False, quiet=True, **given) as scope:
        for _ in range(6):
            x, y = batch()
            optimizer.zero_grad()
            scaler.scale(nn.functional.cross_entropy(model(x), y)).backward()
            if is_unscaled:
                scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            scaler.step(optimizer)
            scaler.update()
        assert scope.faults == {}
        found = {each.code: each for each in scope.findings}
    if is_unscaled:
        assert "clip-before-unscale" not in found
    else:
        finding = found["clip-before-unscale"]
        assert (finding.severity, finding.found_step) == ("error", 2)
        assert finding.evidence["loss_scale"] == 1024


def test_the_scaler_of_another_model_is_not_taken_for_that_of_clipped_gradients():
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    scaler.scale(torch.ones(1, requires_grad=True).sum()).backward()
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
    with gradscope.attach(model, every=1, hub=None, record=False, quiet=True) as scope:
        for _ in range(STEPS):
            x, y = batch()
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
        assert scope.faults == {}
        assert "clip-before-unscale" not in {each.code for each in scope.findings}


def test_an_empty_batch_is_not_read():
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    with gradscope.attach(model, every=1, hub=None, record=False, quiet=True) as scope:
        for _ in range(4):
            model(torch.randn(0, 16)).sum().backward()
            optimizer.step()
        assert scope.faults == {}


def test_reading_changes_nothing_bitwise():
    def trained(is_observed):
        torch.manual_seed(0)
        model = nn.Sequential(mlp(), nn.Dropout(0.5))
        optimizer = torch.optim.Adam(model.parameters())
        scope = (
            gradscope.attach(model, every=1, hub=None, record=False, quiet=True)
            if is_observed
            else None
        )
        for _ in range(STEPS):
            x, y = batch()
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
        if scope is not None:
            scope.detach()
        return [*model.parameters(), torch.get_rng_state()]

    for bare, observed in zip(trained(False), trained(True), strict=True):
        assert torch.equal(bare, observed)
