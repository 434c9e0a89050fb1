"""`Session`: the runs that the hub lists, and the store of the watched one."""

from collections.abc import Mapping

from gradscope.protocol import Message, RunInfo, Runs, Step
from gradscope_tui.store.run import RunStore

__all__ = ["Session"]


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

    def info(self) -> RunInfo | None:
        """Return the hub's entry of the watched run's rank 0."""
        run = self.watched.run if self.watched else None
        return next((info for info in self.runs if info.run == run and info.rank == 0), None)

    def names(self) -> tuple[str, ...]:
        """Return the names of all runs: live ones first, then the newest first."""
        ranked = sorted(self.runs, key=lambda info: (not info.is_live, -info.started_s))
        return tuple(dict.fromkeys(info.run for info in ranked))

    def live(self) -> tuple[str, ...]:
        """Return the names of the live runs."""
        live = {info.run for info in self.runs if info.is_live}
        return tuple(name for name in self.names() if name in live)
