"""`Journal`: the lines of the Log tab, newest last, each once."""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, TypeAlias

from gradscope.protocol import Event

__all__ = ["Entry", "Journal", "Level"]

Level: TypeAlias = Literal["info", "warning", "error"]

_LIMIT = 500


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of the log. `step` is None if the run has no step yet."""

    time_s: float
    step: int | None
    level: Level
    text: str
    code: str = ""


class Journal:
    """The newest 500 entries. An event that is sent again is ignored."""

    def __init__(self) -> None:
        self._entries: deque[Entry] = deque(maxlen=_LIMIT)
        self.version = 0

    def take(self, event: Event) -> None:
        """Store an event of the run."""
        self._add(Entry(event.time_s, event.step, event.level, event.text, event.code))

    def note(
        self,
        time_s: float,
        level: Level,
        text: str,
        step: int | None = None,
    ) -> None:
        """Store an entry of this viewer."""
        self._add(Entry(time_s, step, level, text))

    def __iter__(self) -> Iterator[Entry]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def _add(self, entry: Entry) -> None:
        if entry not in self._entries:
            self._entries.append(entry)
            self.version += 1
