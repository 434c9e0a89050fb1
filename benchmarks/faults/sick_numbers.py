"""Faults of the numbers themselves: NaN, Inf, and what a number format cannot hold."""

import functools
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - as torch's documentation writes it
from torch.optim import SGD, Adam, AdamW

from benchmarks.faults import proofs
from benchmarks.faults.data import FEATURES, N, binary, images, sentences, sequences, vectors
from benchmarks.faults.models import VAE, Attention, Transformer, cnn, mlp
from benchmarks.faults.program import Parts, Sick, sick, train

__all__ = ["NUMBERS"]


def _root_at_zero(is_sick: bool) -> Parts:
    """The gradient of a root at 0, in step 40."""
    model = mlp(outputs=1)

    def loss(step: int) -> Tensor:
        out = model(vectors()[0]).square()
        return (out * 0 if is_sick and step == 40 else out + 1e-6).sqrt().mean()

    return Parts(model, [Adam(model.parameters())], loss)


def _logarithm(is_sick: bool) -> Parts:
    """Cross entropy by hand: the logarithm of a probability that becomes 0."""
    model = mlp()

    def criterion(out: Tensor, y: Tensor) -> Tensor:
        probability = (out * (2000 if is_sick else 1)).softmax(-1).gather(1, y[:, None])
        return -(probability if is_sick else probability + 1e-8).log().mean()

    return train(model, vectors, criterion)


def _masked_row(is_sick: bool) -> Parts:
    """A query for which all keys are masked."""
    mask = torch.ones(6, 6, dtype=torch.bool).triu(1)
    mask[-1] = mask[-1] | is_sick
    return train(Attention(mask=mask), sequences)


class _Standardize(nn.Module):
    """Subtracts the mean and divides by the deviation over the batch."""

    def __init__(self, eps: float) -> None:
        super().__init__()
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return (x - x.mean(0)) / (x.std(0) + self.eps)


def _constant_feature(is_sick: bool) -> Parts:
    """A feature is divided by its deviation, which is 0 in step 30."""
    model, number = nn.Sequential(_Standardize(0.0 if is_sick else 1e-5), mlp()), [-1]

    def data() -> tuple[Tensor, Tensor]:
        number[0] += 1
        x, y = vectors()
        if number[0] == 30:
            x[:, 7] = 1.0
        return x, y

    return train(model, data)


def _bad_batch(is_sick: bool) -> Parts:
    """NaN in the images of step 50."""
    model, number = cnn(), [-1]

    def data() -> tuple[Tensor, Tensor]:
        number[0] += 1
        x, y = images()
        if is_sick and number[0] == 50:
            x[3, 0, 2, 2] = torch.nan
        return x, y

    return train(model, data)


def _exponential(is_sick: bool) -> Parts:
    """The exponential of a variance without bound overflows."""
    model = VAE()
    if is_sick:
        nn.init.constant_(model.log_variance.bias, 300.0)

    def loss(_step: int) -> Tensor:
        x, _ = vectors()
        out, mean, log_variance = model(x)
        divergence = -0.5 * (1 + log_variance - mean**2 - log_variance.exp()).sum(1).mean()
        return F.mse_loss(out, x, reduction="sum") / N + divergence

    return Parts(model, [Adam(model.parameters(), 3e-3)], loss)


def _ignored_labels(is_sick: bool) -> Parts:
    """All labels of the batch of step 25 are ignored: the mean over nothing."""
    model, number = Transformer(language=True), [-1]

    def criterion(out: Tensor, y: Tensor) -> Tensor:
        number[0] += 1
        ignored = torch.full_like(y, -100)
        return F.cross_entropy(out, ignored if is_sick and number[0] == 25 else y)

    return train(model, sentences, criterion)


class _Angle(nn.Module):
    """The angle between two embeddings; `eps` keeps the cosine off 1."""

    def __init__(self, eps: float) -> None:
        super().__init__()
        self.embed, self.eps = mlp(outputs=8), eps

    def forward(self, x: Tensor) -> Tensor:
        one, two = F.normalize(self.embed(x), dim=1), F.normalize(self.embed(x.roll(1, 1)), dim=1)
        cosine: Tensor = (one * two).sum(1, keepdim=True)
        return cosine.clamp(-1 + self.eps, 1 - self.eps).acos()


