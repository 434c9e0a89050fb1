"""The models of the programs, small, with keywords for what the programs vary."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - as torch's documentation writes it

from benchmarks.faults.data import CLASSES, FEATURES, TOKENS

__all__ = [
    "VAE",
    "Adapted",
    "Attention",
    "Block",
    "Experts",
    "Flow",
    "Recurrent",
    "ResNet",
    "Residual",
    "Transformer",
    "adversaries",
    "cnn",
    "deep",
    "mlp",
    "trainable",
]

WIDTH = 16


def trainable(model: nn.Module) -> list[nn.Parameter]:
    """Return the parameters that require a gradient."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def mlp(
    *last: nn.Module,
    inputs: int = FEATURES,
    outputs: int = CLASSES,
    width: int = 32,
    act: Callable[[], nn.Module] = nn.ReLU,
) -> nn.Sequential:
    """Return three linear layers (0, 2, 4) with activations (1, 3), then the modules `last`."""
    layers = [nn.Linear(inputs, width), act(), nn.Linear(width, width), act()]
    return nn.Sequential(*layers, nn.Linear(width, outputs), *last)


class Residual(nn.Module):
    """x and a branch of x."""

    def __init__(self, *branch: nn.Module) -> None:
        super().__init__()
        self.branch = nn.Sequential(*branch)

    def forward(self, x: Tensor) -> Tensor:
        """Return the sum."""
        out: Tensor = x + self.branch(x)
        return out


def deep(
    depth: int,
    act: Callable[[], nn.Module],
    *,
    residual: bool = False,
    gain: float = 0.0,
    width: int = 32,
) -> nn.Sequential:
    """Return `depth` linear layers of one width, and a head.

    residual: each is a residual branch with LayerNorm. gain: deviation of the weights times √width; 0: PyTorch's.
    """
    layers: list[nn.Module] = []
    for position in range(depth):
        linear = nn.Linear(FEATURES if position == 0 else width, width)
        if gain:
            nn.init.normal_(linear.weight, std=gain / linear.in_features**0.5)
        layers += (
            [Residual(nn.LayerNorm(width), linear, act())] if residual and position else [linear, act()]
        )
    return nn.Sequential(*layers, nn.Linear(width, CLASSES))


def cnn(
    *, norm: bool = True, drop: float = 0.1, act: Callable[[], nn.Module] = nn.ReLU
) -> nn.Sequential:
    """Return two convolutions (0, 3), norms (1, 4), activations (2, 5), a pooling, dropout (8) and a head (9)."""
    layers: list[nn.Module] = []
    for channels in (1, 8):
        normalization = nn.BatchNorm2d(8) if norm else nn.Identity()
        layers += [nn.Conv2d(channels, 8, 3, padding=1), normalization, act()]
    return nn.Sequential(
        *layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Dropout(drop), nn.Linear(32, CLASSES)
    )


class Block(nn.Module):
    """A residual block. branch: "plain", or how the branch begins at zero: "zero", "rezero", "layerscale"."""

    def __init__(self, channels: int, branch: str, drop_path: float) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(channels, channels, 3, padding=1), nn.BatchNorm2d(channels)
        self.conv2, self.norm2 = nn.Conv2d(channels, channels, 3, padding=1), nn.BatchNorm2d(channels)
        if branch == "zero":
            nn.init.zeros_(self.norm2.weight)
        starts = {"rezero": torch.zeros(1), "layerscale": torch.full((channels, 1, 1), 1e-5)}
        self.scale = nn.Parameter(starts[branch]) if branch in starts else None
        self.drop_path = drop_path

    def forward(self, x: Tensor) -> Tensor:
        """Return x and the branch."""
        out: Tensor = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))
        if self.scale is not None:
            out = self.scale * out
        if self.drop_path and self.training:
            out = out * (torch.rand(len(x), 1, 1, 1) > self.drop_path) / (1 - self.drop_path)
        return F.relu(x + out)


class ResNet(nn.Module):
    """A stem, residual blocks and a head."""

    def __init__(self, branch: str = "plain", drop_path: float = 0.0) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.blocks = nn.Sequential(*(Block(8, branch, drop_path) for _ in range(3)))
        self.pool, self.head = nn.AdaptiveAvgPool2d(2), nn.Linear(32, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (N, CLASSES)."""
        out: Tensor = self.head(self.pool(self.blocks(F.relu(self.norm(self.stem(x))))).flatten(1))
        return out


class Recurrent(nn.Module):
    """An LSTM, GRU or RNN and a head. between: what is done with the last hidden state before the head."""

    def __init__(
        self,
        kind: type[nn.RNNBase] = nn.LSTM,
        between: Callable[[Tensor], Tensor] | None = None,
        **settings: object,
    ) -> None:
        super().__init__()
        self.rnn = kind(FEATURES, WIDTH, batch_first=True, **settings)
        self.head = nn.Linear(WIDTH, CLASSES)
        self.between = between

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (N, CLASSES)."""
        hidden = self.rnn(x)[0][:, -1]
        out: Tensor = self.head(hidden if self.between is None else self.between(hidden))
        return out


class Transformer(nn.Module):
    """Tokens to classes, or to the next token if `language`, through two blocks."""

    def __init__(
        self, *, language: bool = False, tied: bool = False, drop: float = 0.1, norm_first: bool = False
    ) -> None:
        super().__init__()
        self.embed, self.position = (
            nn.Embedding(TOKENS, WIDTH),
            nn.Parameter(torch.randn(64, WIDTH) * 0.02),
        )
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(
                WIDTH, 2, 32, dropout=drop, batch_first=True, norm_first=norm_first
            )
            for _ in range(2)
        )
        self.head = nn.Linear(WIDTH, TOKENS if language else CLASSES, bias=not tied)
        self.language = language
        if tied:
            nn.init.normal_(self.embed.weight, std=0.2)
            self.head.weight = self.embed.weight

    def encode(self, tokens: Tensor, **masks: object) -> Tensor:
        """Return hidden states (N, length, WIDTH)."""
        hidden: Tensor = self.embed(tokens) + self.position[: tokens.shape[1]]
        for block in self.blocks:
            hidden = block(hidden, **masks)
        return hidden

    def forward(self, tokens: Tensor) -> Tensor:
        """Return logits (N, CLASSES), or (N, TOKENS, length) if `language`."""
        if not self.language:
            out: Tensor = self.head(self.encode(tokens).mean(1))
            return out
        mask = nn.Transformer.generate_square_subsequent_mask(tokens.shape[1])
        logits: Tensor = self.head(self.encode(tokens, src_mask=mask, is_causal=True))
        return logits.transpose(1, 2)


