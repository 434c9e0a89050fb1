"""Forwards the runs of this node's hub to a head hub on another machine.

It is a process: `python -m gradscope.hub.network.forwarding DIRECTORY HEAD`.
It is a viewer of the hub of its node and an agent of the head, so both treat it as they treat any peer, and neither
waits for it. It forwards the ranks of its node merged, as the hub merges them for viewers. A command of a viewer at the
head reaches the hub of the node under the name of that viewer, over a connection of its own, which ends with the
viewer: so an intervention ends as it does for a viewer on the node.
"""

import os
import socket
import sys
import time
import uuid
from collections.abc import Iterable
from pathlib import Path

from msgspec.structs import replace

from gradscope._version import __version__
from gradscope.access import CurveKeys, own_key, require_curve, server_key
from gradscope.errors import GradscopeError
from gradscope.protocol import (
    Ack,
    Bye,
    Captured,
    Command,
    Credit,
    Event,
    Heartbeat,
    Hello,
    Interventions,
    Manifest,
    Memory,
    Message,
    RankStates,
    Refusal,
    RunInfo,
    Runs,
    Scalars,
    Step,
    Subscribe,
    Times,
    Welcome,
)
from gradscope.transport import HubAddress, Link, hub_address
from gradscope.transport.lock import PathLock

__all__ = ["ForwardedRun", "forward"]

FORWARD_LOCK = "forward.lock"

_POLL_S = 0.02
_LIST_S = 1.0
_IDLE_S = 5.0
_WINDOW_STEPS = 32
_RATE_HZ = 50.0
_PENDING_LIMIT = 256
_LOST_S = 6.0


class ForwardedRun:
    """One run on its way from the hub of this node to the head. `info` is the lowest rank on this node."""

    def __init__(self, hub: HubAddress, head: str, keys: CurveKeys, info: RunInfo) -> None:
        self.rank = info.rank
        self._hub = hub
        self._run = info.run
        self._state: dict[type, Message] = {}
        self._askers: dict[str, _Asker] = {}
        self._controllers: frozenset[str] = frozenset()
        self._has_warned = False
        self.is_ended = False
        self.runs: tuple[RunInfo, ...] = ()
        self._local = Link(hub.viewers, _viewer_hello(uuid.uuid4().hex, "observe"))
        self._remote = Link(
            head,
            Hello(
                role="agent",
                peer=uuid.uuid4().hex,
                version=__version__,
                run=info.run,
                rank=info.rank,
                world_size=info.world_size,
                pid=os.getpid(),
                host=info.host,
                user=info.user,
                script=info.script,
                started_s=info.started_s,
                record="",
            ),
            keys=keys,
        )

    def forward(self, timeout_s: float) -> None:
        """Forward what has arrived, after waiting up to `timeout_s` for a message of this node's hub."""
        for message in self._local.receive(timeout_s):
            self._on_local(message)
        for message in self._remote.receive(0):
            self._on_remote(message)
        for asker in self._askers.values():
            for answer in asker.receive():
                self._remote.send(answer)
        link = self._remote.state
        if link.phase != "up" and time.monotonic() - link.since_s > _LOST_S:
            self._drop_askers(self._askers)  # whether their viewers are still there is not known

    @property
    def is_hub_lost(self) -> bool:
        """Whether this node's hub has been gone for 6 s. A new hub starts a new process that forwards."""
        link = self._local.state
        return link.phase != "up" and time.monotonic() - link.since_s > _LOST_S

    def ask_for_runs(self) -> None:
        """Ask this node's hub for its runs."""
        if self._local.state.phase == "up":
            self._local.send(Runs())

    def close(self, reason: str, *, has_failed: bool = False) -> None:
        """Say bye to both hubs."""
        self._drop_askers(self._askers)
        self._remote.close(Bye(reason=reason, has_failed=has_failed))
        self._local.close(Bye(reason=reason))

    def _on_local(self, message: Message) -> None:
        match message:
            case Welcome():
                self._local.send(
                    Subscribe(run=self._run, max_rate_hz=_RATE_HZ, backfill=False, is_merged=True)
                )
                self._local.send(Credit(count=_WINDOW_STEPS))
            case Runs():
                self.runs = message.runs
            case Manifest() | Interventions() | RankStates() if message.run == self._run:
                self._state[type(message)] = self._of_this_rank(message)
                self._send(self._state[type(message)])
            case Step():
                self._local.send(Credit(count=1))
                self._send(message)
            case Scalars() | Memory() | Times() | Event():
                self._send(self._of_this_rank(message))
            case _:
                pass

    def _of_this_rank(self, message: Message) -> Message:
        """Return an event of another rank of this node as one of the lowest rank; other messages unchanged."""
        if isinstance(message, Event) and message.rank != self.rank:
            return replace(message, rank=self.rank, text=f"rank {message.rank}: {message.text}")
        return message

    def _send(self, message: Message) -> None:
        """Send to the head. Without a link, or if its queue is full, the link counts the message as dropped."""
        self._remote.send(message)

    def _on_remote(self, message: Message) -> None:
        match message:
            case Welcome():
                for state in self._state.values():
                    self._remote.send(state)
            case Heartbeat():
                self._controllers = frozenset(message.controllers)
                self._drop_askers(self._askers.keys() - set(message.peers))
            case Command():
                self._ask(message)
            case Refusal() if not self._has_warned:
                self._has_warned = True
                sys.stderr.write(
                    f"gradscope: the head hub refused run {self._run!r}: {message.reason}\n"
                )
            case _:
                pass

    def _ask(self, command: Command) -> None:
        """Pass a command to this node's hub, under the name of the viewer at the head."""
        if command.peer not in self._controllers:
            reason = f"the viewer {command.peer!r} may only observe"
            self._remote.send(Ack(command=command.id, run=command.run, is_done=False, reason=reason))
            return
        if command.peer not in self._askers:
            self._askers[command.peer] = _Asker(self._hub, command.peer)
        self._askers[command.peer].ask(command)

    def _drop_askers(self, peers: Iterable[str]) -> None:
        for peer in list(peers):
            self._askers.pop(peer).close()


