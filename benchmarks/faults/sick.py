"""Programs with a fault and their repaired twins."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - as torch's documentation writes it
from torch.optim import SGD, Adam

from benchmarks.faults.program import Parts, Sick

__all__ = ["SICK"]

N, FEATURES, CLASSES = 32, 16, 4


def _mlp(*last: nn.Module, outputs: int = CLASSES, width: int = 32) -> nn.Sequential:
    layers = [nn.Linear(FEATURES, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(width, outputs), *last)


def _cnn(outputs: int = CLASSES) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Dropout(0.1), nn.Linear(8, outputs),
    )  # fmt: skip


class _Transformer(nn.Module):
    """Tokens to classes through one block."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 16)
        self.block = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
        self.head = nn.Linear(16, CLASSES)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return logits of shape (N, CLASSES)."""
        out: Tensor = self.head(self.block(self.embed(tokens)).mean(1))
        return out


class _Recurrent(nn.Module):
    """An LSTM and a head; `cut` detaches between the two."""

    def __init__(self, *, cut: bool) -> None:
        super().__init__()
        self.lstm = nn.LSTM(FEATURES, 16, batch_first=True)
        self.head = nn.Linear(16, CLASSES)
        self.cut = cut

    def forward(self, x: Tensor) -> Tensor:
        """Return logits of shape (N, CLASSES)."""
        hidden = self.lstm(x)[0][:, -1]
        out: Tensor = self.head(hidden.detach() if self.cut else hidden)
        return out


def _batch() -> tuple[Tensor, Tensor]:
    x = torch.randn(N, FEATURES)
    return x, x[:, :CLASSES].argmax(1)


def _images(count: int = N) -> tuple[Tensor, Tensor]:
    return torch.randn(count, 1, 8, 8), torch.randint(CLASSES, (count,))


def _classify(model: nn.Module) -> Callable[[int], Tensor]:
    def loss(_step: int) -> Tensor:
        x, y = _batch()
        return F.cross_entropy(model(x), y)

    return loss


def _regress(model: nn.Module, *, fault: bool, kind: Callable[..., Tensor]) -> Callable[[int], Tensor]:
    def loss(_step: int) -> Tensor:
        x, _ = _batch()
        y = x[:, 0]
        return kind(model(x), y if fault else y[:, None])

    return loss


def _softmax(sick: bool) -> Parts:
    model = _mlp(*([nn.Softmax(-1)] if sick else []))
    return Parts(model, [Adam(model.parameters())], _classify(model))


def _softmax_in_forward(sick: bool) -> Parts:
    model = _Transformer()

    def loss(_step: int) -> Tensor:
        out = model(torch.randint(20, (N, 6)))
        return F.cross_entropy(out.softmax(-1) if sick else out, torch.randint(CLASSES, (N,)))

    return Parts(model, [Adam(model.parameters())], loss)


def _sigmoid(sick: bool) -> Parts:
    model = _mlp(*([nn.Sigmoid()] if sick else []), outputs=1)

    def loss(_step: int) -> Tensor:
        x, _ = _batch()
        return F.binary_cross_entropy_with_logits(model(x), (x[:, :1] > 0).float())

    return Parts(model, [Adam(model.parameters())], loss)


def _softmax_dim(sick: bool) -> Parts:
    model = _mlp(nn.LogSoftmax(0 if sick else 1))

    def loss(_step: int) -> Tensor:
        x, y = _batch()
        return F.nll_loss(model(x), y)

    return Parts(model, [Adam(model.parameters())], loss)


def _broadcast(kind: Callable[..., Tensor]) -> Callable[[bool], Parts]:
    def make(sick: bool) -> Parts:
        model = _mlp(outputs=1)
        return Parts(model, [Adam(model.parameters())], _regress(model, fault=sick, kind=kind))

    return make


def _squared(output: Tensor, target: Tensor) -> Tensor:
    return ((output - target) ** 2).mean()


def _relu_at_output(sick: bool) -> Parts:
    model = _mlp(*([nn.ReLU()] if sick else []))
    return Parts(model, [Adam(model.parameters())], _classify(model))


def _no_activation(sick: bool) -> Parts:
    between = nn.Identity() if sick else nn.ReLU()
    model = nn.Sequential(
        nn.Linear(FEATURES, 32), between, nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 4)
    )
    return Parts(model, [Adam(model.parameters())], _classify(model))


def _head_left_out(sick: bool) -> Parts:
    model = _mlp()
    held = list(model.parameters())
    return Parts(model, [Adam(held[:-2] if sick else held)], _classify(model))


def _lstm_left_out(sick: bool) -> Parts:
    model = _Transformer()
    held = [p for name, p in model.named_parameters() if not (sick and name.startswith("block"))]
    return Parts(
        model,
        [Adam(held)],
        lambda _: F.cross_entropy(model(torch.randint(20, (N, 6))), torch.randint(CLASSES, (N,))),
    )


def _replaced_head(sick: bool) -> Parts:
    model = _cnn(10)
    early = SGD(model.parameters(), 0.01)
    model[6] = nn.Linear(8, CLASSES)
    late = SGD(model.parameters(), 0.01)

    def loss(_step: int) -> Tensor:
        x, y = _images()
        return F.cross_entropy(model(x), y)

    return Parts(model, [early if sick else late], loss)


def _two_optimizers(sick: bool) -> Parts:
    model = _mlp()
    rest = list(model.parameters()) if sick else list(model.parameters())[:-2]
    return Parts(model, [Adam(rest), SGD(model[4].parameters(), 0.01)], _classify(model))


def _frozen_block(sick: bool) -> Parts:
    model = _Transformer()
    model.block.linear1.requires_grad_(not sick)
    return Parts(
        model,
        [Adam(model.parameters())],
        lambda _: F.cross_entropy(model(torch.randint(20, (N, 6))), torch.randint(CLASSES, (N,))),
    )


def _never_zeroed(sick: bool) -> Parts:
    model = _mlp()
    return Parts(model, [SGD(model.parameters(), 0.01)], _classify(model), zeroes=not sick)


def _detached(sick: bool) -> Parts:
    model = _Recurrent(cut=sick)

    def loss(_step: int) -> Tensor:
        x = torch.randn(N, 5, FEATURES)
        return F.cross_entropy(model(x), x[:, -1, :CLASSES].argmax(1))

    return Parts(model, [Adam(model.parameters())], loss)


def _eval_after_validation(sick: bool) -> Parts:
    model = _cnn()

    def validate(step: int) -> None:
        if step == 0:
            model.eval()
            with torch.no_grad():
                model(_images()[0])
            model.train(not sick)

    def loss(_step: int) -> Tensor:
        x, y = _images()
        return F.cross_entropy(model(x), y)

    return Parts(model, [Adam(model.parameters())], loss, each=validate)


def _tiny_batch(sick: bool) -> Parts:
    model = nn.Sequential(
        nn.Linear(FEATURES, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, CLASSES)
    )

    def loss(_step: int) -> Tensor:
        x, y = _batch()
        count = 2 if sick else N
        return F.cross_entropy(model(x[:count]), y[:count])

    return Parts(model, [Adam(model.parameters())], loss)


def _strong_dropout(sick: bool) -> Parts:
    model = nn.Sequential(
        nn.Linear(FEATURES, 64), nn.ReLU(), nn.Dropout(0.95 if sick else 0.1), nn.Linear(64, CLASSES)
    )
    return Parts(model, [Adam(model.parameters())], _classify(model))


def _untied(sick: bool) -> Parts:
    model = nn.ModuleDict({"embed": nn.Embedding(20, 16), "out": nn.Linear(16, 20, bias=False)})
    model["out"].weight = model["embed"].weight
    optimizer = Adam(model.parameters())

    def untie(step: int) -> None:
        if sick and step == 2:
            model["out"].weight = nn.Parameter(model["out"].weight.detach().clone())

    def loss(_step: int) -> Tensor:
        tokens = torch.randint(20, (N, 2))
        return F.cross_entropy(model["out"](model["embed"](tokens[:, 0])), tokens[:, 1])

    return Parts(model, [optimizer], loss, each=untie)


def _vanishing(sick: bool) -> Parts:
    layers: list[nn.Module] = [nn.Linear(FEATURES, 32)]
    for _ in range(20):
        layers += [nn.Sigmoid() if sick else nn.ReLU(), nn.Linear(32, 32)]
        if not sick:
            layers.append(nn.LayerNorm(32))
    model = nn.Sequential(*layers, nn.ReLU(), nn.Linear(32, CLASSES))
    return Parts(model, [SGD(model.parameters(), 0.01)], _classify(model))


def _dead_relu(sick: bool) -> Parts:
    model = _mlp()
    if sick:
        nn.init.constant_(model[2].bias, -100.0)
    return Parts(model, [Adam(model.parameters())], _classify(model))


def _saturated(sick: bool) -> Parts:
    model = nn.Sequential(nn.Linear(FEATURES, 32), nn.Tanh(), nn.Linear(32, CLASSES))
    if sick:
        with torch.no_grad():
            model[0].weight.mul_(1000)
    return Parts(model, [Adam(model.parameters())], _classify(model))


def _high_rate(sick: bool) -> Parts:
    model = _mlp()
    return Parts(model, [Adam(model.parameters(), 0.3 if sick else 1e-3)], _classify(model))


def _nan_once(sick: bool) -> Parts:
    model = _mlp(outputs=1)

    def loss(step: int) -> Tensor:
        x, _ = _batch()
        out = model(x).square()
        return (out * 0 if sick and step == 40 else out + 1e-6).sqrt().mean()

    return Parts(model, [Adam(model.parameters())], loss)


def _sick(name: str, codes: str, layers: str, make: Callable[[bool], Parts]) -> Sick:
    return Sick(name, frozenset(codes.split()), frozenset(layers.split()), make)


SICK: tuple[Sick, ...] = (
    _sick("a Softmax layer before cross entropy", "double-softmax", "5 4", _softmax),
    _sick("softmax in the loop before cross entropy", "double-softmax", "head", _softmax_in_forward),
    _sick("a Sigmoid before the with-logits loss", "double-softmax", "5 4", _sigmoid),
    _sick("log_softmax over the batch", "wrong-softmax-dim", "5 4", _softmax_dim),
    _sick("mse_loss of (N, 1) and (N,)", "loss-broadcast", "4", _broadcast(F.mse_loss)),
    _sick("l1_loss of (N, 1) and (N,)", "loss-broadcast", "4", _broadcast(F.l1_loss)),
    _sick("a squared difference of (N, 1) and (N,)", "loss-broadcast", "4", _broadcast(_squared)),
    _sick("ReLU on the logits", "relu-at-output", "5 4", _relu_at_output),
    _sick("an activation is missing", "linear-chain", "0 2", _no_activation),
    _sick("the head is in no optimizer", "not-in-optimizer", "4", _head_left_out),
    _sick("a block is in no optimizer", "not-in-optimizer", "block block.self_attn", _lstm_left_out),
    _sick("the head was replaced after the optimizer", "stale-optimizer", "6", _replaced_head),
    _sick("the head is in two optimizers", "in-two-optimizers", "4", _two_optimizers),
    _sick("a layer inside a block is frozen", "frozen", "block.linear1", _frozen_block),
    _sick("zero_grad is missing", "never-zeroed", "", _never_zeroed),
    _sick("detach between LSTM and head", "no-gradient", "lstm", _detached),
    _sick("eval mode after a validation", "eval-mode", "1 5", _eval_after_validation),
    _sick("BatchNorm with a batch of two", "batchnorm-batch-size-one", "1", _tiny_batch),
    _sick("dropout of 0.95", "dropout-too-strong", "2", _strong_dropout),
    _sick("tied weights are untied", "tied-weights-broken", "embed out", _untied),
    _sick("20 sigmoid layers", "vanishing-gradient", "0 2 4 6", _vanishing),
    _sick("a ReLU that is never active", "dead-units", "3", _dead_relu),
    _sick("a Tanh at its bounds", "saturated-activation", "1 0", _saturated),
    _sick("a learning rate of 0.3 with Adam", "learning-rate-too-high", "", _high_rate),
    _sick("sqrt(0) in one step", "nonfinite", "4 2 0", _nan_once),
)
"""All programs. Those after the first twenty have faults that only the statistics show."""
