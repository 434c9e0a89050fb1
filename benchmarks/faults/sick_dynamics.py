"""Faults that show over time: gradients, dead units, rates, losses, data."""

import functools
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - as torch's documentation writes it
from torch.optim import SGD, Adam, AdamW, Optimizer, RMSprop
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.faults import proofs
from benchmarks.faults.data import (
    CLASSES,
    FEATURES,
    Batch,
    binary,
    images,
    numbers,
    sequences,
    tokens,
    vectors,
)
from benchmarks.faults.models import Recurrent, ResNet, Transformer, cnn, deep, mlp
from benchmarks.faults.program import Parts, Sick, sick, train

__all__ = ["DYNAMICS"]

Data = Callable[[], Batch]


def _vanishing(is_sick: bool) -> Parts:
    model = deep(20, nn.Sigmoid) if is_sick else deep(20, nn.ReLU, residual=True)
    return train(model, vectors, optimizer=SGD(model.parameters(), 0.01))


def _vanishing_init(is_sick: bool) -> Parts:
    model = deep(12, nn.ReLU, gain=0.1 if is_sick else 1.4)
    return train(model, vectors)


def _plain_convolutions(std: float) -> nn.Sequential:
    layers: list[nn.Module] = []
    for position in range(12):
        layer = nn.Conv2d(1 if position == 0 else 8, 8, 3, padding=1)
        nn.init.normal_(layer.weight, std=std / (layer.in_channels * 9) ** 0.5)
        layers += [layer, nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, CLASSES))


def _vanishing_cnn(is_sick: bool) -> Parts:
    model = _plain_convolutions(0.1 if is_sick else 1.4)
    return train(model, images, optimizer=Adam(model.parameters(), 2e-3))


def _exploding(is_sick: bool) -> Parts:
    model = deep(12, nn.ReLU, gain=6.0 if is_sick else 1.4)
    return train(model, vectors, optimizer=SGD(model.parameters(), 1e-12 if is_sick else 0.01))


def _exploding_rnn(is_sick: bool) -> Parts:
    model = Recurrent(nn.RNN, nonlinearity="relu")
    with torch.no_grad():
        model.rnn.weight_hh_l0.copy_(torch.eye(16) * (2.0 if is_sick else 0.9))
    return train(model, functools.partial(sequences, 16, 30), optimizer=Adam(model.parameters(), 1e-4))


def _strange_batch(
    at: int,
    factor: float,
    *,
    target: bool,
    make: Callable[[], nn.Module],
    data: Data,
    criterion: Callable[[Tensor, Tensor], Tensor],
) -> object:
    """Return a program with one batch whose inputs or targets are far too large."""

    def program(is_sick: bool) -> Parts:
        model, number = make(), [-1]

        def strange() -> Batch:
            number[0] += 1
            x, y = data()
            if is_sick and number[0] == at:
                return (x, y * factor) if target else (x * factor, y)
            return x, y

        return train(model, strange, criterion)

    return program


