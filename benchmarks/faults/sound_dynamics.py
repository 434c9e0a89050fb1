"""Sound programs whose gradients, rates, activations and data look odd."""

import functools

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - as torch's documentation writes it
from torch.optim import SGD, Adam, AdamW, Optimizer, RMSprop
from torch.optim.lr_scheduler import CosineAnnealingWarmRestarts, LambdaLR, LRScheduler, OneCycleLR

from benchmarks.faults.data import (
    CLASSES,
    FEATURES,
    N,
    binary,
    images,
    numbers,
    sentences,
    sequences,
    tokens,
    vectors,
)
from benchmarks.faults.models import Recurrent, ResNet, Transformer, cnn, deep, mlp
from benchmarks.faults.program import Parts, Program, train

__all__ = ["DYNAMICS"]


def _scheduled(model: nn.Module, data: object, optimizer: Optimizer, schedule: LRScheduler) -> Parts:
    return train(model, data, optimizer=optimizer, after=lambda _: schedule.step())


def _warm_up() -> Parts:
    model = Transformer()
    optimizer = AdamW(model.parameters(), 3e-3)
    return _scheduled(model, tokens, optimizer, LambdaLR(optimizer, lambda step: min(1.0, step / 30)))


def _ends_at_zero() -> Parts:
    model = mlp()
    optimizer = SGD(model.parameters(), 0.5)
    return _scheduled(
        model, vectors, optimizer, LambdaLR(optimizer, lambda step: max(0.0, 1 - step / 150))
    )


def _one_cycle() -> Parts:
    model = cnn()
    optimizer = SGD(model.parameters(), 0.01, momentum=0.9)
    return _scheduled(model, images, optimizer, OneCycleLR(optimizer, 0.2, total_steps=2000))


def _restarts() -> Parts:
    model = Recurrent(nn.GRU)
    optimizer = Adam(model.parameters(), 1e-2)
    return _scheduled(model, sequences, optimizer, CosineAnnealingWarmRestarts(optimizer, 25))


def _one_batch() -> Parts:
    """One batch, the same tensors in each step, is overfitted on purpose."""
    x, y = vectors()
    return train(mlp(), lambda: (x, y))


def _full_batch() -> Parts:
    """Gradient descent on the whole data set."""
    x, y = numbers(512)
    model = mlp(outputs=1)
    return train(model, lambda: (x, y), F.mse_loss, SGD(model.parameters(), 0.05, momentum=0.9))


def _clipped() -> Parts:
    """Clipping at 1.0 that acts in most steps, with a loss of large numbers."""
    model = Recurrent()
    optimizer, loss_of = Adam(model.parameters(), 3e-3), train(model, sequences).loss

    def step(number: int) -> Tensor:
        optimizer.zero_grad()
        loss: Tensor = 5 * loss_of(number)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return loss

    return Parts(model, [optimizer], step=step)


def _gated() -> Parts:
    """LSTM with a forget bias of 5."""
    model = Recurrent()
    with torch.no_grad():
        model.rnn.bias_ih_l0[16:32] = 5.0
    return train(model, sequences)


