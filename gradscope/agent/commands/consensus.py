"""Consensus of ranks: each command is applied on all ranks at the same step, or on none.

    proposed ─▶ each rank checks the command and answers with its horizon: the step that it will not
                begin before the decision is known
             ─▶ the proposing rank decides: apply at the largest horizon, or reject

The decision is a key that can be written only once. If a rank reaches its horizon and finds no
decision, it waits for WAIT_S and then writes a rejection. So there is exactly one decision, and every
rank knows it in time. No collectives are used. Only the consensus thread uses a socket; the training
thread does not.
"""

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from math import ceil
from typing import TYPE_CHECKING, Final

from gradscope.agent.commands.consensus_store import ConsensusStore
from gradscope.agent.commands.queue import PendingCommand, Prepared, ignore_done
from gradscope.agent.run.distributed import has_process_group
from gradscope.agent.run.faults import Faults
from gradscope.errors import GradscopeError

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store

__all__ = ["Consensus", "is_agreed"]

ANSWER_S: Final = 2.0
"""How long the proposing rank waits for the answers of the other ranks, in seconds."""

WAIT_S: Final = 2.0
"""How long a rank waits at its horizon for a decision, before it writes a rejection, in seconds."""

_AHEAD_S: Final = 0.05
_AHEAD_STEPS: Final = (2, 200)
_BUSY_S: Final = 0.005
_IDLE_S: Final = 0.05
_IDLE_PER_RANK_S: Final = 0.0005
_BUSY_FOR_S: Final = 1.0
_JOIN_S: Final = 1.0
_NAMED: Final = 8
_LEFT: Final = "left"
_LABEL: Final = "all-"


@dataclass(slots=True)
class _Proposal:
    """A proposal without a decision. `horizon` is None until this rank has answered."""

    command: PendingCommand
    is_mine: bool
    deadline_s: float
    horizon: int | None = None


class _ConsensusEnded(Exception):  # noqa: N818 - not an error: it ends the thread
    """A rank has detached, or the process group was destroyed."""