class _Asker:
    """The connection of one viewer at the head to this node's hub."""

    def __init__(self, hub: HubAddress, peer: str) -> None:
        self._link = Link(hub.viewers, _viewer_hello(peer, "control"))
        self._pending: list[Command] = []

    def ask(self, command: Command) -> None:
        self._pending = [*self._pending, command][-_PENDING_LIMIT:]

    def receive(self) -> list[Message]:
        """Return the answers that have arrived, and send what waits for the connection."""
        received = self._link.receive(0)
        answers: list[Message] = [each for each in received if isinstance(each, Ack | Captured)]
        if self._link.state.phase == "up":
            for command in self._pending:
                self._link.send(command)
            self._pending = []
        return answers

    def close(self) -> None:
        self._link.close(Bye(reason="closed"))


def _viewer_hello(peer: str, want: str) -> Hello:
    return Hello(
        role="viewer",
        peer=peer,
        version=__version__,
        want="control" if want == "control" else "observe",
        pid=os.getpid(),
        host=socket.gethostname(),
        script="forwarding",
        started_s=time.time(),
    )


def forward(hub: HubAddress, head: str, keys: CurveKeys) -> None:
    """Forward all live runs of the hub, until it has had none for 5 s, or is gone."""
    runs: dict[str, ForwardedRun] = {}
    live = _live_runs(hub)
    busy_s, list_due_s = time.monotonic(), 0.0
    while time.monotonic() - busy_s < _IDLE_S:
        for name in runs.keys() - live.keys():
            runs.pop(name).close("the run has ended on its node")
        for name, info in live.items():
            if name not in runs:
                runs[name] = ForwardedRun(hub, head, keys, info)
        if not runs:
            time.sleep(_LIST_S)
            live = _live_runs(hub)
            continue
        busy_s = time.monotonic()
        for run in list(runs.values()):
            run.forward(_POLL_S / len(runs))
        first = next(iter(runs.values()))
        if first.is_hub_lost:
            break
        if busy_s >= list_due_s:
            list_due_s = busy_s + _LIST_S
            first.ask_for_runs()
        if first.runs:
            live, first.runs = _live(first.runs), ()
    for run in runs.values():
        run.close("the hub of its node has ended")


def _live(infos: Iterable[RunInfo]) -> dict[str, RunInfo]:
    """Return the lowest live rank of each live run. A rank that another hub has forwarded is not forwarded again."""
    live: dict[str, RunInfo] = {}
    for info in sorted((info for info in infos if info.is_live), key=lambda info: info.rank):
        live.setdefault(info.run, info)
    return live


def _live_runs(hub: HubAddress) -> dict[str, RunInfo]:
    deadline_s = time.monotonic() + _LOST_S
    with Link(hub.viewers, _viewer_hello(uuid.uuid4().hex, "observe")) as link:
        while time.monotonic() < deadline_s:
            for message in link.receive(_POLL_S):
                if isinstance(message, Runs):
                    return _live(message.runs)
    return {}


def main(directory: str, head: str) -> int:
    """Forward the runs of the hub in a directory. Return the exit code."""
    hub = hub_address(directory)
    with PathLock(Path(directory) / FORWARD_LOCK) as lock:
        if not lock.acquire():
            return 0  # another process forwards already
        try:
            require_curve()
            pair = own_key()
            forward(hub, head, CurveKeys(pair.public, pair.secret, server_key(head)))
        except GradscopeError as error:
            sys.stderr.write(f"gradscope: the runs of this node are not forwarded to {head}: {error}\n")
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:3]))
