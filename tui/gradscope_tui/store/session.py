"""`Session`: the runs that the hub lists, and the store of the watched one."""

from collections.abc import Mapping, Sequence

from gradscope.protocol import Message, RunInfo, Runs, Step
from gradscope_tui.store.run import RunStore

__all__ = ["Session", "end_of"]


def end_of(runs: Sequence[RunInfo], run: str) -> RunInfo | None:
    """Return the rank whose end is shown as the end of the run: the one that failed first, or the first rank.

    None if a rank is live or none is known.
    """
    ranks = [info for info in runs if info.run == run]
    if not ranks or any(info.is_live for info in ranks):
        return None
    return min(ranks, key=lambda info: (not info.has_failed, info.has_failed and info.last_message_s))


class Session:
    """Takes the whole stream of the source, in one thread. `version` increases with each change."""

    def __init__(self) -> None:
        self.runs: tuple[RunInfo, ...] = ()
        self.watched: RunStore | None = None
        self._version = 0

    @property
    def version(self) -> int:
        """A number that changes with the session or the watched store."""
        return self._version + (self.watched.version if self.watched else 0)

    def feed(self, item: Message | Mapping[int, Step]) -> None:
        """Take one item of the stream."""
        if isinstance(item, Runs):
            self.runs = item.runs
            self._version += 1
            if self.watched:
                self.watched.ranks.note_runs(self.runs)
        elif self.watched:
            self.watched.feed(item)

    def watch(self, run: str) -> RunStore:
        """Return the store of a run; a new one unless it is watched already."""
        if self.watched is None or self.watched.run != run:
            self._version += 1 + (self.watched.version if self.watched else 0)
            self.watched = RunStore(run)
            self.watched.ranks.note_runs(self.runs)
        return self.watched

    def show(self, store: RunStore) -> None:
        """Show a store that was made elsewhere, such as that of a step of a recording."""
        self._version += 1 + (self.watched.version if self.watched else 0)
        self.watched = store

    def end(self) -> RunInfo | None:
        """Return the rank that says how the watched run ended; None if it has not ended."""
        return end_of(self.runs, self.watched.run) if self.watched else None

    def names(self) -> tuple[str, ...]:
        """Return the names of all runs: live ones first, then the newest first."""
        ranked = sorted(self.runs, key=lambda info: (not info.is_live, -info.started_s))
        return tuple(dict.fromkeys(info.run for info in ranked))

    def live(self) -> tuple[str, ...]:
        """Return the names of the live runs."""
        live = {info.run for info in self.runs if info.is_live}
        return tuple(name for name in self.names() if name in live)
