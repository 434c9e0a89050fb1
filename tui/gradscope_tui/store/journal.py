"""`Journal`: events of a run and notes of this viewer, newest last, each once."""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, TypeAlias

from gradscope.findings import Finding
from gradscope.protocol import AlertInfo, Event

__all__ = ["Entry", "Journal", "Level", "entry_of"]

Level: TypeAlias = Literal["info", "warning", "error"]

_LIMIT = 500


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry. `step` is None if the run has no step yet.

    `alert` is None unless a rule raised it, `finding` unless it says what is wrong with the run.
    """

    time_s: float
    step: int | None
    level: Level
    text: str
    code: str = ""
    alert: AlertInfo | None = None
    finding: Finding | None = None

    @property
    def is_of_intervention(self) -> bool:
        """Whether it belongs to the history of interventions and rules."""
        return self.code.startswith(("intervention.", "rule."))

    @property
    def is_announced(self) -> bool:
        """Whether a toast shows it: a failure, or a condition of the person that became true; findings have a line."""
        return self.alert is None or self.code == "alert.condition"


def entry_of(event: Event) -> Entry:
    """Return the entry of an event of the run."""
    return Entry(
        event.time_s, event.step, event.level, event.text, event.code, event.alert, event.finding
    )


class Journal:
    """The newest 500 entries. An entry that is added again is ignored."""

    def __init__(self) -> None:
        self._entries: deque[Entry] = deque(maxlen=_LIMIT)

    def add(self, entry: Entry) -> bool:
        """Add an entry. Returns whether it is new."""
        is_new = entry not in self._entries
        if is_new:
            self._entries.append(entry)
        return is_new

    def __iter__(self) -> Iterator[Entry]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __getitem__(self, place: int) -> Entry:
        return self._entries[place]
