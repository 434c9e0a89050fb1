"""What the ranks of a job write down for each other, in the store that torch.distributed has anyway.

For each proposal, in slots that all ranks read in the same order:

    proposal/k       what is proposed, by which rank: whoever writes first has the slot
    answer/k/rank    from which step on this rank can obey
    count/k          how many have answered
    decision/k       written once, by whoever is first: "yes STEP" or "no REASON"

Nothing here waits: a key that is not there yet is None.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store

__all__ = ["ConsensusStore"]


class ConsensusStore:
    """The slots of one run. Owned by one thread; the store is a connection of its own."""

    def __init__(self, store: "Store", rank: int, world_size: int) -> None:
        self._store = store
        self._rank = rank
        self._others = [each for each in range(world_size) if each != rank]

    def propose(self, slot: int, text: str) -> str:
        """Write a proposal where there is none; return the one that is there."""
        return self._write_once(f"proposal/{slot}", text)

    def proposal(self, slot: int) -> str | None:
        """Return what is proposed in a slot."""
        return self._read(f"proposal/{slot}")

    def answer(self, slot: int, horizon: int) -> None:
        """Write down from which step on this rank can obey."""
        self._store.set(f"answer/{slot}/{self._rank}", str(horizon))
        self._store.add(f"count/{slot}", 1)

    def answers(self, slot: int) -> list[int] | None:
        """Return the answers of all other ranks, or None while one is missing."""
        if self._store.add(f"count/{slot}", 0) < len(self._others):
            return None
        return [int(self._store.get(f"answer/{slot}/{rank}")) for rank in self._others]

    def silent(self, slot: int, limit: int) -> Sequence[int]:
        """Return those that have not answered, at most `limit` of them."""
        silent = (r for r in self._others if not self._store.check([f"answer/{slot}/{r}"]))
        return [rank for rank, _ in zip(silent, range(limit), strict=False)]

    def decide(self, slot: int, text: str) -> str:
        """Write the decision where there is none; return the one that is there."""
        return self._write_once(f"decision/{slot}", text)

    def decision(self, slot: int) -> str | None:
        """Return the decision about a slot."""
        return self._read(f"decision/{slot}")

    def _write_once(self, key: str, text: str) -> str:
        return self._store.compare_set(key, "", text).decode()

    def _read(self, key: str) -> str | None:
        return self._store.get(key).decode() if self._store.check([key]) else None
