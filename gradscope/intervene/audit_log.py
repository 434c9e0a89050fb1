"""Who did what to the interventions of a run, when, and from which step on: only ever added to."""

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

__all__ = ["AuditEntry", "AuditLog", "What"]

What: TypeAlias = Literal["set", "removed", "ended", "failed"]

_LIMIT = 10_000


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One line. `step` is the first in which it holds; `by` is who, `origin` from where, or why."""

    time_s: float
    step: int
    what: What
    id: str
    text: str
    by: str
    origin: str = ""

    def __str__(self) -> str:
        """Say it in one line."""
        if self.what == "failed":
            why = f"failed in step {self.step} and acts no more: {self.origin}"
            return f"{self.id} {why}. It was: {self.text}"
        who = f" by {self.by}" if self.by else ""
        where = f" [{self.origin}]" if self.origin else ""
        return f"{self.id} {self.what}{who}{where} from step {self.step} on: {self.text}"


class AuditLog:
    """The deeds of one run, oldest first; of a very long one the newest. `tell` is given each."""

    def __init__(self, tell: Callable[[AuditEntry], None] | None = None) -> None:
        self._deeds: deque[AuditEntry] = deque(maxlen=_LIMIT)
        self._tell = tell

    def add(self, step: int, what: What, id: str, text: str, by: str, origin: str = "") -> None:
        """Add a line."""
        deed = AuditEntry(time.time(), step, what, id, text, by, origin)
        self._deeds.append(deed)
        if self._tell is not None:
            self._tell(deed)

    def deeds(self) -> tuple[AuditEntry, ...]:
        """Return all lines."""
        return tuple(self._deeds)
