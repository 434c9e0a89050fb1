"""The proposals, answers and decisions of ranks, as keys in the store of torch.distributed.

Each proposal has a slot; all ranks read the slots in the same order:

    proposal/k       the command and the rank that proposes it; the first write takes the slot
    answer/k/rank    the first step at which this rank can apply the command
    count/k          how many ranks have answered
    decision/k       "yes STEP" or "no REASON"; only the first write counts

No method blocks: for a key that does not exist yet, the value is None.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store

__all__ = ["ConsensusStore"]


class ConsensusStore:
    """The slots of one run. For one thread, which has its own connection to the store."""

    def __init__(self, store: "Store", rank: int, world_size: int) -> None:
        self._store = store
        self._rank = rank
        self._others = [each for each in range(world_size) if each != rank]

    def propose(self, slot: int, text: str) -> str:
        """Write a proposal if the slot is empty. Return the proposal in the slot."""
        return self._write_once(f"proposal/{slot}", text)

    def proposal(self, slot: int) -> str | None:
        """Return the proposal in a slot, or None."""
        return self._read(f"proposal/{slot}")

    def answer(self, slot: int, horizon: int) -> None:
        """Write the first step at which this rank can apply the command."""
        self._store.set(f"answer/{slot}/{self._rank}", str(horizon))
        self._store.add(f"count/{slot}", 1)

    def answers(self, slot: int) -> list[int] | None:
        """Return the answers of all other ranks, or None if an answer is missing."""
        if self._store.add(f"count/{slot}", 0) < len(self._others):
            return None
        return [int(self._store.get(f"answer/{slot}/{rank}")) for rank in self._others]

    def silent(self, slot: int, limit: int) -> Sequence[int]:
        """Return the ranks that have not answered, at most `limit` of them."""
        silent = (r for r in self._others if not self._store.check([f"answer/{slot}/{r}"]))
        return [rank for rank, _ in zip(silent, range(limit), strict=False)]

    def decide(self, slot: int, text: str) -> str:
        """Write the decision if the slot has none. Return the decision of the slot."""
        return self._write_once(f"decision/{slot}", text)

    def decision(self, slot: int) -> str | None:
        """Return the decision for a slot, or None."""
        return self._read(f"decision/{slot}")

    def _write_once(self, key: str, text: str) -> str:
        return self._store.compare_set(key, "", text).decode()

    def _read(self, key: str) -> str | None:
        return self._store.get(key).decode() if self._store.check([key]) else None
