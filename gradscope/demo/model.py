"""A small GPT.

Shapes in comments: batch size B, T characters, width D, H heads of width K, vocabulary size V.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["GPT", "MLP", "Attention", "Block", "Config"]


@dataclass(frozen=True, slots=True)
class Config:
    """The sizes of the GPT."""

    vocabulary_size: int
    block_size: int = 64
    width: int = 128
    heads: int = 4
    blocks: int = 4
    dropout: float = 0.1


class GPT(nn.Module):
    """Predicts the next character at each position."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.block_size = config.block_size
        self.token_embedding = nn.Embedding(config.vocabulary_size, config.width)
        self.position_embedding = nn.Embedding(config.block_size, config.width)
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.Sequential(*(Block(config) for _ in range(config.blocks)))
        self.norm = nn.LayerNorm(config.width)
        self.head = nn.Linear(config.width, config.vocabulary_size, bias=False)
        self.apply(_initialize)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the logits of the next character at each position: (B, T) to (B, T, V)."""
        positions = torch.arange(tokens.shape[1], device=tokens.device)
        x = self.token_embedding(tokens) + self.position_embedding(positions)  # (B, T, D)
        x = self.blocks(self.dropout(x))
        logits: Tensor = self.head(self.norm(x))
        return logits

    @torch.no_grad()
    def generate(self, tokens: Tensor, count: int, generator: torch.Generator) -> Tensor:
        """Return tokens, of shape (B, T), extended by `count` sampled tokens: (B, T + count)."""
        for _ in range(count):
            logits = self(tokens[:, -self.block_size :])[:, -1]  # (B, V)
            drawn = torch.multinomial(logits.softmax(-1), 1, generator=generator)
            tokens = torch.cat([tokens, drawn], dim=1)
        return tokens


class Block(nn.Module):
    """A pre-norm transformer block: attention and an MLP, each with layer normalisation and a residual connection."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(config.width)
        self.attention = Attention(config)
        self.mlp_norm = nn.LayerNorm(config.width)
        self.mlp = MLP(config)

    def forward(self, x: Tensor) -> Tensor:
        """Return the output of the block: (B, T, D) to (B, T, D)."""
        attended: Tensor = x + self.attention(self.attention_norm(x))
        y: Tensor = attended + self.mlp(self.mlp_norm(attended))
        return y


class Attention(nn.Module):
    """Causal multi-head self-attention."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.heads = config.heads
        self.qkv = nn.Linear(config.width, 3 * config.width)
        self.proj = nn.Linear(config.width, config.width)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Attend from each position to itself and earlier positions: (B, T, D) to (B, T, D)."""
        q, k, v = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (B, H, T, K)
            for part in self.qkv(x).chunk(3, dim=-1)
        )
        seen = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        y: Tensor = self.dropout(self.proj(seen.transpose(1, 2).flatten(-2)))
        return y


class MLP(nn.Module):
    """Two linear layers with a hidden width of 4 D."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.fc1 = nn.Linear(config.width, 4 * config.width)
        self.gelu = nn.GELU()
        self.fc2 = nn.Linear(4 * config.width, config.width)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Transform each position separately: (B, T, D) to (B, T, D)."""
        y: Tensor = self.dropout(self.fc2(self.gelu(self.fc1(x))))
        return y


def _initialize(module: nn.Module) -> None:
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)
