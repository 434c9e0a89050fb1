"""Outputs and bottlenecks that lose their variation over hundreds of steps are found."""

import pytest
import torch
from torch import nn

import gradscope

pytestmark = pytest.mark.slow

F = nn.functional


class Autoencoder(nn.Module):
    def __init__(self, latent=8):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(32, 64), nn.ReLU())
        self.mean, self.log_variance = nn.Linear(64, latent), nn.Linear(64, latent)
        self.decoder = nn.Sequential(nn.Linear(latent, 64), nn.ReLU(), nn.Linear(64, 32))

    def forward(self, x):
        hidden = self.encoder(x)
        mean, log_variance = self.mean(hidden), self.log_variance(hidden)
        sample = mean + torch.randn_like(mean) * (log_variance / 2).exp()
        return self.decoder(sample), mean, log_variance


class Embedding(nn.Module):
    def __init__(self, *, is_normalized=False):
        super().__init__()
        self.is_normalized = is_normalized
        self.layers = nn.Sequential(
            nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 16)
        )

    def forward(self, x):
        out = self.layers(x)
        return F.normalize(out, dim=1) if self.is_normalized else out


def variational(weight):
    model, mixing = Autoencoder(), torch.randn(4, 32)

    def loss(x):
        x = x[:, :4] @ mixing
        out, mean, log_variance = model(x)
        divergence = -0.5 * (1 + log_variance - mean**2 - log_variance.exp()).sum(1).mean()
        return F.mse_loss(out, x) + weight * divergence

    model.mixing = mixing  # for the test
    return model, loss


def embedding(kind):
    model = Embedding(is_normalized=kind == "normalized")

    def loss(x):
        a, b = (model(x + 0.3 * torch.randn_like(x)) for _ in range(2))
        if kind != "contrastive":
            return (a - b).square().sum(1).mean()
        similar = F.normalize(a, dim=1) @ F.normalize(b, dim=1).T
        return F.cross_entropy(similar / 0.2, torch.arange(len(x)))

    return model, loss


def regression(scale, offset):
    """Several targets with little variation around a large mean, in two micro-batches."""
    model, mixing = Embedding(), torch.randn(32, 16)

    def loss(x):
        return sum(F.mse_loss(model(half), half @ mixing * scale + offset) for half in x.chunk(2))

    return model, loss


def train(made, steps):
    model, loss_of = made
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    with gradscope.attach(model, every=2, hub=None, record=False, quiet=True) as scope:
        for _ in range(steps):
            x = torch.randn(64, 32)
            optimizer.zero_grad()
            loss = loss_of(x)
            loss.backward()
            optimizer.step()
            scope.log(loss=loss)
        assert scope.faults == {}
        return [each for each in scope.findings if each.code == "collapsed-output"]


@pytest.mark.parametrize("weight", [pytest.param(5.0, marks=pytest.mark.exhaustive), 50.0])
def test_a_posterior_that_collapses_is_found_at_the_latent_layer(weight):
    torch.manual_seed(0)
    made = variational(weight)
    found = train(made, 500)
    assert found[0].layers[0] in ("mean", "log_variance")
    with torch.no_grad():  # by the definition of an active unit: the variance of its mean over the data
        x = torch.randn(2000, 4) @ made[0].mixing
        assert float(made[0](x)[1].var(0).max()) < 0.01


@pytest.mark.parametrize("kind", ["distance", pytest.param("normalized", marks=pytest.mark.exhaustive)])
def test_an_embedding_without_negatives_is_found_while_it_collapses(kind):
    torch.manual_seed(0)
    made = embedding(kind)
    found = train(made, 500)
    assert found
    with torch.no_grad():
        out = F.normalize(made[0](torch.randn(500, 32)), dim=1)
    assert float((out @ out.T).mean()) > 0.98  # all samples point the same way


@pytest.mark.parametrize(
    "made",
    [
        lambda: variational(0.01),
        lambda: embedding("contrastive"),
        pytest.param(lambda: regression(0.02, 0.0), marks=pytest.mark.exhaustive),
        pytest.param(lambda: regression(1.0, 30.0), marks=pytest.mark.exhaustive),
    ],
)
def test_look_alikes_are_silent(made):
    torch.manual_seed(0)
    assert train(made(), 500) == []
