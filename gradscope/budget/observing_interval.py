"""`ObservingInterval`: every n-th step, counted from an origin; the same on all ranks."""

from dataclasses import dataclass

from gradscope.budget.budget import BARE_STEP_AFTER

__all__ = ["ObservingInterval"]


@dataclass(frozen=True, slots=True)
class ObservingInterval:
    """Steps `origin`, `origin` + `every`, and so on. `keeps_bare`: a few steps are always left unobserved."""

    every: int
    origin: int
    keeps_bare: bool

    def next_due(self, step: int) -> int:
        """Return the first step, from this one on, that may be due."""
        since = step - self.origin
        return self.origin if since <= 0 else step + -since % self.every

    def is_due(self, step: int) -> bool:
        """Return whether a step is due."""
        since = step - self.origin
        if since < 0 or since % self.every:
            return False
        return not (
            self.keeps_bare and self.every == 1 and since % (BARE_STEP_AFTER + 1) == BARE_STEP_AFTER
        )
