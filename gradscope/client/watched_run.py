"""`WatchedRun`: the run and the ranks that a client subscribes to: all merged, one, or the messages of each."""

from collections.abc import Callable
from typing import Literal, TypeAlias

from gradscope.client.session import Session
from gradscope.protocol import Subscribe

__all__ = ["Ranks", "WatchedRun"]

Ranks: TypeAlias = Literal["each", "merged"] | int
"""Which ranks of a run the hub sends: the messages of each, all merged, or one of them."""

_EVERY_STEP_HZ = 1_000.0


class WatchedRun:
    """The subscription of a client. `chosen` returns the run that it is about; it may raise."""

    def __init__(self, session: Session, chosen: Callable[[], str]) -> None:
        self._session = session
        self._chosen = chosen
        self._ranks: Ranks = "each"
        self.rate_hz = _EVERY_STEP_HZ

    @property
    def is_watched(self) -> bool:
        """Whether the client has subscribed to its run."""
        return self._session.known.run == self._chosen()

    def watch(
        self, run: str, ranks: Ranks, *, max_rate_hz: float, backfill: bool, is_listening: bool
    ) -> None:
        """Subscribe to these ranks of a run."""
        self.rate_hz, self._ranks = max_rate_hz, ranks
        subscription = Subscribe(
            run=run,
            max_rate_hz=max_rate_hz,
            backfill=backfill,
            is_merged=ranks == "merged",
            rank=ranks if isinstance(ranks, int) else None,
        )
        self._session.subscribe(subscription, is_listening=is_listening)

    def ensure_any(self) -> None:
        """Subscribe to the run, if the client has not yet."""
        if not self.is_watched:
            self.ensure(None)

    def ensure(self, rank: int | None, *, needs_steps: bool = False) -> None:
        """Subscribe to a rank, or to all for None, if the hub does not send it yet. needs_steps: as in `sends`."""
        if not self.sends(rank, needs_steps=needs_steps):
            is_listening = self._session.is_listening and self.is_watched
            self.watch_every_step(rank, needs_steps=needs_steps, is_listening=is_listening)

    def watch_every_step(self, rank: int | None, *, needs_steps: bool, is_listening: bool) -> None:
        """Subscribe to the merged ranks or to the one needed; to each rank if something else is needed later."""
        ranks: Ranks = "each"
        if not self.is_watched:
            has_all = self._has_merged(rank, needs_steps=needs_steps)
            ranks = "merged" if has_all or rank is None else rank
        self.watch(
            self._chosen(),
            ranks,
            max_rate_hz=_EVERY_STEP_HZ,
            backfill=True,
            is_listening=is_listening,
        )

    def sends(self, rank: int | None, *, needs_steps: bool) -> bool:
        """Return whether the hub sends the messages of a rank; None: of all, merged or each.

        needs_steps: its steps are needed, and not only its memory, times or manifest, which the stream of merged ranks
            has of the lowest rank.
        """
        if not self.is_watched:
            return False
        if self._ranks == "merged":
            return self._has_merged(rank, needs_steps=needs_steps)
        return self._ranks in ("each", rank)

    def _has_merged(self, rank: int | None, *, needs_steps: bool) -> bool:
        run, known = self._chosen(), self._session.known
        is_lowest = rank == known.lowest_rank(run)
        return rank is None or (is_lowest and (not needs_steps or known.world_size(run) == 1))
