"""The agents' desk: what training processes send is kept, recorded and handed to the viewers."""

import time
from typing import Literal

from gradscope.hub.history import Parts
from gradscope.hub.peers import Peer
from gradscope.hub.recorders import Recorders
from gradscope.hub.runs import Rank, RunTable, Streamed
from gradscope.hub.viewer_handler import ViewerHandler
from gradscope.protocol import (
    Ack,
    Captured,
    Event,
    Heartbeat,
    Hello,
    Interventions,
    Manifest,
    Memory,
    Message,
    Refusal,
    Scalars,
    Step,
    Times,
)

__all__ = ["AgentHandler"]


class AgentHandler:
    """Serves the agents. A message about another run or rank than that of the hello is refused."""

    def __init__(self, runs: RunTable, recorders: Recorders, viewers: ViewerHandler) -> None:
        self._runs = runs
        self._recorders = recorders
        self._viewers = viewers

    @property
    def role(self) -> Literal["agent", "viewer"]:
        """Whom it serves."""
        return "agent"

    def objection(self, hello: Hello) -> Refusal | None:
        """Refuse an agent without a run, or with one that another living process has."""
        return self._runs.objection(hello)

    def arrived(self, peer: Peer) -> None:
        """List the agent's run as live."""
        self._runs.arrive(peer.hello, peer.route)

    def left(self, peer: Peer, reason: str, *, is_farewell: bool) -> None:
        """List the run as ended; the last rank to go closes the recording."""
        run = peer.hello.run
        self._runs.leave(peer.hello, peer.route)
        if not self._runs.is_live(run):
            self._recorders.end(run, reason)
            if is_farewell:
                self._viewers.commands.run_ended(run, reason)

    def handle(self, peer: Peer, message: Message, parts: Parts) -> Refusal | None:
        """Keep, record and hand on what an agent says."""
        rank = self._runs.rank(peer.hello.run, peer.hello.rank)
        if rank is None or rank.route != peer.route:
            return Refusal(code="run", reason="another process has taken over this run")
        rank.heard_s = time.time()
        match message:
            case Manifest() | Step() | Memory() | Times() | Scalars() | Event() | Interventions():
                return self._on_stream(peer, rank, message, parts)
            case Ack():
                self._viewers.commands.acknowledge(peer.hello.run, message)
            case Captured():
                self._viewers.pass_on(peer.hello.run, message, parts)
            case Heartbeat():
                rank.note_counters(message.counters)
                rank.note_step(message.step)
            case _:
                name = type(message).__name__
                return Refusal(code="message", reason=f"an agent cannot send a {name}")
        return None

    def _misnamed(self, peer: Peer, message: Streamed) -> Refusal | None:
        hello = peer.hello
        if (message.run, message.rank) == (hello.run, hello.rank):
            return None
        return Refusal(
            code="run",
            reason=f"expected messages of rank {hello.rank} of {hello.run!r}, as the hello said, "
            f"got one of rank {message.rank} of {message.run!r}",
        )

    def _on_stream(self, peer: Peer, rank: Rank, message: Streamed, parts: Parts) -> Refusal | None:
        refusal = self._misnamed(peer, message)
        if refusal is not None:
            return refusal
        if isinstance(message, Scalars) and not _is_even(message):
            return Refusal(code="message", reason="the lists of a Scalars must have equal lengths")
        if not (isinstance(message, Step) and message.layers == "focus"):
            rank.keep(message, parts)
            rank.recording = self._recorders.add(peer.hello, message, parts)
        self._viewers.publish(message, parts)
        return None


def _is_even(message: Scalars) -> bool:
    count = len(message.steps)
    return count == len(message.times_s) and all(
        len(values) == count for values in message.values.values()
    )
