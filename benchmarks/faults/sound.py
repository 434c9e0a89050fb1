"""Programs that are right and look odd."""

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - as torch's documentation writes it
from torch.optim import SGD, Adam, AdamW

from benchmarks.faults.program import Parts, Program

__all__ = ["SOUND"]


def _mlp(inputs: int = 8, outputs: int = 4) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, 32), nn.ReLU(), nn.Linear(32, outputs))


def _labels(classes: int = 4, count: int = 16) -> Tensor:
    return torch.randint(classes, (count,))


def _trainable(model: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def _vae() -> Parts:
    model = nn.ModuleDict(
        {
            "encoder": nn.Sequential(nn.Linear(20, 16), nn.ReLU()),
            "mean": nn.Linear(16, 4),
            "log_variance": nn.Linear(16, 4),
            "decoder": nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 20), nn.Sigmoid()),
        }
    )

    def loss(_step: int) -> Tensor:
        x = torch.rand(8, 20)
        hidden = model["encoder"](x)
        mean, log_variance = model["mean"](hidden), model["log_variance"](hidden)
        sample = mean + torch.randn_like(mean) * (log_variance / 2).exp()
        likelihood = F.binary_cross_entropy(model["decoder"](sample), x, reduction="sum") / 8
        divergence = 0.5 * (1 + log_variance - mean**2 - log_variance.exp()).sum(1).mean()
        total: Tensor = likelihood - divergence
        return total

    return Parts(model, [Adam(model.parameters())], loss)


def _policy_gradient() -> Parts:
    model = nn.Sequential(nn.Linear(4, 32), nn.Tanh(), nn.Linear(32, 2), nn.Softmax(-1))

    def loss(_step: int) -> Tensor:
        policy = torch.distributions.Categorical(model(torch.randn(16, 4)))
        return -(policy.log_prob(policy.sample()) * torch.randn(16)).mean()  # type: ignore[no-untyped-call]  # torch leaves it untyped

    return Parts(model, [Adam(model.parameters())], loss)


def _q_learning() -> Parts:
    model = _mlp(4, 2)
    target = copy.deepcopy(model).requires_grad_(False)

    def loss(_step: int) -> Tensor:
        value = model(torch.randn(16, 4)).gather(1, torch.randint(2, (16, 1)))
        wanted = torch.randn(16, 1) + 0.9 * target(torch.randn(16, 4)).max(1, keepdim=True)[0]
        return F.smooth_l1_loss(value, wanted)

    return Parts(model, [Adam(model.parameters())], loss)


def _distillation() -> Parts:
    teacher, model = _mlp().eval(), _mlp()

    def loss(_step: int) -> Tensor:
        x = torch.randn(16, 8)
        with torch.no_grad():
            wanted = teacher(x)
        soft = F.kl_div(F.log_softmax(model(x) / 2, 1), F.softmax(wanted / 2, 1), reduction="batchmean")
        return soft * 4 + F.cross_entropy(model(x), wanted.argmax(1))

    return Parts(model, [Adam(model.parameters())], loss)


class _Experts(nn.Module):
    """Four experts, of which two are never chosen."""

    def __init__(self) -> None:
        super().__init__()
        self.router = nn.Linear(8, 4)
        self.experts = nn.ModuleList(_mlp(8, 8) for _ in range(4))
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits."""
        weights = self.router(x).softmax(-1)
        chosen = int(weights.sum(0)[:2].argmax())
        out: Tensor = self.head(F.gelu(self.experts[chosen](x) * weights[:, chosen : chosen + 1] + x))
        return out


class _Adapted(nn.Module):
    """A frozen layer with a low-rank adapter."""

    def __init__(self) -> None:
        super().__init__()
        self.base = nn.Linear(8, 32).requires_grad_(False)
        self.down, self.up = nn.Linear(8, 2, bias=False), nn.Linear(2, 32, bias=False)
        self.head = nn.Linear(32, 4)
        nn.init.zeros_(self.up.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits."""
        out: Tensor = self.head(F.relu(self.base(x) + self.up(self.down(x))))
        return out


class _ZeroResidual(nn.Module):
    """A residual branch that begins at zero."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(8, 8), nn.Linear(8, 8)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Return x and the branch."""
        return x + self.last(F.relu(self.first(x)))


class _Tasks(nn.Module):
    """Two heads, of which each step uses one."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.one, self.two = nn.Linear(8, 16), nn.Linear(16, 4), nn.Linear(16, 4)

    def forward(self, x: Tensor, step: int) -> Tensor:
        """Return the logits of one task."""
        out: Tensor = (self.one if step % 2 else self.two)(F.relu(self.body(x)))
        return out


class _Tied(nn.Module):
    """A transformer whose output weights are its embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(30, 16)
        self.block = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
        self.head = nn.Linear(16, 30, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens: Tensor) -> Tensor:
        """Return logits of shape (N · length, 30)."""
        out: Tensor = self.head(self.block(self.embed(tokens))).flatten(0, 1)
        return out


