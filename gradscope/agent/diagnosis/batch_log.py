"""`BatchLog`: which inputs the model had in the newest steps, without keeping them alive."""

import weakref
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import torch

from gradscope.agent.diagnosis.tensor_reads import (
    DIGEST_ELEMENTS,
    digest_of,
    is_readable,
    sampled,
    tensors_of,
)
from gradscope.findings.signal_facts import mixed_digest

__all__ = ["BatchLog", "Batches"]

_STEPS: Final = 4
"""Losses on a device are known a few steps late."""

_CONTAINERS: Final = (list, tuple, Mapping)


@dataclass(frozen=True, slots=True)
class Batches:
    """The inputs of one step. first, last: the numbers of its forward passes since the start, from 0; -1 if unknown.

    digest: as that of `StepSignals`; None if an input was freed or written to since the forward.
    """

    first: int
    last: int
    digest: int | None

    @property
    def text(self) -> str:
        """The batches as a clause."""
        is_one = self.first == self.last
        which = f"batch {self.first}" if is_one else f"batches {self.first} to {self.last}"
        which = "its batch" if self.first < 0 else f"{which} since the start"
        if self.digest is None:
            return f"{which}, without a digest: the inputs were freed or changed after the forward"
        return f"{which}, digest {self.digest:016x}"

    @property
    def evidence(self) -> dict[str, float | str]:
        """The batches as evidence of a finding."""
        known: dict[str, float | str] = {}
        if self.first >= 0:
            known = {"batch": float(self.first), "last_batch": float(self.last)}
        return known if self.digest is None else known | {"digest": f"{self.digest:016x}"}


@dataclass(slots=True)
class _Step:
    """The forward passes of one step. Each input has its number of changes; None if torch does not count them."""

    step: int
    first: int
    last: int
    inputs: list[tuple["weakref.ref[torch.Tensor]", int | None]] = field(default_factory=list)


class BatchLog:
    """The inputs of the forward passes with gradients of the newest steps, by weak references."""

    def __init__(self) -> None:
        self._steps: deque[_Step] = deque(maxlen=_STEPS)
        self._passes = 0

    def begin(self, step: int, args: tuple[Any, ...]) -> None:  # Any: a module may take any arguments
        """Note a forward pass of the model, and its positional inputs."""
        if not self._steps or self._steps[-1].step != step:
            self._steps.append(_Step(step, self._passes, self._passes))
        self._steps[-1].last = self._passes
        if self._passes >= 0:
            self._passes += 1
        self._note(args, {})

    def lose_count(self) -> None:
        """Call it before forward passes that are not noted."""
        self._passes = -1

    def add_keywords(self, kwargs: Mapping[str, Any]) -> None:  # Any: as above
        """Note the keyword inputs of the newest forward pass."""
        if self._steps:
            self._note((), kwargs)

    def of_step(self, step: int) -> Batches | None:
        """Return the batches of a step; None if the model did not run in it or it is too old. Waits for the device."""
        known = next((each for each in self._steps if each.step == step), None)
        if known is None:
            return None
        digests = [_digest(*each) for each in known.inputs]
        found = [each for each in digests if each is not None]
        is_whole = bool(found) and len(found) == len(digests)
        return Batches(known.first, known.last, mixed_digest(found) if is_whole else None)

    def _note(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:  # Any: as above
        for value in (*args, *kwargs.values()):
            if type(value) is torch.Tensor:  # most
                self._note_tensor(value)
            elif isinstance(value, _CONTAINERS):
                for _, each in tensors_of((value,), {}):
                    self._note_tensor(each)

    def _note_tensor(self, tensor: torch.Tensor) -> None:
        if tensor.grad_fn is None:  # otherwise it is computed, not data
            self._steps[-1].inputs.append((weakref.ref(tensor), _version(tensor)))


def _version(tensor: torch.Tensor) -> int | None:
    return None if tensor.is_inference() else tensor._version  # noqa: SLF001 - no public name


def _digest(reference: "weakref.ref[torch.Tensor]", version: int | None) -> int | None:
    tensor = reference()
    if tensor is None or version is None or _version(tensor) != version or not is_readable(tensor):
        return None
    sample = sampled(tensor, DIGEST_ELEMENTS)
    return digest_of(sample.cpu(), tensor.dtype, tuple(tensor.shape))
