"""Faults between the model's output and the loss, and between two layers."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - as torch's documentation writes it
from torch.optim import SGD, Adam, RMSprop

from benchmarks.faults import proofs
from benchmarks.faults.data import (
    CLASSES,
    FEATURES,
    N,
    binary,
    curve,
    images,
    numbers,
    sequences,
    tokens,
    vectors,
)
from benchmarks.faults.models import VAE, Attention, Recurrent, Transformer, cnn, mlp
from benchmarks.faults.program import Parts, Sick, sick, train

__all__ = ["GRAPH"]


def _ended(last: Callable[[], nn.Module], data: object, criterion: object, **model: int) -> object:
    """Return a program whose model ends with a module that does not belong there."""

    def program(is_sick: bool) -> Parts:
        return train(mlp(*([last()] if is_sick else []), **model), data, criterion)

    return program


def _softmax_in_loop(is_sick: bool) -> Parts:
    model = Transformer()

    def criterion(out: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(out.softmax(-1) if is_sick else out, y)

    return train(model, tokens, criterion, Adam(model.parameters(), 1e-2))


def _segmentation_sigmoid(is_sick: bool) -> Parts:
    layers = [nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 1, 1)]
    model = nn.Sequential(*layers, *([nn.Sigmoid()] if is_sick else []))

    def data() -> tuple[Tensor, Tensor]:
        x, _ = images()
        return x, (x > 1).float()

    return train(model, data, F.binary_cross_entropy_with_logits, Adam(model.parameters(), 1e-2))


def _log_softmax_dim(is_sick: bool) -> Parts:
    return train(mlp(nn.LogSoftmax(0 if is_sick else 1)), vectors, F.nll_loss)


def _attention_dim(is_sick: bool) -> Parts:
    model = Attention(0 if is_sick else -1)
    return train(
        model, sequences, optimizer=Adam(model.parameters(), 1e-2), measure=lambda: float(_rows(model))
    )


def _rows(model: Attention) -> Tensor:
    """Return the mean distance of the weights of one query from a sum of 1."""
    x, _ = sequences()
    with torch.no_grad():
        weights = (model.query(x) @ model.key(x).transpose(1, 2)).softmax(model.dim)
    return (weights.sum(-1) - 1).abs().mean()


class _Instances(nn.Module):
    """Weights over the elements of a sequence, by nn.Softmax without a dimension: it takes 0 if there are three."""

    def __init__(self, *, is_sick: bool) -> None:
        super().__init__()
        self.embed, self.score, self.head = (
            nn.Linear(FEATURES, 16),
            nn.Linear(16, 1),
            nn.Linear(16, CLASSES),
        )
        self.softmax = nn.Softmax(None if is_sick else 1)

    def weights(self, hidden: Tensor) -> Tensor:
        out: Tensor = self.softmax(self.score(hidden))
        return out

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.embed(x).relu()
        out: Tensor = self.head((hidden * self.weights(hidden)).sum(1))
        return out


def _softmax_without_dim(is_sick: bool) -> Parts:
    model = _Instances(is_sick=is_sick)

    def distance() -> float:
        with torch.no_grad():
            return float((model.weights(model.embed(sequences()[0]).relu()).sum(1) - 1).abs().mean())

    return train(model, sequences, measure=distance)


def _squared(output: Tensor, target: Tensor) -> Tensor:
    return ((output - target) ** 2).mean()


def _broadcast(
    kind: Callable[[Tensor, Tensor], Tensor], make: object = None, data: object = numbers
) -> object:
    """Return a program that compares outputs (N, 1) with targets (N,)."""

    def program(is_sick: bool) -> Parts:
        model = mlp(outputs=1) if make is None else make()

        def criterion(out: Tensor, y: Tensor) -> Tensor:
            return kind(out, y[:, 0] if is_sick else y)

        return train(model, data, criterion, measure=proofs.mean_error(model, data))

    return program


class _Points(nn.Module):
    """A regression over sequences."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.head = nn.GRU(FEATURES, 16, batch_first=True), nn.Linear(16, 1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.rnn(x)[0][:, -1])
        return out


def _sums(count: int = N) -> tuple[Tensor, Tensor]:
    x, _ = sequences(count)
    return x, x[:, -1, :1] * 2


