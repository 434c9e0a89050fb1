"""Handles the messages of agents: stores, records and forwards them to viewers."""

import time
from collections.abc import Callable
from typing import ClassVar

from gradscope.hub.history import Parts
from gradscope.hub.peers import Peer
from gradscope.hub.ranks.replicas import Replicas
from gradscope.hub.ranks.states import RunRanks
from gradscope.hub.recorders import Recorders
from gradscope.hub.resumption import Resumptions
from gradscope.hub.runs import Rank, RunTable, Streamed
from gradscope.hub.viewer_handler import ViewerHandler
from gradscope.protocol import (
    Ack,
    Bye,
    Captured,
    Environment,
    Event,
    Heartbeat,
    Hello,
    Interventions,
    Manifest,
    Memory,
    Message,
    RankStates,
    Refusal,
    Scalars,
    Step,
    Times,
    encode,
)

__all__ = ["AgentHandler"]


class AgentHandler:
    """Handles agents. Refuses a message whose run or rank differs from the agent's hello."""

    role: ClassVar = "agent"

    def __init__(
        self,
        runs: RunTable,
        recorders: Recorders,
        viewers: ViewerHandler,
        wake: Callable[[], None] = lambda: None,
    ) -> None:
        self._runs = runs
        self._recorders = recorders
        self._viewers = viewers
        self._replicas = Replicas()
        self._resumptions = Resumptions(wake)
        self._ranks: dict[str, RunRanks] = {}

    def refusal_of(self, hello: Hello) -> Refusal | None:
        """Refuse an agent without a run name, or with a run name and rank that another process uses."""
        return self._runs.refusal_of(hello)

    def on_joined(self, peer: Peer) -> None:
        """Mark the agent's run as live in the list of runs. Send it the commands that it has not answered."""
        self._runs.add(peer.hello, peer.route)
        self._viewers.commands.send_again(peer)
        if peer.hello.world_size > 1:
            self._ranks.setdefault(peer.hello.run, RunRanks()).join(peer.hello.rank)

    def on_left(self, peer: Peer, bye: Bye, *, has_said_bye: bool) -> None:
        """Mark the run as ended. Close the recording after the last rank."""
        run = peer.hello.run
        self._runs.mark_ended(peer.hello, peer.route, bye, has_said_bye=has_said_bye)
        self._viewers.rank_left(run, peer.hello.rank)
        if not self._runs.is_live(run):
            reason = self._runs.end_reason(run)
            self._recorders.end(run, reason)
            self._replicas.end(run)
            self._ranks.pop(run, None)
            self._resumptions.end(run)
            if has_said_bye:
                self._viewers.commands.run_ended(run, reason)

    def handle(self, peer: Peer, message: Message, parts: Parts) -> Refusal | None:
        """Handle one message of an agent."""
        rank = self._runs.rank(peer.hello.run, peer.hello.rank)
        if rank is None or rank.route != peer.route:
            return Refusal(code="run", reason="another process has taken over this run")
        rank.last_message_s = time.time()
        if peer.hello.run in self._ranks:
            self._ranks[peer.hello.run].note(peer.hello.rank, message, time.monotonic())
        match message:
            case Manifest() | Step() | Memory() | Times() | Scalars() | Event() | Interventions():
                return self._on_stream(peer, rank, message, parts)
            case Environment():
                return self._on_environment(peer, rank, message, parts)
            case Ack():
                self._viewers.commands.acknowledge(peer.hello.run, message)
            case Captured():
                self._viewers.forward_capture(peer.hello.run, message, parts)
            case RankStates():
                pass  # noted above
            case Heartbeat():
                rank.note_counters(message.counters | self._recorders.counters(peer.hello.run))
                rank.note_step(message.step)
            case _:
                name = type(message).__name__
                return Refusal(code="message", reason=f"an agent cannot send a {name}")
        return None

    def _on_environment(
        self, peer: Peer, rank: Rank, message: Environment, parts: Parts
    ) -> Refusal | None:
        refusal = self._wrong_run(peer, message)
        if refusal is None:
            rank.recording = self._recorders.add(peer.hello, message, parts)
        return refusal

    def _wrong_run(self, peer: Peer, message: Streamed | Environment) -> Refusal | None:
        hello = peer.hello
        if (message.run, message.rank) == (hello.run, hello.rank):
            return None
        return Refusal(
            code="run",
            reason=f"expected messages of rank {hello.rank} of {hello.run!r}, as in the hello, "
            f"got one of rank {message.rank} of {message.run!r}",
        )

    def _on_stream(self, peer: Peer, rank: Rank, message: Streamed, parts: Parts) -> Refusal | None:
        refusal = self._wrong_run(peer, message)
        if refusal is not None:
            return refusal
        if isinstance(message, Scalars) and not _has_equal_lengths(message):
            return Refusal(code="message", reason="the lists of a Scalars must have equal lengths")
        is_focus_step = isinstance(message, Step) and message.layers == "focus"
        if not is_focus_step:
            rank.keep(message, parts)
            rank.recording = self._recorders.add(peer.hello, message, parts)
        self._viewers.publish(message, parts)
        if isinstance(message, Manifest | Step | Scalars) and not is_focus_step:
            self._resumptions.add(peer.hello, message, parts, rank.recording)
        if isinstance(message, Manifest):
            self._replicas.add_manifest(peer.hello, parts)
        elif isinstance(message, Step) and not is_focus_step and _is_compared(peer, message):
            self._compare_ranks(peer.hello, message, parts)
        return None

    def _compare_ranks(self, hello: Hello, message: Step, parts: Parts) -> None:
        """Report parameters that differ between ranks, as an event of the lowest rank."""
        ranks = dict(self._runs.ranks(hello.run))
        having = [
            number
            for number, rank in ranks.items()
            if rank.route is not None or (rank.step is not None and rank.step >= message.step)
        ]
        event = self._replicas.add_step(hello, parts, having)
        if event is not None:
            self._publish(ranks[event.rank], event)

    def publish_ranks(self) -> None:
        """Send viewers how the ranks of the runs with several ranks are doing."""
        now_s = time.monotonic()
        for run, ranks in self._ranks.items():
            known = dict(self._runs.ranks(run))
            message = ranks.message(run, known, self._replicas.numbers(run), now_s)
            self._viewers.publish_ranks(message)

    def publish_found(self) -> None:
        """Publish what the check of resumed runs has found."""
        for event in self._resumptions.take_events():
            rank = self._runs.rank(event.run, event.rank)
            if rank is not None:
                self._publish(rank, event)

    def _publish(self, rank: Rank, event: Event) -> None:
        parts = encode(event)
        rank.keep(event, parts)
        if self._runs.is_live(event.run):  # else its recording is closed, and would be opened again
            self._recorders.add(rank.hello, event, parts)
        self._viewers.publish(event, parts)


def _is_compared(peer: Peer, step: Step) -> bool:
    """Return whether a step has the rows of one rank of several. Rows that a node has merged are compared there."""
    return peer.hello.world_size > 1 and not step.ranks


def _has_equal_lengths(message: Scalars) -> bool:
    count = len(message.steps)
    return count == len(message.times_s) and all(
        len(values) == count for values in message.values.values()
    )