class _Highway(nn.Module):
    """Highway layers that begin closed."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(FEATURES, 32)
        self.layers = nn.ModuleList(nn.Linear(32, 32) for _ in range(4))
        self.openings = nn.ModuleList(nn.Sequential(nn.Linear(32, 32), nn.Sigmoid()) for _ in range(4))
        self.head = nn.Linear(32, CLASSES)
        for opening in self.openings:
            nn.init.constant_(opening[0].bias, -4.0)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.first(x)
        for layer, opening in zip(self.layers, self.openings, strict=True):
            open_by = opening(hidden)
            hidden = open_by * layer(hidden).relu() + (1 - open_by) * hidden
        out: Tensor = self.head(hidden)
        return out


def _imbalanced() -> Parts:
    """One label in 50 is positive; the loss of a constant prediction is nearly reached soon."""

    def data() -> tuple[Tensor, Tensor]:
        x, _ = binary(128)
        return x, (x[:, :1] > 2.05).float()

    model = mlp(outputs=1)
    return train(model, data, F.binary_cross_entropy_with_logits, Adam(model.parameters(), 3e-3))


def _unscaled_targets() -> Parts:
    """Prices in thousands, and a sum as the loss."""

    def data() -> tuple[Tensor, Tensor]:
        x, y = numbers()
        return x, 100 * y + 300

    def squares(out: Tensor, y: Tensor) -> Tensor:
        return F.mse_loss(out, y, reduction="sum")

    model = mlp(outputs=1)
    return train(model, data, squares, Adam(model.parameters(), 3e-2))


def _one_hot() -> Parts:
    def data() -> tuple[Tensor, Tensor]:
        x, y = tokens()
        return F.one_hot(x, 20).float().flatten(1), y

    return train(mlp(inputs=120), data)


def _integers() -> Parts:
    """Bytes are converted and scaled inside of the model."""
    model = nn.Sequential(_FromBytes(), *cnn())

    def data() -> tuple[Tensor, Tensor]:
        x, y = images()
        return (x * 40 + 100).clamp(0, 255).to(torch.uint8), y

    return train(model, data)


class _FromBytes(nn.Module):
    """Bytes to numbers around 0."""

    def forward(self, x: Tensor) -> Tensor:
        return (x.float() - 100) / 40


def _sparse_features() -> Parts:
    """Bags of words: most features are 0 in most samples, and some are always 0."""

    def data() -> tuple[Tensor, Tensor]:
        x = (torch.rand(N, 200) < 0.02).float()
        x[:, 150:] = 0
        y = torch.randint(CLASSES, (N,))
        x[torch.arange(N), y] = 1.0
        return x, y

    return train(mlp(inputs=200), data)


def _without_batch_noise() -> Parts:
    """Ten batches of a data set that fits into memory, again in each epoch, as views of the same tensor."""
    x, y = vectors(320)
    count = iter(range(10**6))

    def data() -> tuple[Tensor, Tensor]:
        start = next(count) % 10 * N
        return x[start : start + N], y[start : start + N]

    return train(mlp(), data)


def _mixed_precision(kind: torch.dtype) -> Parts:
    model = cnn()

    def loss(_step: int) -> Tensor:
        x, y = images()
        with torch.autocast("cpu", kind):
            return F.cross_entropy(model(x), y)

    return Parts(model, [Adam(model.parameters(), 3e-3)], loss)


def _bf16() -> Parts:
    """bf16 parameters with a rate that is large enough for them."""
    model = mlp().bfloat16()

    def loss(_step: int) -> Tensor:
        x, y = vectors()
        return F.cross_entropy(model(x.bfloat16()).float(), y)

    return Parts(model, [SGD(model.parameters(), 0.5)], loss)


def _float64() -> Parts:
    model = Recurrent(nn.RNN).double()

    def data() -> tuple[Tensor, Tensor]:
        x, y = sequences()
        return x.double(), y

    return train(model, data)


def _fine_tuned() -> Parts:
    """A trained model with a rate of 1e-5: updates are small on purpose."""
    model = Transformer(language=True)
    optimizer = AdamW(model.parameters(), 1e-2)
    for _ in range(80):
        optimizer.zero_grad()
        x, y = sentences()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    return train(model, sentences, optimizer=AdamW(model.parameters(), 1e-5))


def _noisy() -> Parts:
    """A batch of four with noisy labels: the loss jumps from step to step."""

    def data() -> tuple[Tensor, Tensor]:
        x, y = vectors(4)
        return x, torch.where(torch.rand(4) < 0.2, torch.randint(CLASSES, (4,)), y)

    model = mlp()
    return train(model, data, optimizer=SGD(model.parameters(), 0.05))


def _hard_batches() -> Parts:
    """Heavy-tailed targets: some batches have ten times the loss."""

    def data() -> tuple[Tensor, Tensor]:
        x, y = numbers()
        return x, y + torch.distributions.StudentT(2.5).sample((N, 1))

    return train(mlp(outputs=1), data, F.mse_loss)


def _self_normalizing() -> Parts:
    model = deep(8, nn.SELU, gain=1.0)
    return train(model, vectors, optimizer=SGD(model.parameters(), 0.05))


def _decayed() -> Parts:
    """Weight decay of 0.1 in AdamW, as for language models."""
    model = Transformer(language=True, norm_first=True)
    return train(
        model, sentences, optimizer=AdamW(model.parameters(), 3e-3, weight_decay=0.1, betas=(0.9, 0.95))
    )


def _sharp_attention() -> Parts:
    """A transformer at the end of its training, whose loss is near zero."""
    model = Transformer(drop=0.0)
    return train(model, tokens, optimizer=Adam(model.parameters(), 1e-2))


_MLP_ACTS = {
    "ELU": nn.ELU,
    "GELU": nn.GELU,
    "Softplus": nn.Softplus,
    "Hardtanh": nn.Hardtanh,
    "LeakyReLU": nn.LeakyReLU,
}

DYNAMICS: tuple[Program, ...] = (
    Program("a warm-up from zero", _warm_up),
    Program("a schedule that ends at zero", _ends_at_zero),
    Program("one cycle", _one_cycle),
    Program("cosine annealing with restarts", _restarts),
    Program("residual branches that begin at zero", lambda: train(ResNet("zero"), images)),
    Program("ReZero", lambda: train(ResNet("rezero"), images)),
    Program("LayerScale", lambda: train(ResNet("layerscale"), images)),
    Program("stochastic depth", lambda: train(ResNet(drop_path=0.3), images)),
    Program("one batch, overfitted", _one_batch),
    Program("the whole data set in each step", _full_batch),
    Program("ten batches, again in each epoch", _without_batch_noise),
    Program("clipping that acts in most steps", _clipped),
    Program("an LSTM with a forget bias of 5", _gated),
    Program("highway layers that begin closed", lambda: train(_Highway(), vectors)),
    Program("one positive label in 50", _imbalanced),
    Program("targets in thousands with a sum loss", _unscaled_targets),
    Program("one-hot inputs", _one_hot),
    Program("bytes as input", _integers),
    Program("sparse features", _sparse_features),
    Program("autocast to bf16", functools.partial(_mixed_precision, torch.bfloat16)),
    Program("bf16 parameters", _bf16),
    Program("float64", _float64),
    Program("fine-tuning with a rate of 1e-5", _fine_tuned),
    Program("noisy labels with a batch of four", _noisy),
    Program("targets with heavy tails", _hard_batches),
    Program("dropout of 0.5", lambda: train(cnn(drop=0.5), images)),
    Program("a self-normalizing network", _self_normalizing),
    Program("a weight decay of 0.1", _decayed),
    Program("a transformer that is done", _sharp_attention),
    Program("20 residual layers", lambda: train(deep(20, nn.ReLU, residual=True), vectors)),
    Program(
        "RMSprop with momentum",
        lambda: train(m := cnn(), images, optimizer=RMSprop(m.parameters(), 1e-3, momentum=0.9)),
    ),
    *(
        Program(f"{name} activations", functools.partial(lambda act: train(mlp(act=act), vectors), act))
        for name, act in _MLP_ACTS.items()
    ),
)
"""All programs of this subject."""