def _critic(is_sick: bool) -> Parts:
    """Values (N, 1) are compared with returns (N,)."""
    model = nn.ModuleDict({"actor": mlp(), "critic": mlp(outputs=1)})

    def returns(count: int = N) -> tuple[Tensor, Tensor]:
        x, _ = numbers(count)
        return x, x[:, :1] + 0.1 * torch.randn(count, 1)

    def loss(_step: int) -> Tensor:
        x, wanted = returns()
        policy = torch.distributions.Categorical(logits=model["actor"](x))
        action, value = policy.sample(), model["critic"](x)
        advantage = (action == 0).float() - 0.25
        losses = -(policy.log_prob(action) * advantage).mean()
        return losses + 0.5 * F.mse_loss(value, wanted[:, 0] if is_sick else wanted)

    return Parts(
        model,
        [Adam(model.parameters(), 3e-3)],
        loss,
        measure=proofs.mean_error(model["critic"], returns),
    )


def _relu_regression(is_sick: bool) -> Parts:
    model = mlp(*([nn.ReLU()] if is_sick else []), outputs=1)
    return train(model, numbers, F.mse_loss)


def _relu_cnn(is_sick: bool) -> Parts:
    model = cnn()
    model.append(nn.ReLU() if is_sick else nn.Identity())
    return train(model, images, optimizer=RMSprop(model.parameters(), 1e-3))


def _no_activation(is_sick: bool) -> Parts:
    between = nn.Identity() if is_sick else nn.ReLU()
    model = nn.Sequential(
        nn.Linear(FEATURES, 32), between, nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, CLASSES)
    )
    return train(model, vectors, measure=proofs.nonlinearity(model[:3], (FEATURES,)))


def _no_activation_at_all(is_sick: bool) -> Parts:
    act = nn.Identity if is_sick else nn.Tanh
    model = mlp(inputs=1, outputs=1, act=act)
    return train(model, curve, F.mse_loss, Adam(model.parameters(), 1e-2))


def _no_activation_cnn(is_sick: bool) -> Parts:
    model = cnn(act=nn.ReLU)
    if is_sick:
        model[2] = nn.Identity()
    return train(model, images, measure=proofs.nonlinearity(model[:4], (1, 8, 8)))


