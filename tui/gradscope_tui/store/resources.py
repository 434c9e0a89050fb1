"""`ResourceStore`: memory and times of the newest measured step, and the memory of earlier ones."""

from collections.abc import Sequence
from typing import Final

from gradscope.columns import MemoryTable, TimesTable
from gradscope.errors import ProtocolError, UsageError
from gradscope.protocol import Memory, Times
from gradscope.protocol.bodies import unpack_memory, unpack_times

__all__ = ["ResourceStore"]

_LIMIT: Final = 400


class ResourceStore:
    """Exists while its run is watched. `saved_bytes` is what each measured step saved for its backward pass.

    `unreadable` counts messages that do not fit the known layers.
    """

    def __init__(self) -> None:
        self.memory: MemoryTable | None = None
        self.times: TimesTable | None = None
        self.unreadable = 0
        self.saved_bytes: dict[int, int] = {}

    def clear(self) -> None:
        """Remove everything, because the run has restarted."""
        self.memory = self.times = None
        self.saved_bytes.clear()

    def insert(self, message: Memory | Times, layers: Sequence[str], revision: int | None) -> None:
        """Store a message. A message older than the shown step only adds to the past."""
        if message.manifest_revision != revision:
            self.unreadable += 1
            return
        try:
            if isinstance(message, Memory):
                self._take_memory(unpack_memory(message, layers))
            elif self.times is None or message.step >= self.times.step:
                self.times = unpack_times(message, layers)
        except (ProtocolError, UsageError):
            self.unreadable += 1

    def _take_memory(self, table: MemoryTable) -> None:
        if self.memory is None or table.step >= self.memory.step:
            self.memory = table
        saved = self.saved_bytes | {table.step: table.balance.get("saved", 0)}
        self.saved_bytes = dict(sorted(saved.items())[-_LIMIT:])