class _SequenceFirst(nn.Module):
    """Attention over dimension 0, which is time."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.score, self.head = nn.Linear(8, 16), nn.Linear(16, 1), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits."""
        hidden = torch.tanh(self.embed(x))
        out: Tensor = self.head((hidden * self.score(hidden).softmax(0)).sum(0))
        return out


def _classifier(model: nn.Module, parameters: list[nn.Parameter] | None = None) -> Parts:
    return Parts(
        model,
        [Adam(parameters or model.parameters())],
        lambda _: F.cross_entropy(model(torch.randn(16, 8)), _labels()),
    )


def _contrastive() -> Parts:
    model = _mlp(8, 8)

    def loss(_step: int) -> Tensor:
        first, second = (F.normalize(model(torch.randn(16, 8)), dim=1) for _ in range(2))
        logits, pairs = first @ second.T / 0.1, torch.arange(16)
        return (F.cross_entropy(logits, pairs) + F.cross_entropy(logits.T, pairs)) / 2

    return Parts(model, [Adam(model.parameters())], loss)


def _one_batch() -> Parts:
    model, x, y = _mlp(), torch.randn(16, 8), _labels()
    return Parts(model, [Adam(model.parameters())], lambda _: F.cross_entropy(model(x), y))


def _frozen_norm() -> Parts:
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 4),
    )
    model[1].eval().requires_grad_(False)
    return Parts(
        model,
        [Adam(_trainable(model))],
        lambda _: F.cross_entropy(model(torch.randn(16, 3, 8, 8)), _labels()),
    )


def _segmentation() -> Parts:
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 5, 1)
    )

    def loss(_step: int) -> Tensor:
        return F.cross_entropy(model(torch.randn(2, 3, 8, 8)), torch.randint(5, (2, 8, 8)))

    return Parts(model, [SGD(model.parameters(), 0.01)], loss)


def _differential() -> Parts:
    model = nn.Sequential(nn.Linear(1, 16), nn.Tanh(), nn.Linear(16, 1))

    def loss(_step: int) -> Tensor:
        x = torch.rand(16, 1, requires_grad=True)
        value = model(x)
        (slope,) = torch.autograd.grad(value.sum(), x, create_graph=True)
        return (slope - value).square().mean() + (model(torch.zeros(1, 1)) - 1).square().mean()

    return Parts(model, [Adam(model.parameters())], loss)


def _regression() -> Parts:
    model = _mlp(8, 1)

    def loss(_step: int) -> Tensor:
        return (model(torch.randn(16, 8)).squeeze(1) - torch.randn(16)).square().mean()

    return Parts(model, [Adam(model.parameters())], loss)


def _warm_up() -> Parts:
    model = _mlp()
    optimizer = SGD(model.parameters(), 0.1)

    def warm_up(step: int) -> None:
        optimizer.param_groups[0]["lr"] = 0.1 * min(1.0, step / 20)

    return Parts(
        model,
        [optimizer],
        lambda _: F.cross_entropy(model(torch.randn(16, 8)), _labels()),
        each=warm_up,
    )


def _fine_tuned() -> nn.Module:
    model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 4))
    model[:3].requires_grad_(False)
    return model


def _tied() -> Parts:
    model = _Tied()
    return Parts(
        model,
        [AdamW(model.parameters())],
        lambda _: F.cross_entropy(model(torch.randint(30, (8, 12))), _labels(30, 96)),
    )


def _tasks() -> Parts:
    model = _Tasks()
    return Parts(
        model,
        [Adam(model.parameters())],
        lambda step: F.cross_entropy(model(torch.randn(16, 8), step), _labels()),
    )


def _adapted() -> Parts:
    model = _Adapted()
    return _classifier(model, _trainable(model))


def _sequence_first() -> Parts:
    model = _SequenceFirst()
    return Parts(
        model,
        [Adam(model.parameters())],
        lambda _: F.cross_entropy(model(torch.randn(12, 16, 8)), _labels()),
    )


SOUND: tuple[Program, ...] = (
    Program("a variational autoencoder", _vae),
    Program("a policy gradient over a softmax", _policy_gradient),
    Program("Q-learning with a target network", _q_learning),
    Program("distillation", _distillation),
    Program("experts that are never chosen", lambda: _classifier(_Experts())),
    Program("LoRA", _adapted),
    Program(
        "residual branches that begin at zero",
        lambda: _classifier(nn.Sequential(nn.Linear(8, 8), nn.ReLU(), _ZeroResidual(), _mlp())),
    ),
    Program("tasks that alternate", _tasks),
    Program("a contrastive loss over the batch", _contrastive),
    Program("one batch, overfitted", _one_batch),
    Program("BatchNorm frozen in fine-tuning", _frozen_norm),
    Program("segmentation with a batch of two", _segmentation),
    Program("a loss with a derivative", _differential),
    Program("regression by hand", _regression),
    Program("a warm-up from zero", _warm_up),
    Program("a frozen backbone, all parameters in the optimizer", lambda: _classifier(_fine_tuned())),
    Program("a transformer with tied weights", _tied),
    Program("attention over time in dimension 0", _sequence_first),
)
"""All programs."""