class Consensus:
    """One rank's part in the consensus, from the first boundary with a process group until `close`.

    `connect` opens a connection to the job's store for the consensus thread; `put` queues a decided
    command. `reach`, `hold` and `release` are called by the training thread, between two steps.
    """

    def __init__(
        self,
        rank: int,
        world_size: int,
        *,
        connect: Callable[[], "Store"],
        put: Callable[[PendingCommand], None],
        faults: Faults,
    ) -> None:
        self.rank = rank
        self.world_size = world_size
        self._connect = connect
        self._put = put
        self._faults = faults
        self._prepare: dict[str, Callable[[str], Prepared]] = {}
        self._changed = threading.Condition()
        self._open: dict[int, _Proposal] = {}
        self._outgoing: deque[tuple[str, PendingCommand]] = deque()
        self._serial = 0
        self._slot = 0
        self._next = 0
        self._is_held = False
        self._last_horizon = 0
        self._waits_since_s: float | None = None
        self._reached_s = time.perf_counter()
        self._pace_s = _AHEAD_S
        self._busy_until_s = 0.0
        self._over = ""
        self._no_step_reason = ""
        self._is_closing = False
        self._thread: threading.Thread | None = None

    def register(self, kind: str, prepare: Callable[[str], Prepared]) -> None:
        """Let the ranks agree on commands of this kind.

        Each rank calls `prepare(body)` with the packed command; it raises GradscopeError to reject the command.
        """
        self._prepare[kind] = prepare

    def reach(self, step: int) -> None:
        """Reach the boundary before `step`. When this returns, all commands decided for `step` are queued."""
        self._no_step_reason = ""
        if self._thread is None and not self._over and has_process_group():
            self._start()
        now_s = time.perf_counter()
        self._pace_s = 0.8 * self._pace_s + 0.2 * (now_s - self._reached_s)
        with self._changed:
            self._await_decisions(step)
            self._next = step + 1
        self._reached_s = time.perf_counter()

    def no_step_ends(self, reason: str) -> None:
        """Reject the proposals that this rank answers from now on, until a step ends."""
        self._no_step_reason = reason

    def hold(self, step: int) -> None:
        """Stay at the boundary before `step`: later decisions may apply to that step."""
        with self._changed:
            self._next, self._is_held = step, True

    def release(self, step: int, is_idle: Callable[[], bool]) -> bool:
        """Wait until all decisions for `step` are known, then leave the boundary unless a command is due.

        Returns whether the boundary was left.
        """
        with self._changed:
            self._await_decisions(step)
            if not is_idle():
                return False
            self._next, self._is_held = step + 1, False
            self._reached_s = time.perf_counter()
            return True

    def submit(self, kind: str, body: str, command: PendingCommand) -> None:
        """Propose a command to all ranks. Thread-safe. `body` must not begin with a space."""
        reason = self._over or self._no_step_reason
        if not reason and self._thread is None:
            reason = (
                f"this run has {self.world_size} ranks, and torch.distributed is not initialised "
                "in this process; a command needs all ranks"
            )
        if reason:
            command.refuse(reason)
            return
        with self._changed:
            self._serial += 1
            self._outgoing.append((f"{self.rank} {self._serial} {kind} {body}", command))
            self._changed.notify_all()

    def close(self) -> None:
        """Leave the consensus. From then on, commands that need all ranks are not possible on any rank."""
        with self._changed:
            self._is_closing = True
            self._changed.notify_all()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(_JOIN_S)

    # Training thread. Methods that wait hold the lock.

    def _start(self) -> None:
        # Not a daemon: a daemon thread inside the store would abort the process at interpreter exit.
        # It ends with the main thread.
        self._thread = threading.Thread(target=self._run, name="gradscope-consensus", daemon=False)
        self._thread.start()

    def _await_decisions(self, step: int) -> None:
        if not self._has_undecided(step):
            return
        self._waits_since_s = time.monotonic()
        self._changed.notify_all()
        is_known = self._changed.wait_for(
            lambda: not self._has_undecided(step), ANSWER_S + WAIT_S + _JOIN_S
        )
        self._waits_since_s = None
        if not is_known:
            self._open.clear()
            self._over = "the store of torch.distributed does not answer"
            self._faults.warn(
                "consensus", f"{self._over}: commands that need all ranks are no longer possible"
            )

    def _has_undecided(self, step: int) -> bool:
        return any(p.horizon is not None and p.horizon <= step for p in self._open.values())

    # Consensus thread.

    def _run(self) -> None:
        try:
            store = ConsensusStore(self._connect(), self.rank, self.world_size)
            while self._is_running():
                self._process(store)
                self._wait()
            self._leave(store)
            self._end("the scope was detached on this rank")
        except _ConsensusEnded as over:
            self._end(str(over))
        except Exception as error:  # noqa: BLE001 - a store may fail in many ways, and must not stop training
            if has_process_group() and not self._is_closing:
                self._faults.report(
                    "consensus", error, "Commands that need all ranks are no longer possible."
                )
            self._end(f"the store of torch.distributed failed: {type(error).__name__}")

    def _is_running(self) -> bool:
        if not has_process_group():
            raise _ConsensusEnded(
                "the process group was destroyed: commands that need all ranks are no longer possible"
            )
        return not self._is_closing and not self._over and threading.main_thread().is_alive()

    def _wait(self) -> None:
        with self._changed:
            if self._outgoing or self._is_closing:
                return
            idle_s = max(_IDLE_S, self.world_size * _IDLE_PER_RANK_S)
            is_busy = self._open or time.monotonic() < self._busy_until_s
            self._changed.wait(_BUSY_S if is_busy else idle_s)

    def _process(self, store: ConsensusStore) -> None:
        """Read the proposals of other ranks, write the proposals of this rank, and write due decisions."""
        while (text := store.proposal(self._slot)) is not None:
            self._take(store, text, None)
        while self._outgoing:
            text, command = self._outgoing[0]
            found = store.propose(self._slot, text)
            is_mine = found == text
            if is_mine:
                self._outgoing.popleft()
            self._take(store, found, command if is_mine else None)
        while self._open and self._decide_first(store):
            pass

    def _take(self, store: ConsensusStore, text: str, mine: PendingCommand | None) -> None:
        """Answer the proposal in the next slot. `mine` is the command if this rank proposed it, else None."""
        slot, self._slot = self._slot, self._slot + 1
        proposer, _, kind, body = text.split(" ", 3)
        if kind == _LEFT:
            raise _ConsensusEnded(
                f"rank {proposer} has detached; commands that need all ranks are no longer possible"
            )
        self._busy_until_s = time.monotonic() + _BUSY_FOR_S
        if mine is not None:
            self._open[slot] = _Proposal(mine, is_mine=True, deadline_s=time.monotonic() + ANSWER_S)
            return
        reason = self._no_step_reason
        if not reason:
            try:
                prepared = self._prepare[kind](body)
            except GradscopeError as error:
                reason = str(error)
        if reason:
            store.decide(slot, f"no rank {self.rank}: {reason}")
            return
        command = PendingCommand(prepared, done=ignore_done, refuse=_refused_everywhere)
        proposal = _Proposal(command, is_mine=False, deadline_s=0.0)
        store.answer(slot, self._promise(slot, proposal))

    def _promise(self, slot: int, proposal: _Proposal) -> int:
        """Return the horizon: the step that training does not begin before the decision is known."""
        with self._changed:
            ahead = 0 if self._is_held else _clamped(_AHEAD_S / max(self._pace_s, 1e-9))
            horizon = self._last_horizon = max(self._next + ahead, self._last_horizon)
            proposal.horizon = horizon
            self._open[slot] = proposal
        return horizon

    def _decide_first(self, store: ConsensusStore) -> bool:
        """Decide the oldest proposal; return False if that is not possible yet."""
        slot, proposal = next(iter(self._open.items()))
        decision = store.decision(slot)
        if decision is None and proposal.is_mine:
            decision = self._decide_mine(store, slot, proposal)
        elif decision is None and self._has_waited():
            reason = f"rank {self.rank} waited {WAIT_S:g} s for a decision"
            decision = store.decide(slot, f"no {reason}")
        if decision is None:
            return False
        word, _, rest = decision.partition(" ")
        if word == "yes":
            self._put(replace(proposal.command, step=int(rest), label=f"{_LABEL}{slot + 1}"))
        elif proposal.is_mine:
            proposal.command.refuse(rest)
        with self._changed:
            self._open.pop(slot, None)
            self._changed.notify_all()
        return True

    def _decide_mine(self, store: ConsensusStore, slot: int, proposal: _Proposal) -> str | None:
        horizons = store.answers(slot)
        if horizons is not None:
            return store.decide(slot, f"yes {max(self._promise(slot, proposal), *horizons)}")
        if time.monotonic() < proposal.deadline_s:
            return None
        silent = store.silent(slot, _NAMED)
        who = ("rank " if len(silent) == 1 else "ranks ") + ", ".join(map(str, silent))
        return store.decide(
            slot, f"no {who} did not answer in {ANSWER_S:g} s: stopped, busy, or not attached yet"
        )

    def _has_waited(self) -> bool:
        since_s = self._waits_since_s
        return since_s is not None and time.monotonic() - since_s > WAIT_S

    def _leave(self, store: ConsensusStore) -> None:
        for slot, proposal in self._open.items():
            if not proposal.is_mine or proposal.horizon is None:
                store.decide(slot, f"no rank {self.rank} has detached")
        while store.propose(self._slot, f"{self.rank} 0 {_LEFT} ").split(" ")[2] != _LEFT:
            self._slot += 1

    def _end(self, reason: str) -> None:
        with self._changed:
            self._over = self._over or reason
            left = [command for _, command in self._outgoing]
            left += [proposal.command for proposal in self._open.values() if proposal.is_mine]
            self._outgoing.clear()
            self._open.clear()
            self._changed.notify_all()
        for command in left:
            command.refuse(reason)


def is_agreed(id: str) -> bool:
    """Return whether an id belongs to an intervention that all ranks agreed on."""
    return f"-{_LABEL}" in id


def _refused_everywhere(reason: str) -> None:
    """Do nothing: the proposing rank reports the same reason."""


def _clamped(steps: float) -> int:
    least, most = _AHEAD_STEPS
    return min(max(ceil(steps), least), most)
