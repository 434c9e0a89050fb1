"""Append-only log of who changed the interventions of a run, when, and from which step on."""

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
    """One change. `step`: the first step in effect; `by`: who; `origin`: the place, or the failure reason."""

    time_s: float
    step: int
    what: What
    id: str
    text: str
    by: str
    origin: str = ""

    def __str__(self) -> str:
        """Describe the change in one line."""
        if self.what == "failed":
            why = f"failed in step {self.step} and was removed: {self.origin}"
            return f"{self.id} {why}. It was: {self.text}"
        who = f" by {self.by}" if self.by else ""
        where = f" [{self.origin}]" if self.origin else ""
        return f"{self.id} {self.what}{who}{where} from step {self.step} on: {self.text}"


class AuditLog:
    """The newest 10,000 changes of one run, oldest first. `tell` is called with each new entry."""

    def __init__(self, tell: Callable[[AuditEntry], None] | None = None) -> None:
        self._entries: deque[AuditEntry] = deque(maxlen=_LIMIT)
        self._tell = tell

    def add(self, step: int, what: What, id: str, text: str, by: str, origin: str = "") -> None:
        """Add an entry."""
        entry = AuditEntry(time.time(), step, what, id, text, by, origin)
        self._entries.append(entry)
        if self._tell is not None:
            self._tell(entry)

    def entries(self) -> tuple[AuditEntry, ...]:
        """Return all entries."""
        return tuple(self._entries)
