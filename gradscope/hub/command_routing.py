"""Routes commands from viewers to training processes, and the answers back to the viewers.

The hub remembers the answer to each command id and repeats it if the same id is sent again. So a viewer
can send a command again after a broken link, and the command takes effect only once. If the link of the training
process breaks, the hub sends it the unanswered commands again when it has reconnected.
"""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from gradscope.hub.history import Parts
from gradscope.hub.peers import Peer
from gradscope.hub.runs import RunTable
from gradscope.protocol import Ack, Command, Heartbeat, Message, encode

__all__ = ["COMMAND_ID_BYTES", "CommandRouter"]

COMMAND_ID_BYTES = 16

_REMEMBERED = 4_096
_REASON_LIMIT = 1_000


@dataclass(slots=True)
class _Forwarded:
    """A forwarded command: the viewer that sent it, its run, the agent that received it, and the answer.

    `parts` are the bytes of the command; empty once the answer has arrived.
    """

    viewer: str
    run: str
    agent: str
    parts: Parts
    ack: Ack | None = None

    def answer(self, ack: Ack) -> None:
        """Store the answer, unless there is one."""
        if self.ack is None:
            self.ack, self.parts = ack, []


class CommandRouter:
    """Checks and forwards commands. `to_agent` sends to a route, `to_viewer` to a peer id.

    A heartbeat goes ahead of each command: the agent refuses a viewer that it does not name as a controller.
    """

    def __init__(
        self,
        runs: RunTable,
        to_agent: Callable[[bytes, Parts], bool],
        to_viewer: Callable[[str, Message], None],
        heartbeat: Callable[[], Heartbeat],
    ) -> None:
        self._runs = runs
        self._to_agent = to_agent
        self._to_viewer = to_viewer
        self._heartbeat = heartbeat
        self._forwarded: OrderedDict[bytes, _Forwarded] = OrderedDict()

    def submit(self, viewer: Peer, command: Command, parts: Parts) -> None:
        """Forward a command to the agent with the lowest connected rank, or answer it directly."""
        name = viewer.hello.peer
        reason = self._reason_to_refuse(viewer, command)
        known = None if reason else self._forwarded.get(command.id)
        if known is not None and known.ack is not None:
            self._to_viewer(name, known.ack)
            return
        agent = ""
        if not reason:
            agent, reason = self._forward(command, parts)
        if reason:
            self._to_viewer(name, _refused(command.id, command.run, reason))
        elif known is not None:
            known.agent = agent
        else:
            self._forwarded[command.id] = _Forwarded(name, command.run, agent, parts)
            if len(self._forwarded) > _REMEMBERED:
                self._forwarded.popitem(last=False)

    def send_again(self, agent: Peer) -> None:
        """Send an agent that has joined the commands that it has not answered: they may be lost with its former link.

        An agent that has received one of them executes it once.
        """
        for entry in self._forwarded.values():
            if entry.ack is None and entry.agent == agent.hello.peer:
                self._to_agent(agent.route, encode(self._heartbeat()))
                self._to_agent(agent.route, entry.parts)

    def acknowledge(self, run: str, ack: Ack) -> None:
        """Store an agent's answer and send it to the viewer that sent the command."""
        entry = self._forwarded.get(ack.command)
        if entry is None or entry.run != run:
            return
        entry.answer(ack)
        self._to_viewer(entry.viewer, entry.ack or ack)

    def asker(self, run: str, command: bytes) -> str | None:
        """Return the viewer that sent a command to this run; None if the command is unknown."""
        entry = self._forwarded.get(command)
        return entry.viewer if entry is not None and entry.run == run else None

    def run_ended(self, run: str, reason: str) -> None:
        """Refuse the unanswered commands of a run that has ended."""
        for command, entry in self._forwarded.items():
            if entry.run == run and entry.ack is None:
                reason_now = f"run {run!r} ended before the command took effect: {reason}"
                refusal = _refused(command, run, reason_now)
                entry.answer(refusal)
                self._to_viewer(entry.viewer, refusal)

    def _reason_to_refuse(self, viewer: Peer, command: Command) -> str:
        if viewer.hello.want != "control":
            return "this viewer joined to observe only; connect with want='control' to change a run"
        if command.peer != viewer.hello.peer:
            return f"the command names the peer {command.peer!r}, it came from {viewer.hello.peer!r}"
        known = self._forwarded.get(command.id)
        if known is not None and (known.viewer, known.run) != (command.peer, command.run):
            return "another command has used this id; each command needs an id of its own"
        return ""

    def _forward(self, command: Command, parts: Parts) -> tuple[str, str]:
        """Forward a command. Return the peer id of the agent, and the reason if it cannot be forwarded."""
        ranks = [rank for _, rank in self._runs.ranks(command.run)]
        if not ranks:
            return "", f"there is no run {command.run!r}"
        rank = next((rank for rank in ranks if rank.route is not None), None)
        if rank is None or rank.route is None:
            return "", f"run {command.run!r} has ended, or its training process does not answer"
        is_sent = self._to_agent(rank.route, encode(self._heartbeat())) and self._to_agent(
            rank.route, parts
        )
        if not is_sent:
            return "", (
                f"the training process of {command.run!r} cannot be reached: its connection is broken or its queue "
                "is full; try again"
            )
        return rank.hello.peer, ""


def _refused(command: bytes, run: str, reason: str) -> Ack:
    """Return a refusal. Its reason is cut, because it may repeat a text of a peer of any length."""
    return Ack(command=command, run=run, is_done=False, reason=reason[:_REASON_LIMIT])