def _smoothed(out: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(out, y, label_smoothing=0.2)


def _wrong_labels_once(is_sick: bool) -> Parts:
    """In step 80, all labels are shifted by one."""
    model, number = mlp(), [-1]

    def data() -> Batch:
        number[0] += 1
        x, y = vectors(256)
        return x, (y + 1) % CLASSES if is_sick and number[0] == 80 else y

    return train(model, data, optimizer=Adam(model.parameters(), 2e-2))


def _dead_relu(is_sick: bool) -> Parts:
    model = mlp()
    if is_sick:
        nn.init.constant_(model[2].bias, -100.0)
    return train(model, vectors)


def _dead_convolution(is_sick: bool) -> Parts:
    model = cnn(norm=False)
    if is_sick:
        nn.init.constant_(model[3].bias, -20.0)
    return train(model, images)


def _dying(is_sick: bool) -> Parts:
    """All units die in the first steps, from large errors with too high a learning rate; later it is lower."""
    model = mlp(outputs=1, width=64)
    optimizer = SGD(model.parameters(), 0.1 if is_sick else 0.001)

    def data() -> Batch:
        x, y = numbers()
        return x, y - 20

    def after(step: int) -> None:
        if step == 5:
            optimizer.param_groups[0]["lr"] = 0.001

    return train(model, data, F.mse_loss, optimizer, after=after)


def _half_dead(is_sick: bool) -> Parts:
    """Three quarters of the units never fire: their biases are far below zero."""
    model = mlp(width=64)
    if is_sick:
        with torch.no_grad():
            model[0].bias[:48] = -30.0
    return train(model, vectors)


def _saturated(is_sick: bool) -> Parts:
    model = mlp(act=nn.Tanh)
    if is_sick:
        with torch.no_grad():
            model[0].weight.mul_(300)
    return train(model, vectors)


def _saturated_sigmoid(is_sick: bool) -> Parts:
    model = cnn(norm=False, act=nn.Sigmoid)
    if is_sick:
        with torch.no_grad():
            model[0].weight.mul_(100)
            model[0].bias.add_(50)
    return train(model, images, optimizer=Adam(model.parameters(), 1e-2))


def _rated(
    make: Callable[[], nn.Module],
    data: Data,
    optimizer: Callable[..., Optimizer],
    wrong: float,
    right: float,
    criterion: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy,
) -> object:
    """Return a program with a wrong learning rate."""

    def program(is_sick: bool) -> Parts:
        model = make()
        return train(model, data, criterion, optimizer(model.parameters(), wrong if is_sick else right))

    return program


def _noise_labels(data: Callable[[], Batch], make: Callable[[], nn.Module]) -> object:
    """Return a program whose inputs are shuffled and whose labels are not."""

    def program(is_sick: bool) -> Parts:
        model = make()

        def shuffled() -> Batch:
            x, y = data()
            return (x[torch.randperm(len(x))], y) if is_sick else (x, y)

        return train(model, shuffled, optimizer=Adam(model.parameters(), 1e-2))

    return program


def _zero_input(is_sick: bool) -> Parts:
    """A normalization that divides by a wrong maximum makes all images zero."""

    def data() -> Batch:
        x, y = images()
        return (x / 1e12 if is_sick else x), y

    return train(cnn(norm=False), data)


def _collapsed_pairs(is_sick: bool) -> Parts:
    """Two views of the same sample are pulled together; nothing pushes other samples apart."""
    model = nn.Sequential(nn.Linear(FEATURES, 32), nn.ReLU(), nn.Linear(32, 8))

    def loss(_step: int) -> Tensor:
        x, _ = vectors()
        one, two = (model(x + 0.1 * torch.randn_like(x)) for _ in range(2))
        if is_sick:
            return (one - two).square().mean() + (one.mean(0) - 1).square().mean() * 0.1
        one, two = F.normalize(one, dim=1), F.normalize(two, dim=1)
        return F.cross_entropy(one @ two.T / 0.2, torch.arange(len(x)))

    return Parts(model, [Adam(model.parameters(), 3e-2)], loss)


class _Bottleneck(nn.Module):
    """An autoencoder; `is_sick`: its code is normalized over a single feature, which makes it constant."""

    def __init__(self, *, is_sick: bool) -> None:
        super().__init__()
        self.encoder, self.decoder = mlp(outputs=4), mlp(inputs=4, outputs=FEATURES)
        self.code = nn.Softmax(-1) if not is_sick else _OverOne()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.decoder(self.code(self.encoder(x)))
        return out


class _OverOne(nn.Module):
    """A softmax over a dimension of one."""

    def forward(self, x: Tensor) -> Tensor:
        return x.unsqueeze(-1).softmax(-1)[..., 0]


def _constant_code(is_sick: bool) -> Parts:
    return train(_Bottleneck(is_sick=is_sick), lambda: (vectors()[0],) * 2, F.mse_loss)


def _scaled_input(
    change: Callable[[Tensor], Tensor],
    make: Callable[[], nn.Module],
    data: Data,
    criterion: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy,
) -> object:
    """Return a program whose inputs were not normalized."""

    def program(is_sick: bool) -> Parts:
        model, sizes = make(), list[float]()

        def scaled() -> Batch:
            x, y = data()
            x = change(x) if is_sick else x
            sizes.append(float(x.abs().max()))
            return x, y

        return train(model, scaled, criterion, measure=lambda: max(sizes))

    return program


def _to_bytes(x: Tensor) -> Tensor:
    return (x * 40 + 128).clamp(0, 255).round()


def _one_large_feature(x: Tensor) -> Tensor:
    return torch.cat([x[:, :-1], x[:, -1:] * 1e5 + 2e6], 1)


def _repeated(is_sick: bool) -> Parts:
    """The iterator of the loader is made again in each step, with the same seed."""
    x, y = vectors(512)
    loader = DataLoader(TensorDataset(x, y), batch_size=32, shuffle=not is_sick)
    model, first = mlp(), list[Tensor]()

    def data() -> Batch:
        one, two = next(iter(loader))
        first.append(one)
        return one, two

    return train(
        model, data, measure=lambda: sum(torch.equal(each, first[0]) for each in first) / len(first)
    )


def _repeated_tokens(is_sick: bool) -> Parts:
    """The random generator is seeded again in each step."""
    model, first = Transformer(language=True), list[Tensor]()
    generator = torch.Generator()

    def data() -> Batch:
        if is_sick:
            generator.manual_seed(7)
        x = (torch.randint(20, (16, 1), generator=generator) + 3 * torch.arange(9)) % 20
        first.append(x)
        return x[:, :-1], x[:, 1:]

    return train(
        model, data, measure=lambda: sum(torch.equal(each, first[0]) for each in first) / len(first)
    )


def _decayed(
    make: Callable[[], nn.Module],
    data: Data,
    optimizer: Callable[..., Optimizer],
    rate: float,
    wrong: float,
) -> object:
    """Return a program whose weight decay outweighs the gradient."""

    def program(is_sick: bool) -> Parts:
        model = make()
        return train(
            model,
            data,
            optimizer=optimizer(model.parameters(), rate, weight_decay=wrong if is_sick else 1e-4),
        )

    return program


def _schedule_too_short(is_sick: bool) -> Parts:
    """A schedule counted in epochs is stepped in each batch: after ten steps the rate is 0."""
    model = mlp()
    optimizer = SGD(model.parameters(), 0.5)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, 10 if is_sick else 200)
    return train(model, vectors, optimizer=optimizer, after=lambda _: schedule.step())


