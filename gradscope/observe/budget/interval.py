"""Every how many steps one is observed, counted from one step on: the same in all processes."""

from dataclasses import dataclass

__all__ = ["ObservingInterval"]

_BARE_AFTER = 16
"""Where each step may be observed, one is left out after so many: something to compare with."""


@dataclass(frozen=True, slots=True)
class ObservingInterval:
    """Steps `origin`, `origin` + `every`, and so on. `keeps_bare`: some steps are always left out."""

    every: int
    origin: int
    keeps_bare: bool

    def next_due(self, step: int) -> int:
        """Return the first step from this one on that is to be observed, or may be."""
        since = step - self.origin
        return self.origin if since <= 0 else step + -since % self.every

    def is_due(self, step: int) -> bool:
        """Whether a step is to be observed."""
        since = step - self.origin
        if since < 0 or since % self.every:
            return False
        return not (self.keeps_bare and self.every == 1 and since % (_BARE_AFTER + 1) == _BARE_AFTER)