class Attention(nn.Module):
    """Attention written by hand over sequences (N, T, FEATURES), and a head. dim: of the softmax."""

    def __init__(self, dim: int = -1, mask: Tensor | None = None, scale: float = 1.0) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(FEATURES, WIDTH) for _ in range(3))
        self.head = nn.Linear(WIDTH, CLASSES)
        self.dim, self.mask, self.scale = dim, mask, scale

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (N, CLASSES)."""
        scores = self.query(x) @ self.key(x).transpose(1, 2) * (self.scale / WIDTH**0.5)
        if self.mask is not None:
            scores = scores.masked_fill(self.mask, -torch.inf)
        out: Tensor = self.head((scores.softmax(self.dim) @ self.value(x))[:, -1])
        return out


class VAE(nn.Module):
    """A variational autoencoder of vectors. Its loss is the negative bound of the likelihood."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(FEATURES, 32), nn.ReLU())
        self.mean, self.log_variance = nn.Linear(32, 4), nn.Linear(32, 4)
        self.decoder = nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, FEATURES))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the reconstruction, and mean and logarithm of the variance of the code."""
        hidden = self.encoder(x)
        mean, log_variance = self.mean(hidden), self.log_variance(hidden)
        code = mean + torch.randn_like(mean) * (log_variance / 2).exp()
        return self.decoder(code), mean, log_variance


class Experts(nn.Module):
    """A mixture of experts: the best of four by a router, of which two are never chosen if `starved`."""

    def __init__(self, *, weighted: bool = True, starved: bool = False) -> None:
        super().__init__()
        self.router = nn.Linear(FEATURES, 4)
        self.experts = nn.ModuleList(mlp(outputs=FEATURES) for _ in range(4))
        self.head = nn.Linear(FEATURES, CLASSES)
        self.weighted, self.count = weighted, 2 if starved else 4

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (N, CLASSES)."""
        weights = self.router(x)[:, : self.count].softmax(-1)
        chosen = weights.argmax(1)
        mixed = torch.zeros_like(x)
        for number in chosen.unique().tolist():
            rows = (chosen == number).nonzero()[:, 0]
            part = self.experts[number](x[rows])
            mixed = mixed.index_add(
                0, rows, part * weights[rows, number, None] if self.weighted else part
            )
        out: Tensor = self.head(F.gelu(x + mixed))
        return out


class Adapted(nn.Module):
    """A frozen layer with a low-rank adapter (LoRA), and a head."""

    def __init__(self, rank: int = 2) -> None:
        super().__init__()
        self.base = nn.Linear(FEATURES, 32).requires_grad_(False)
        self.lora_a, self.lora_b = (
            nn.Linear(FEATURES, rank, bias=False),
            nn.Linear(rank, 32, bias=False),
        )
        self.head = nn.Linear(32, CLASSES)
        nn.init.zeros_(self.lora_b.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (N, CLASSES)."""
        out: Tensor = self.head(F.relu(self.base(x) + self.lora_b(self.lora_a(x))))
        return out


class Flow(nn.Module):
    """A normalizing flow of four affine couplings; returns the log-likelihood of each sample."""

    def __init__(self, features: int = 4) -> None:
        super().__init__()
        half = features // 2
        self.couplings = nn.ModuleList(
            nn.Sequential(nn.Linear(half, 32), nn.Tanh(), nn.Linear(32, features)) for _ in range(4)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return log p(x), of shape (N,)."""
        one, two = x.chunk(2, 1)
        volume = torch.zeros(len(x))
        for coupling in self.couplings:
            shift, scale = coupling(one).chunk(2, 1)
            two = (two - shift) * torch.exp(-scale.tanh())
            volume = volume - scale.tanh().sum(1)
            one, two = two, one
        rest = torch.cat([one, two], 1)
        return volume - 0.5 * (rest.square() + 1.8379).sum(1)


def adversaries() -> nn.ModuleDict:
    """Return a generator from 8 random numbers to vectors of four, and a discriminator."""
    return nn.ModuleDict(
        {"generator": mlp(inputs=8, outputs=4), "discriminator": mlp(inputs=4, outputs=1)}
    )
