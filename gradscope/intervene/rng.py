"""Random numbers for an intervention: reproducible, and independent of the global random state."""

import hashlib
from collections import defaultdict

import torch

__all__ = ["InterventionRng"]


class InterventionRng:
    """The generators of one intervention on one rank.

    Each rank draws different numbers. The exception is parameters that are equal on all ranks
    (`is_shared`): all ranks must draw the same numbers there, or the parameters would diverge.
    """

    def __init__(self, seed: int, rank: int) -> None:
        self._seed = seed
        self._rank = rank
        self._generators: dict[tuple[torch.device, bool], torch.Generator] = {}
        self._step = 0
        self._calls: defaultdict[str, int] = defaultdict(int)
        self._repeatable: defaultdict[str, list[int]] = defaultdict(list)

    def begin(self, step: int) -> None:
        """Begin a step; the count of calls restarts at zero."""
        self._step = step
        self._calls.clear()
        self._repeatable.clear()

    def generator_of_device(self, device: torch.device, *, is_shared: bool = False) -> torch.Generator:
        """Return the generator of a device. Its state continues from call to call."""
        key = device, is_shared
        if key not in self._generators:
            seed = self._seed + (0 if is_shared else self._rank)
            self._generators[key] = torch.Generator(device).manual_seed(seed)
        return self._generators[key]

    def generator_of_call(self, layer: str, device: torch.device) -> torch.Generator:
        """Return a new generator for this call of a layer.

        If a checkpointed forward is recomputed in the backward pass, it gets the same numbers as the
        first computation, because calls are recomputed in reverse order. Two calls of one layer in one
        checkpointed region may get each other's numbers.
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
