"""`StepHistory`: observed steps from the whole run, in memory of bounded size, for plots."""

from typing import Final

from gradscope.agent.observation.observed_step import ObservedStep

__all__ = ["StepHistory"]

_LIMIT_BYTES: Final = 8_000_000
"""Some 100 steps of a model of 150 layers; all of the first 10,000 observed steps of a model of 3 layers."""


class StepHistory:
    """Keeps every N-th observed step. Beyond 8 MB, N is doubled, so that the whole run stays evenly covered."""

    def __init__(self) -> None:
        self._steps: list[ObservedStep] = []
        self._newest: ObservedStep | None = None
        self._size_bytes = self._count = 0
        self._every = 1

    @property
    def steps(self) -> list[ObservedStep]:
        """The kept steps and the newest one, oldest first."""
        is_kept = not self._steps or self._steps[-1] is self._newest
        return self._steps if is_kept or self._newest is None else [*self._steps, self._newest]

    def add(self, step: ObservedStep) -> None:
        """Add the newest step."""
        self._newest = step
        if self._count % self._every == 0:
            self._steps.append(step)
            self._size_bytes += step.block.nbytes
        self._count += 1
        if self._size_bytes > _LIMIT_BYTES and len(self._steps) > 2:
            self._steps = self._steps[::2]
            self._every *= 2
            self._size_bytes = sum(each.block.nbytes for each in self._steps)
