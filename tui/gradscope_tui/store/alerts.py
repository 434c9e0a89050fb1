"""`Alerts`: what the rules of a run have found, oldest first, each thing once."""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from gradscope.protocol import AlertInfo, Event

__all__ = ["AlertEntry", "Alerts"]

_LIMIT = 500


@dataclass(frozen=True, slots=True)
class AlertEntry:
    """One alert: when, in which step, how grave, and its numbers."""

    time_s: float
    step: int
    is_error: bool
    text: str
    info: AlertInfo


class Alerts:
    """The newest alerts of one run. One that comes again, after a reconnect, is not taken twice."""

    def __init__(self) -> None:
        self._entries: deque[AlertEntry] = deque(maxlen=_LIMIT)

    def take(self, event: Event) -> None:
        """Keep an event that a rule made; any other is left."""
        if event.alert is None:
            return
        is_error = event.level == "error"
        entry = AlertEntry(event.time_s, event.step, is_error, event.text, event.alert)
        if entry not in self._entries:
            self._entries.append(entry)

    def __iter__(self) -> Iterator[AlertEntry]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __getitem__(self, place: int) -> AlertEntry:
        return self._entries[place]