def _angles(is_sick: bool) -> Parts:
    """The angle of equal vectors: acos at 1, from step 35 on."""
    model, number = _Angle(0.0 if is_sick else 1e-4), [-1]

    def data() -> tuple[Tensor, Tensor]:
        number[0] += 1
        x, y = binary()
        if number[0] >= 35:
            x[:8] = torch.randn(8, 1)
        return x, y

    return train(model, data, F.mse_loss)


def _divergence(is_sick: bool) -> Parts:
    """SGD with a learning rate that makes the weights grow to infinity."""
    model = mlp(outputs=1)

    def data() -> tuple[Tensor, Tensor]:
        x, _ = vectors()
        return x * 3, x[:, :1] * 10

    return train(model, data, F.mse_loss, SGD(model.parameters(), 0.3 if is_sick else 1e-3))


# What a number format cannot hold.


def _half_overflow(is_sick: bool) -> Parts:
    """Scores of attention over 65,504 in float16."""
    model = Attention(scale=1e6 if is_sick else 1.0)

    def loss(_step: int) -> Tensor:
        x, y = sequences()
        with torch.autocast("cpu", torch.float16):
            out = model(x)
        return F.cross_entropy(out.float(), y)

    return Parts(model, [Adam(model.parameters(), 3e-3)], loss)


def _half_activations(is_sick: bool) -> Parts:
    """Activations of a float16 model grow over the layers until they are infinite."""
    model = mlp().half() if is_sick else mlp()
    with torch.no_grad():
        model[0].weight.mul_(300)
        model[2].weight.mul_(300)
    kind = model[0].weight.dtype
    start = 1 / 300.0 if not is_sick else 1.0

    def loss(_step: int) -> Tensor:
        x, y = vectors()
        return F.cross_entropy(model((x * start).to(kind)).float(), y)

    return Parts(model, [SGD(model.parameters(), 1e-3)], loss)


def _skipping(is_sick: bool) -> Parts:
    """A layer overflows in float16 in each third step, so the scaler skips these steps."""
    model, skipped = mlp(), list[float]()
    optimizer, scaler = SGD(model.parameters(), 0.1), torch.amp.GradScaler("cpu")

    def step(number: int) -> Tensor:
        x, y = vectors()
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.float16):
            out = model(x * 1e6 if is_sick and number % 3 == 2 else x)
        loss = F.cross_entropy(out.float(), y)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        before = scaler.get_scale()
        scaler.update()
        skipped.append(float(scaler.get_scale() < before))
        return loss

    return Parts(model, [optimizer], step=step, measure=proofs.mean_of(skipped))


def _underflow(is_sick: bool) -> Parts:
    """Autocast to float16 without a loss scale: gradients of outputs are below 6e-8. The twin scales the loss."""
    model = mlp(width=64)
    small, scale = 2.0**-18, 1.0 if is_sick else 2.0**18
    optimizer = SGD(model.parameters(), 0.1 / (small * scale))

    def loss(_step: int) -> Tensor:
        x, y = vectors()
        with torch.autocast("cpu", torch.float16):
            out = model(x)
        return F.cross_entropy(out.float(), y) * small * scale

    def share() -> float:
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        return sum(float((g == 0).sum()) for g in gradients) / sum(g.numel() for g in gradients)

    return Parts(model, [optimizer], loss, measure=share)


def _lost(
    make: Callable[[], nn.Module],
    data: object,
    optimizer: Callable[..., torch.optim.Optimizer],
    rate: float,
    kind: torch.dtype = torch.bfloat16,
) -> object:
    """Return a program whose updates are below the resolution of the weights."""

    def program(is_sick: bool) -> Parts:
        model = make().to(kind if is_sick else torch.float32)
        chosen = optimizer(model.parameters(), rate)
        weights = [p for p in model.parameters() if p.dim() > 1]
        start = [p.detach().clone() for p in weights]

        def loss(_step: int) -> Tensor:
            x, y = data()
            x = x.to(weights[0].dtype) if x.is_floating_point() else x
            return F.cross_entropy(model(x).float(), y)

        def share() -> float:
            same = sum(int((p == s).sum()) for p, s in zip(weights, start, strict=True))
            return same / sum(p.numel() for p in weights)

        return Parts(model, [chosen], loss, measure=share)

    return program


