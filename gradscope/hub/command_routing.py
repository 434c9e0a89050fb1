"""The way of a command: from a viewer that may, to the training process, and the answer back.

Each command has an id. The first answer to an id is remembered, and a repeated id is answered with
it: a viewer whose link broke may ask again and nothing happens twice.
"""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from gradscope.hub.history import Parts
from gradscope.hub.peers import Peer
from gradscope.hub.runs import RunTable
from gradscope.protocol import Ack, Command, Message

__all__ = ["COMMAND_ID_BYTES", "CommandRouter"]

COMMAND_ID_BYTES = 16

_REMEMBERED = 4_096


@dataclass(slots=True)
class _Asked:
    """A command that was let through: who asked for which run, and the answer once it is there."""

    viewer: str
    run: str
    ack: Ack | None = None


class CommandRouter:
    """Checks and forwards commands. `to_agent` sends to a route, `to_viewer` to a peer id."""

    def __init__(
        self,
        runs: RunTable,
        to_agent: Callable[[bytes, Parts], bool],
        to_viewer: Callable[[str, Message], None],
    ) -> None:
        self._runs = runs
        self._to_agent = to_agent
        self._to_viewer = to_viewer
        self._asked: OrderedDict[bytes, _Asked] = OrderedDict()

    def submit(self, viewer: Peer, command: Command, parts: Parts) -> None:
        """Forward a command to the agent of the lowest rank that is here, or answer it."""
        name = viewer.hello.peer
        reason = self._objection(viewer, command)
        known = None if reason else self._asked.get(command.id)
        if known is not None and known.ack is not None:
            self._to_viewer(name, known.ack)
            return
        if not reason:
            reason = self._forward(command, parts)
        if reason:
            self._to_viewer(
                name, Ack(command=command.id, run=command.run, is_done=False, reason=reason)
            )
        elif known is None:
            self._asked[command.id] = _Asked(name, command.run)
            if len(self._asked) > _REMEMBERED:
                self._asked.popitem(last=False)

    def acknowledge(self, run: str, ack: Ack) -> None:
        """Remember an agent's answer and pass it on to the viewer that asked."""
        asked = self._asked.get(ack.command)
        if asked is None or asked.run != run:
            return
        if asked.ack is None:
            asked.ack = ack
        self._to_viewer(asked.viewer, asked.ack)

    def asker(self, run: str, command: bytes) -> str | None:
        """Return which viewer asked a run with a command; None where nobody did."""
        asked = self._asked.get(command)
        return asked.viewer if asked is not None and asked.run == run else None

    def run_ended(self, run: str, reason: str) -> None:
        """Answer what a run that said goodbye will not answer any more."""
        for command, asked in self._asked.items():
            if asked.run == run and asked.ack is None:
                reason_now = f"run {run!r} ended before it could obey: {reason}"
                asked.ack = Ack(command=command, run=run, is_done=False, reason=reason_now)
                self._to_viewer(asked.viewer, asked.ack)

    def _objection(self, viewer: Peer, command: Command) -> str:
        if viewer.hello.want != "control":
            return "this viewer joined to observe only; connect with want='control' to change a run"
        if command.peer != viewer.hello.peer:
            return f"the command names the peer {command.peer!r}, it came from {viewer.hello.peer!r}"
        known = self._asked.get(command.id)
        if known is not None and (known.viewer, known.run) != (command.peer, command.run):
            return "the id of this command was used before by another; each command needs its own"
        return ""

    def _forward(self, command: Command, parts: Parts) -> str:
        ranks = [rank for _, rank in self._runs.ranks(command.run)]
        if not ranks:
            return f"there is no run {command.run!r}"
        route = next((rank.route for rank in ranks if rank.route is not None), None)
        if route is None:
            return f"run {command.run!r} has ended, or its training process does not answer"
        if not self._to_agent(route, parts):
            return f"the training process of {command.run!r} takes no messages now; try again"
        return ""