class _Convolutions(nn.Module):
    """Three convolutions; `is_sick`: the activation after the first two is forgotten."""

    def __init__(self, *, is_sick: bool) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.conv3, self.head = nn.Conv2d(8, 8, 3, padding=1), nn.Linear(8 * 4, CLASSES)
        self.act: Callable[[Tensor], Tensor] = (lambda x: x) if is_sick else F.relu

    def body(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv3(self.act(self.conv2(self.act(self.conv1(x)))))
        return out

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(F.adaptive_avg_pool2d(self.body(x).relu(), 2).flatten(1))
        return out


def _no_activation_plain_cnn(is_sick: bool) -> Parts:
    model = _Convolutions(is_sick=is_sick)

    def measure() -> float:
        x, y = torch.randn(8, 1, 8, 8), torch.randn(8, 1, 8, 8)
        with torch.no_grad():
            zero = model.body(x * 0)
            return float(
                (model.body(x + y) - model.body(x) - model.body(y) + zero).norm() / model.body(x).norm()
            )

    return train(model, images, optimizer=SGD(model.parameters(), 0.05, momentum=0.9), measure=measure)


# A part of the loss without a gradient.


def _penalty(is_sick: bool) -> Parts:
    """A penalty on the weights is computed from .data."""
    model = mlp()

    def loss(_step: int) -> Tensor:
        x, y = vectors()
        weights = [p.data if is_sick else p for p in model.parameters()]
        return F.cross_entropy(model(x), y) + 0.01 * sum(w.square().sum() for w in weights)

    return Parts(
        model,
        [Adam(model.parameters(), 3e-3)],
        loss,
        measure=lambda: sum(float(p.square().sum()) for p in model.parameters()),
    )


def _divergence(is_sick: bool) -> Parts:
    """The divergence in the loss of a VAE is detached."""
    model, sizes = VAE(), list[float]()

    def loss(_step: int) -> Tensor:
        x, _ = vectors()
        out, mean, log_variance = model(x)
        part = -0.5 * (1 + log_variance - mean**2 - log_variance.exp()).sum(1).mean()
        sizes.append(float(part))
        return F.mse_loss(out, x, reduction="sum") / N + 2.0 * (part.detach() if is_sick else part)

    return Parts(model, [Adam(model.parameters(), 1e-2)], loss, measure=lambda: sizes[-1])


class _Auxiliary(Recurrent):
    """An LSTM with a second head."""

    def __init__(self) -> None:
        super().__init__()
        self.second = nn.Linear(16, 1)


def _auxiliary(is_sick: bool) -> Parts:
    """The loss of a second head is added as a number."""
    model = _Auxiliary()

    def loss(_step: int) -> Tensor:
        x, y = sequences()
        hidden = model.rnn(x)[0][:, -1]
        part = F.mse_loss(model.second(hidden), x[:, -1, 5:6])
        return F.cross_entropy(model.head(hidden), y) + 0.5 * (part.item() if is_sick else part)

    return Parts(model, [Adam(model.parameters(), 3e-3)], loss)


GRAPH: tuple[Sick, ...] = (
    sick(
        "a Softmax layer before cross entropy",
        "double-softmax",
        "5 4",
        _ended(lambda: nn.Softmax(-1), vectors, F.cross_entropy),
        proofs.higher_loss(1.5),
    ),
    sick(
        "softmax in the loop before cross entropy",
        "double-softmax",
        "head",
        _softmax_in_loop,
        proofs.higher_loss(1.3),
    ),
    sick(
        "a Sigmoid before the with-logits loss",
        "double-softmax",
        "5 4",
        _ended(nn.Sigmoid, binary, F.binary_cross_entropy_with_logits, outputs=1),
        proofs.higher_loss(1.5),
    ),
    sick(
        "a Sigmoid in a segmentation before the with-logits loss",
        "double-softmax",
        "4 3",
        _segmentation_sigmoid,
        proofs.higher_loss(1.3),
    ),
    sick(
        "log_softmax over the batch",
        "wrong-softmax-dim",
        "5 4",
        _log_softmax_dim,
        proofs.higher_loss(1.5),
    ),
    sick(
        "attention weights over the batch",
        "wrong-softmax-dim",
        "query key",
        _attention_dim,
        proofs.higher("distance of the sum of weights from 1", 10),
    ),
    sick(
        "Softmax without a dimension over sequences",
        "wrong-softmax-dim",
        "softmax score",
        _softmax_without_dim,
        proofs.higher("distance of the sum of weights from 1", 10),
    ),
    sick(
        "mse_loss of (N, 1) and (N,)",
        "loss-broadcast",
        "4",
        _broadcast(F.mse_loss),
        proofs.higher("squared error", 2),
    ),
    sick(
        "l1_loss of (N, 1) and (N,)",
        "loss-broadcast",
        "4",
        _broadcast(F.l1_loss),
        proofs.higher("squared error", 2),
    ),
    sick(
        "huber_loss of (N, 1) and (N,) after a GRU",
        "loss-broadcast",
        "head",
        _broadcast(F.huber_loss, _Points, _sums),
        proofs.higher("squared error", 1.5),
    ),
    sick(
        "a squared difference of (N, 1) and (N,)",
        "loss-broadcast",
        "4",
        _broadcast(_squared),
        proofs.higher("squared error", 2),
    ),
    sick(
        "values (N, 1) against returns (N,) in an actor-critic",
        "loss-broadcast",
        "critic.4",
        _critic,
        proofs.higher("squared error", 2),
    ),
    sick(
        "ReLU on the logits",
        "relu-at-output",
        "5 4",
        _ended(nn.ReLU, vectors, F.cross_entropy),
        proofs.higher_loss(1.1),
    ),
    sick("ReLU on the logits of a CNN", "relu-at-output", "10 9", _relu_cnn, proofs.higher_loss(1.1)),
    sick(
        "ReLU before the with-logits loss",
        "relu-at-output",
        "5 4",
        _ended(nn.ReLU, binary, F.binary_cross_entropy_with_logits, outputs=1),
        proofs.higher_loss(1.5),
    ),
    sick(
        "ReLU before targets of both signs",
        "relu-at-output",
        "5 4",
        _relu_regression,
        proofs.higher_loss(2),
    ),
    sick(
        "an activation is missing",
        "linear-chain",
        "0 2",
        _no_activation,
        proofs.lower("nonlinearity of 0 to 2", 1000),
    ),
    sick("no activation at all", "linear-chain", "0 2 4", _no_activation_at_all, proofs.higher_loss(3)),
    sick(
        "no activation between two convolutions with BatchNorm",
        "linear-chain",
        "0 3",
        _no_activation_cnn,
        proofs.lower("nonlinearity of 0 to 3", 1000),
    ),
    sick(
        "no activation between three convolutions",
        "linear-chain",
        "conv1 conv2",
        _no_activation_plain_cnn,
        proofs.lower("nonlinearity of the convolutions", 1000),
    ),
    sick(
        "a penalty of .data",
        "detached-loss-part",
        "",
        _penalty,
        proofs.higher("squares of the weights", 1.5),
    ),
    sick(
        "a detached divergence in a VAE",
        "detached-loss-part",
        "",
        _divergence,
        proofs.higher("divergence", 1.5),
    ),
    sick(
        "the loss of a second head as a number",
        "detached-loss-part no-gradient",
        "second",
        _auxiliary,
        proofs.without_gradient("second"),
    ),
)
"""All programs of this subject."""
