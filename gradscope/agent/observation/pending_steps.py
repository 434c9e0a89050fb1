"""Observed steps that have ended, and whose numbers may still be on their way from a device."""

from collections import deque
from collections.abc import Callable

from gradscope.agent.observation.measurement import EndedStep, FinishedStep
from gradscope.budget import Sampler

__all__ = ["PendingSteps"]


class PendingSteps:
    """Hands out steps when their numbers have come. `hand_out` is called with each, oldest first."""

    def __init__(self, sampler: Sampler, hand_out: Callable[[FinishedStep], None]) -> None:
        self._sampler = sampler
        self._hand_out = hand_out
        self._ended: deque[EndedStep] = deque()

    @property
    def is_waiting(self) -> bool:
        """Whether there is a step that was not handed out yet."""
        return bool(self._ended)

    def add(self, ended: EndedStep) -> None:
        """Take a step that has ended."""
        self._ended.append(ended)

    def deliver(self, *, wait: bool = False) -> None:
        """Hand out the steps whose numbers have come; where `wait`, all of them."""
        while self._ended and (wait or self._ended[0].harvest.is_ready()):
            ended = self._ended.popleft()
            sampler = self._sampler
            if ended.is_focus:
                every, cost = max(1, sampler.focus_every), sampler.focus_cost()
            else:
                every, cost = sampler.every, sampler.cost()
            self._hand_out(ended.finished(every, cost))