_TRANSFORMER = functools.partial(Transformer, drop=0.0)
_REGRESSOR = functools.partial(mlp, outputs=1)

DYNAMICS: tuple[Sick, ...] = (
    sick(
        "20 sigmoid layers",
        "vanishing-gradient",
        "0 2 4 6 8",
        _vanishing,
        proofs.gradient_ratio("0.", 1e-6),
    ),
    sick(
        "12 layers with small initial weights",
        "vanishing-gradient",
        "0 2 4",
        _vanishing_init,
        proofs.gradient_ratio("0.", 1e-6),
    ),
    sick(
        "12 convolutions with small initial weights",
        "vanishing-gradient collapsed-output",
        "0 2 4",
        _vanishing_cnn,
        proofs.gradient_ratio("0.", 1e-4),
    ),
    sick(
        "12 layers with large initial weights",
        "exploding-gradient",
        "",
        _exploding,
        proofs.gradient_norm(1e6),
    ),
    sick(
        "an RNN over 30 steps with a recurrent gain of 2",
        "exploding-gradient",
        "",
        _exploding_rnn,
        proofs.gradient_norm(1e4),
    ),
    sick(
        "one batch with inputs of 1,000 times the size",
        "gradient-spike loss-spike input-scale",
        "",
        _strange_batch(80, 1000.0, target=False, make=_REGRESSOR, data=numbers, criterion=F.mse_loss),
        proofs.largest_jump(100),
    ),
    sick(
        "one batch of images of 300 times the size",
        "gradient-spike loss-spike input-scale",
        "",
        _strange_batch(
            60, 300.0, target=False, make=lambda: cnn(norm=False), data=images, criterion=_smoothed
        ),
        proofs.largest_jump(10),
    ),
    sick(
        "one batch with targets of 50 times the size",
        "loss-spike gradient-spike",
        "",
        _strange_batch(70, 50.0, target=True, make=_REGRESSOR, data=numbers, criterion=F.mse_loss),
        proofs.largest_jump(100),
    ),
    sick(
        "one batch with wrong labels",
        "loss-spike gradient-spike",
        "",
        _wrong_labels_once,
        proofs.largest_jump(10),
    ),
    sick("a ReLU that is never active", "dead-units", "3 2", _dead_relu, proofs.zero_share("3")),
    sick(
        "a convolution that is never active",
        "dead-units",
        "5 3",
        _dead_convolution,
        proofs.zero_share("5"),
    ),
    sick(
        "units die from the first steps",
        "dead-units learning-rate-too-high",
        "1 3 0 2",
        _dying,
        proofs.zero_share("3"),
    ),
    sick(
        "three quarters of the units never fire",
        "dead-units",
        "1 0",
        _half_dead,
        proofs.zero_share("1", 0.7),
    ),
    sick("a Tanh at its bounds", "saturated-activation", "1 0", _saturated, proofs.at_bounds("1")),
    sick(
        "a Sigmoid of a CNN at its bounds",
        "saturated-activation",
        "2 0",
        _saturated_sigmoid,
        proofs.at_bounds("2"),
    ),
    sick(
        "a learning rate of 0.3 with Adam",
        "learning-rate-too-high",
        "",
        _rated(mlp, vectors, Adam, 0.3, 3e-3),
        proofs.higher_loss(1.5),
    ),
    sick(
        "a learning rate of 0.1 with AdamW and a transformer",
        "learning-rate-too-high",
        "",
        _rated(_TRANSFORMER, tokens, AdamW, 0.1, 1e-2),
        proofs.higher_loss(2),
    ),
    sick(
        "a learning rate of 10 with SGD and a CNN",
        "learning-rate-too-high",
        "",
        _rated(cnn, images, SGD, 10.0, 0.05),
        proofs.higher_loss(2),
    ),
    sick(
        "a learning rate of 1 with RMSprop and an LSTM",
        "learning-rate-too-high",
        "",
        _rated(Recurrent, sequences, RMSprop, 0.5, 5e-3),
        proofs.higher_loss(1.5),
    ),
    sick(
        "a learning rate of 0.1 with Adam and GELU",
        "learning-rate-too-high",
        "",
        _rated(functools.partial(mlp, width=64, act=nn.GELU), vectors, Adam, 0.1, 3e-3),
        proofs.higher_loss(1.5),
    ),
    sick(
        "a learning rate of 0.1 with Adam and Tanh",
        "learning-rate-too-high",
        "",
        _rated(functools.partial(mlp, width=64, act=nn.Tanh), vectors, Adam, 0.1, 3e-3),
        proofs.higher_loss(1.5),
    ),
    sick(
        "a weight decay of 10 with AdamW that the gradient resists",
        "weight-decay-too-strong",
        "",
        _decayed(mlp, vectors, AdamW, 1e-2, 10.0),
        proofs.higher_loss(1.5),
    ),
    sick(
        "a learning rate of 1e-7 with Adam",
        "learning-rate-too-low loss-not-falling",
        "",
        _rated(mlp, vectors, Adam, 1e-7, 3e-3),
        proofs.higher_loss(2),
    ),
    sick(
        "a learning rate of 1e-6 with SGD and a ResNet",
        "learning-rate-too-low loss-not-falling",
        "",
        _rated(ResNet, images, SGD, 1e-6, 0.05),
        proofs.higher_loss(2),
    ),
    sick(
        "a schedule that ends after ten steps",
        "no-update learning-rate-too-low loss-not-falling",
        "",
        _schedule_too_short,
        proofs.higher_loss(1.3),
    ),
    sick(
        "labels of other samples",
        "loss-not-falling",
        "",
        _noise_labels(vectors, mlp),
        proofs.higher_loss(2),
    ),
    sick(
        "labels of other sequences",
        "loss-not-falling",
        "",
        _noise_labels(sequences, lambda: Recurrent(nn.GRU)),
        proofs.higher_loss(1.5),
    ),
    sick(
        "images that are almost zero",
        "input-scale loss-not-falling collapsed-output",
        "",
        _zero_input,
        proofs.higher_loss(1.3),
    ),
    sick(
        "pairs without negatives",
        "collapsed-output",
        "2",
        _collapsed_pairs,
        proofs.alike_outputs("2", 0.15),
    ),
    sick(
        "a code that is constant",
        "collapsed-output",
        "code decoder decoder.4 decoder.0",
        _constant_code,
        proofs.alike_outputs("code"),
    ),
    sick(
        "images from 0 to 255",
        "input-scale",
        "",
        _scaled_input(_to_bytes, lambda: cnn(norm=False), images),
        proofs.higher("largest input", 20),
    ),
    sick(
        "one feature of a million",
        "input-scale",
        "",
        _scaled_input(
            _one_large_feature, mlp, binary, lambda out, y: F.cross_entropy(out, y[:, 0].long())
        ),
        proofs.higher("largest input", 1000),
    ),
    sick(
        "features of 1e-6",
        "input-scale",
        "",
        _scaled_input(lambda x: x * 1e-6, lambda: mlp(act=nn.Tanh), vectors),
        proofs.lower("largest input", 1000),
    ),
    sick(
        "the loader begins again in each step",
        "repeated-batch",
        "",
        _repeated,
        proofs.higher("share of equal batches", 10),
    ),
    sick(
        "the seed is set in each step",
        "repeated-batch",
        "",
        _repeated_tokens,
        proofs.higher("share of equal batches", 10),
    ),
    sick(
        "a weight decay of 2 with SGD",
        "weight-decay-too-strong",
        "",
        _decayed(mlp, vectors, SGD, 0.1, 2.0),
        proofs.weight_norm("", 10),
    ),
    sick(
        "a weight decay of 30 with AdamW",
        "weight-decay-too-strong",
        "",
        _decayed(lambda: Recurrent(nn.GRU), sequences, AdamW, 3e-3, 30.0),
        proofs.weight_norm("", 3),
    ),
)
"""All programs of this subject."""