def _features_by_hand(is_sick: bool) -> Parts:
    """0 / 0 in a normalization of a vector that is 0 in step 20."""
    model = nn.Sequential(
        nn.Linear(FEATURES, 16), nn.ReLU(), _Unit(0.0 if is_sick else 1e-8), nn.Linear(16, 4)
    )
    number = [-1]

    def data() -> tuple[Tensor, Tensor]:
        number[0] += 1
        x, y = vectors()
        if number[0] == 20:
            with torch.no_grad():
                x[0] = torch.linalg.lstsq(model[0].weight, -model[0].bias[:, None] - 1)[0][:, 0]
        return x, y

    return train(model, data)


class _Unit(nn.Module):
    """Divides by the norm."""

    def __init__(self, eps: float) -> None:
        super().__init__()
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return x / ((x * x).sum(1, keepdim=True) + self.eps).sqrt()


NUMBERS: tuple[Sick, ...] = (
    sick("the gradient of sqrt(0) in one step", "nonfinite", "", _root_at_zero, proofs.is_nonfinite()),
    sick("the logarithm of a probability of 0", "nonfinite", "", _logarithm, proofs.is_nonfinite()),
    sick(
        "a query with all keys masked",
        "nonfinite",
        "model head",
        _masked_row,
        proofs.is_nonfinite(),
    ),
    sick(
        "a division by a deviation of 0 in one step",
        "nonfinite",
        "0",
        _constant_feature,
        proofs.is_nonfinite(),
    ),
    sick("NaN in the images of one step", "nonfinite", "0", _bad_batch, proofs.is_nonfinite()),
    sick(
        "exp of a variance of 300",
        "nonfinite",
        "model log_variance decoder.0",
        _exponential,
        proofs.is_nonfinite(),
    ),
    sick(
        "all labels of one step are ignored",
        "nonfinite",
        "",
        _ignored_labels,
        proofs.is_nonfinite(),
    ),
    sick("acos of 1 from step 35 on", "nonfinite", "model embed.4", _angles, proofs.is_nonfinite()),
    sick("0 / 0 in one step", "nonfinite", "2", _features_by_hand, proofs.is_nonfinite()),
    sick(
        "weights that grow to infinity",
        "nonfinite learning-rate-too-high exploding-gradient",
        "",
        _divergence,
        proofs.is_nonfinite(),
    ),
    sick(
        "scores over 65,504 in float16",
        "overflow nonfinite",
        "model head",
        _half_overflow,
        proofs.is_nonfinite(),
    ),
    sick(
        "activations over 65,504 in float16",
        "overflow nonfinite",
        "2 0 4",
        _half_activations,
        proofs.is_nonfinite(),
    ),
    sick(
        "a layer overflows in each third step, which the scaler skips",
        "scaler-skip nonfinite overflow",
        "0 2 4",
        _skipping,
        proofs.higher("share of skipped steps", 10),
    ),
    sick(
        "float16 gradients without a loss scale",
        "underflow",
        "",
        _underflow,
        proofs.higher("share of gradients that are 0", 2),
    ),
    sick(
        "bf16 weights with SGD and a rate of 1e-4",
        "lost-updates",
        "",
        _lost(mlp, vectors, SGD, 1e-3),
        proofs.higher("share of weights that did not change", 3),
    ),
    sick(
        "bf16 weights with AdamW and a rate of 1e-5",
        "lost-updates",
        "",
        _lost(functools.partial(Transformer, language=True), sentences, AdamW, 1e-5),
        proofs.higher("share of weights that did not change", 3),
    ),
    sick(
        "float16 weights with SGD and a rate of 1e-3",
        "lost-updates underflow",
        "",
        _lost(mlp, vectors, SGD, 1e-4, torch.float16),
        proofs.higher("share of weights that did not change", 3),
    ),
)
"""All programs of this subject."""
