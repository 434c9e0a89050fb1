"""`Journal`: what happened, newest last, each thing once. The Log tab shows it."""

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
    """One line of the log. `step` is None for what happened on this screen."""

    time_s: float
    step: int | None
    level: Level
    text: str
    code: str = ""


class Journal:
    """The newest entries. An event that comes again, after a reconnect, is not taken twice."""

    def __init__(self) -> None:
        self._entries: deque[Entry] = deque(maxlen=_LIMIT)
        self.version = 0

    def take(self, event: Event) -> None:
        """Keep an event of the run."""
        self._add(Entry(event.time_s, event.step, event.level, event.text, event.code))

    def note(
        self,
        time_s: float,
        level: Level,
        text: str,
        step: int | None = None,
    ) -> None:
        """Keep something that this viewer noticed itself."""
        self._add(Entry(time_s, step, level, text))

    def __iter__(self) -> Iterator[Entry]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def _add(self, entry: Entry) -> None:
        if entry not in self._entries:
            self._entries.append(entry)
            self.version += 1
