"""Which ranks of a run a client subscribes to: all merged, one, or the messages of each."""

from typing import Literal, TypeAlias

from gradscope.client.state import RunState
from gradscope.protocol import Subscribe

__all__ = ["Ranks", "is_sent", "subscription_to"]

Ranks: TypeAlias = Literal["each", "merged"] | int
"""Which ranks of a run the hub sends: the messages of each, all merged, or one of them."""


def subscription_to(run: str, ranks: Ranks, *, max_rate_hz: float, backfill: bool) -> Subscribe:
    """Return the subscription to these ranks of a run."""
    rank = ranks if isinstance(ranks, int) else None
    return Subscribe(
        run=run, max_rate_hz=max_rate_hz, backfill=backfill, is_merged=ranks == "merged", rank=rank
    )


def is_sent(known: RunState, run: str, ranks: Ranks, rank: int | None, *, needs_steps: bool) -> bool:
    """Return whether the hub sends the messages of `rank` to a client that has subscribed to `ranks`.

    rank: None for all ranks, merged or each. needs_steps: its steps are needed, and not only its memory, times or
        manifest, which the stream of merged ranks has of the lowest rank.
    """
    if ranks != "merged":
        return ranks in ("each", rank)
    is_lowest = rank == known.lowest_rank(run)
    return rank is None or (is_lowest and (not needs_steps or known.world_size(run) == 1))
