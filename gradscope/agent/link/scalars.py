"""Scalars that the script logs in a step, copied from tensors without blocking."""

import time
from collections import deque
from collections.abc import Mapping
from typing import TypeAlias

import torch

from gradscope.errors import UsageError

__all__ = ["ScalarLog"]

_Value: TypeAlias = float | torch.Tensor
_NAME_LIMIT = 64
_NAMES_LIMIT = 64


class ScalarLog:
    """Collects the logged values of each step, and returns the steps whose values are on the host."""

    def __init__(self) -> None:
        self._values: dict[str, _Value] = {}
        self._step = 0
        self.ended_step = -1
        """The newest step that has ended."""
        self._waiting: deque[tuple[int, float, dict[str, _Value], torch.Event | None]] = deque()

    @property
    def is_empty(self) -> bool:
        """Whether no value was logged in this step and no copy is in progress."""
        return not self._values and not self._waiting

    def log(self, values: Mapping[str, object], step: int) -> None:
        """Add values of a step; `end_step` may not have been called yet for earlier steps.

        Values of a step that has ended already are a row of their own.
        Raises UsageError if a value is not a number, or for too many names.
        """
        taken = {name: _take(name, value) for name, value in values.items()}
        if step <= self.ended_step:
            self._waiting.append((step, time.time(), taken, _copied(taken)))
            return
        if len(self._values | taken) > _NAMES_LIMIT:
            raise UsageError(f"at most {_NAMES_LIMIT} scalars a step, got {len(self._values | taken)}")
        self._values |= taken
        self._step = step

    def end_step(self, step: int, time_s: float, step_time_s: float) -> None:
        """End the step. Its values become ready when they have been copied to the host."""
        self.ended_step = step
        values: dict[str, _Value] = {}
        if self._values and step >= self._step:
            values, self._values = self._values, {}
        row = {**values, "step_time_s": step_time_s}
        self._waiting.append((step, time_s, row, _copied(values)))

    def ready(self) -> list[tuple[int, float, dict[str, float]]]:
        """Return the steps whose values are on the host, oldest first: (step, time, values)."""
        rows = []
        while self._waiting and (self._waiting[0][3] is None or self._waiting[0][3].query()):
            step, time_s, values, _ = self._waiting.popleft()
            rows.append((step, time_s, {name: float(value) for name, value in values.items()}))
        return rows


def _copied(values: Mapping[str, _Value]) -> torch.Event | None:
    """Return an event that is complete once the values are on the host; None if they are there."""
    if not any(isinstance(value, torch.Tensor) for value in values.values()):
        return None
    event = torch.Event("cuda")
    event.record()
    return event


def _take(name: str, value: object) -> _Value:
    if not 0 < len(name) <= _NAME_LIMIT:
        raise UsageError(f"a scalar's name must have 1 to {_NAME_LIMIT} characters, got {name!r}")
    if isinstance(value, torch.Tensor):
        try:
            if value.numel() == 1 and not value.is_complex():
                return _detached(value)
            found = f"a tensor of shape {tuple(value.shape)} and dtype {value.dtype}"
        except (RuntimeError, NotImplementedError, TypeError, ValueError) as error:
            found = f"a {type(value).__name__} that cannot be read: {error}"
    elif isinstance(value, int | float) or hasattr(value, "__float__"):
        return float(value)
    else:
        found = f"{type(value).__name__} {value!r}"[:100]
    raise UsageError(f"log({name}=…) takes a number or a tensor of one element, got {found}")


def _detached(value: torch.Tensor) -> _Value:
    detached = value.detach()
    if detached.device.type == "cuda":
        pinned = torch.empty((), dtype=detached.dtype, pin_memory=True)
        return pinned.copy_(detached.reshape(()), non_blocking=True)
    return float(detached.item())
