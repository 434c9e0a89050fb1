"""The training text, split into characters: the help topics that come with Python."""

from pydoc_data.topics import topics

import torch
from torch import Tensor
from torch.utils.data import Dataset

__all__ = ["Characters", "Windows", "load_text"]


def load_text() -> str:
    """Return all of `help("topics")`, sorted by topic: roughly half a million characters."""
    return "\n\n".join(topics[name] for name in sorted(topics))


class Characters:
    """The vocabulary: the characters of a text and their token indices."""

    def __init__(self, text: str) -> None:
        self._characters = sorted(set(text))
        self._numbers = {character: number for number, character in enumerate(self._characters)}

    def __len__(self) -> int:
        return len(self._characters)

    def encode(self, text: str) -> Tensor:
        """Return the tokens of a text, int64 of shape (length,)."""
        return torch.tensor([self._numbers[character] for character in text])

    def decode(self, tokens: Tensor) -> str:
        """Return the text of tokens of shape (length,)."""
        return "".join(self._characters[number] for number in tokens.tolist())


class Windows(Dataset[tuple[Tensor, Tensor]]):
    """Dataset of all windows of `block_size` tokens: (inputs, targets), the targets shifted by one token."""

    def __init__(self, tokens: Tensor, block_size: int) -> None:
        self._tokens = tokens
        self._block_size = block_size

    def __len__(self) -> int:
        return len(self._tokens) - self._block_size

    def __getitem__(self, start: int) -> tuple[Tensor, Tensor]:
        window = self._tokens[start : start + self._block_size + 1]
        return window[:-1], window[1:]
