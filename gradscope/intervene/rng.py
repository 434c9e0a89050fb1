"""Random numbers of an intervention's own: they repeat, and leave the global random state alone."""

import hashlib
from collections import defaultdict

import torch

__all__ = ["InterventionRng"]


class InterventionRng:
    """The generators of one intervention on one rank.

    Each rank has numbers of its own, but for parameters that all ranks hold alike (`is_shared`): there
    all ranks must draw the same, or their parameters would part.
    """

    def __init__(self, seed: int, rank: int) -> None:
        self._seed = seed
        self._rank = rank
        self._generators: dict[tuple[torch.device, bool], torch.Generator] = {}
        self._step = 0
        self._calls: defaultdict[str, int] = defaultdict(int)
        self._repeatable: defaultdict[str, list[int]] = defaultdict(list)

    def begin(self, step: int) -> None:
        """Begin a step: the calls of each layer are counted anew."""
        self._step = step
        self._calls.clear()
        self._repeatable.clear()

    def next_generator(self, device: torch.device, *, is_shared: bool = False) -> torch.Generator:
        """Return the generator of a device, which goes on from draw to draw."""
        key = device, is_shared
        if key not in self._generators:
            seed = self._seed + (0 if is_shared else self._rank)
            self._generators[key] = torch.Generator(device).manual_seed(seed)
        return self._generators[key]

    def generator_of_call(self, layer: str, device: torch.device) -> torch.Generator:
        """Return a generator that is new for this call of a layer.

        A checkpointed forward that is computed again inside the backward pass gets the numbers of its
        first time: the calls come back in the opposite order. Two calls of one layer within the same
        checkpointed piece would change places.
        """
        is_again = torch._C._current_graph_task_id() != -1  # noqa: SLF001 - torch has no public name for it
        if is_again and self._repeatable[layer]:
            call = self._repeatable[layer].pop()
        else:
            call = self._calls[layer]
            self._calls[layer] += 1
            self._repeatable[layer].append(call)
        key = f"{self._seed + self._rank} {self._step} {call} {layer}".encode()
        seed = int.from_bytes(hashlib.blake2b(key, digest_size=7).digest())
        return torch.Generator(device).manual_seed(seed)
