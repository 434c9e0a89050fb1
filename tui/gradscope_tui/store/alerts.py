"""`Alerts`: the alerts of a run, oldest first, each once."""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from gradscope.protocol import AlertInfo, Event

__all__ = ["AlertEntry", "Alerts"]

_LIMIT = 500


@dataclass(frozen=True, slots=True)
class AlertEntry:
    """One alert: its time, step, severity, text and numbers."""

    time_s: float
    step: int
    is_error: bool
    text: str
    info: AlertInfo


class Alerts:
    """The newest 500 alerts of one run. An alert that is sent again is ignored."""

    def __init__(self) -> None:
        self._entries: deque[AlertEntry] = deque(maxlen=_LIMIT)

    def take(self, event: Event) -> None:
        """Store an event if a rule raised it."""
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
