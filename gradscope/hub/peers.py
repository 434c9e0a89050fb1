"""The peers of one ROUTER socket: handshake, timeouts, and peers that are ignored.

The states of a peer:

    unknown ──hello──▶ known ──bye, silence, or its peer id on another route──▶ unknown
       └───── ten messages that are invalid or not allowed ─────▶ ignored, permanently

The hub answers any message of an unknown peer, except hello, with `who`; the peer then sends hello
again. In this way, peers rejoin a hub that was restarted or that has dropped them after a timeout.
libzmq cannot close the connection of one peer, so messages of an ignored peer are neither decoded nor
answered. A message that makes the hub raise an error counts as invalid: it must not end the hub of all runs.
"""

import sys
import traceback
from collections import Counter, OrderedDict
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from gradscope.errors import ProtocolError
from gradscope.hub.history import Parts
from gradscope.hub.router_socket import RouterSocket
from gradscope.hub.runs import is_running
from gradscope.protocol import (
    PART_LIMIT_BYTES,
    PART_LIMIT_COUNT,
    PROTOCOL_VERSION,
    WITH_BODY,
    Bye,
    Hello,
    Message,
    Refusal,
    Welcome,
    Who,
    decode,
)
from gradscope.transport.options import SILENCE_S

if TYPE_CHECKING:
    from gradscope.hub.agent_handler import AgentHandler
    from gradscope.hub.viewer_handler import ViewerHandler

__all__ = ["Identity", "Peer", "Peers"]

_STRIKES = 10
_REMEMBERED_ROUTES = 1_000
_PEERS_LIMIT = 1_000
_PEER_LIMIT_BYTES = 64
"""The ids of 1,000 viewers, and again of all that may control, must fit into one heartbeat of 262,144 bytes."""
_NAME_LIMIT = 200
_TEXT_LIMIT = 4_096  # of the longest path on Linux
_REASON_LIMIT = 1_000
_GONE_S = 3.0


@dataclass(frozen=True, slots=True)
class Identity:
    """The facts that this hub sends about itself in a `welcome`."""

    epoch: str
    version: str
    pid: int


@dataclass(slots=True)
class Peer:
    """A process that has sent hello. `heard_s`: the time of its last message (time.monotonic())."""

    route: bytes
    hello: Hello
    heard_s: float


class Peers:
    """The peers of one socket. `handler` receives the messages of known peers."""

    def __init__(
        self,
        socket: RouterSocket,
        handler: "AgentHandler | ViewerHandler",
        identity: Identity,
        counts: Counter[str],
    ) -> None:
        self.socket = socket
        self._handler = handler
        self._identity = identity
        self._counts = counts
        self._peers: dict[bytes, Peer] = {}
        self._strikes: OrderedDict[bytes, int] = OrderedDict()

    def __len__(self) -> int:
        return len(self._peers)

    def __iter__(self) -> Iterator[Peer]:
        return iter(list(self._peers.values()))

    def receive_batch(self, limit: int, now_s: float) -> int:
        """Handle at most `limit` waiting messages. Return how many were handled."""
        for count in range(limit):
            received = self.socket.receive()
            if received is None:
                return count
            try:
                self._on_parts(*received, now_s)
            except Exception as error:  # noqa: BLE001 - the other runs of this hub must go on
                self._on_fault(received[0], error)
        return limit

    def drop_silent(self, now_s: float) -> None:
        """Drop the peers that have sent nothing for 6 s, or for 3 s if their process is gone."""
        for peer in self:
            silence_s = now_s - peer.heard_s
            if silence_s > SILENCE_S or (silence_s > _GONE_S and not is_running(peer.hello)):
                self._counts["silent_peers"] += 1
                self._remove_peer(peer, _end_of_silent(peer.hello))

    def reset_silence(self, now_s: float) -> None:
        """Restart the timeouts of all peers, because this process itself was suspended."""
        for peer in self:
            peer.heard_s = now_s

    def send_to_all(self, message: Message) -> None:
        """Send a message of the hub to all peers. Skips peers whose queue is full."""
        for peer in self:
            self.socket.send_message(peer.route, message)

    def receive_byes(self) -> int:
        """Receive answers to the hub's `bye`, ignore the rest, and return how many answers are missing."""
        while (received := self.socket.receive()) is not None:
            route, parts = received
            try:
                message = _decode_head(parts)
            except ProtocolError:
                continue  # the hub is closing
            if isinstance(message, Bye):
                self._peers.pop(route, None)
        return len(self._peers)

    def _on_parts(self, route: bytes, parts: Parts, now_s: float) -> None:
        self._counts["received"] += 1
        if self._strikes.get(route, 0) >= _STRIKES:
            self._counts["ignored"] += 1
            return
        try:
            message = _decode_head(parts)
        except ProtocolError as error:
            self._count_bad_message(route, Refusal(code="message", reason=str(error)))
            return
        if isinstance(message, Hello):
            self._on_hello(route, message, now_s)
            return
        peer = self._peers.get(route)
        if peer is not None:
            peer.heard_s = now_s
            self._on_message(peer, message, parts)
        elif not isinstance(message, Bye):
            self._counts["of_unknown_peers"] += 1
            self.socket.send_message(route, Who(epoch=self._identity.epoch))

    def _on_message(self, peer: Peer, message: Message, parts: Parts) -> None:
        if isinstance(message, Bye):
            self._remove_peer(peer, message, has_said_bye=True)
            return
        refusal = self._handler.handle(peer, message, parts)
        if refusal is not None:
            self._count_bad_message(peer.route, refusal)

    def _on_hello(self, route: bytes, hello: Hello, now_s: float) -> None:
        refusal = self._basic_refusal(hello) or self._handler.refusal_of(hello)
        if refusal is not None:
            self._counts["refused"] += 1
            self._refuse(route, refusal)
            return
        for other in self:
            if other.hello.peer == hello.peer and other.route != route:
                self._remove_former_connection(other, hello)
        peer = self._peers[route] = Peer(route, hello, now_s)
        role: Literal["agent", "observe", "control"] = "agent" if hello.role == "agent" else hello.want
        identity = self._identity
        welcome = Welcome(
            epoch=identity.epoch, role=role, version=identity.version, hub_pid=identity.pid
        )
        self.socket.send_message(route, welcome)
        self._handler.on_joined(peer)

    def _remove_former_connection(self, other: Peer, hello: Hello) -> None:
        """Remove a peer's former connection, and its former run if the run has changed."""
        if (other.hello.run, other.hello.rank) == (hello.run, hello.rank):
            del self._peers[other.route]
        else:
            self._remove_peer(other, Bye(reason="rejoined with another run or rank"))

    def _basic_refusal(self, hello: Hello) -> Refusal | None:
        if hello.protocol != PROTOCOL_VERSION:
            return Refusal(code="version", reason=self._other_version(hello))
        if hello.role != self._handler.role:
            return Refusal(
                code="role",
                reason=f"this socket is for {self._handler.role}s, got a hello of {hello.role!r}",
            )
        if not 0 < len(hello.peer.encode()) <= _PEER_LIMIT_BYTES or len(hello.run) > _NAME_LIMIT:
            return Refusal(
                code="message",
                reason=f"a peer id must have 1 to {_PEER_LIMIT_BYTES} bytes, a run name at most {_NAME_LIMIT} "
                "characters",
            )
        texts = (hello.version, hello.host, hello.user, hello.script, hello.record or "")
        if max(map(len, texts)) > _TEXT_LIMIT:
            return Refusal(
                code="message", reason=f"a text of a hello must have at most {_TEXT_LIMIT:,} characters"
            )
        if len(self._peers) >= _PEERS_LIMIT:
            return Refusal(
                code="message", reason=f"{_PEERS_LIMIT:,} {hello.role}s are connected already"
            )
        return None

    def _other_version(self, hello: Hello) -> str:
        return (
            f"the hub (process {self._identity.pid}, gradscope {self._identity.version}) speaks "
            f"version {PROTOCOL_VERSION} of the protocol, got {hello.protocol} (gradscope "
            f"{hello.version}); use one version of gradscope for both, or end the hub so that a new one "
            "is started"
        )

    def _remove_peer(self, peer: Peer, bye: Bye, *, has_said_bye: bool = False) -> None:
        if self._peers.pop(peer.route, None) is not None:
            self._handler.on_left(peer, bye, has_said_bye=has_said_bye)

    def _count_bad_message(self, route: bytes, refusal: Refusal) -> None:
        self._counts["garbage"] += 1
        self._strikes[route] = strikes = self._strikes.pop(route, 0) + 1
        if len(self._strikes) > _REMEMBERED_ROUTES:
            self._strikes.popitem(last=False)
        self._refuse(route, refusal)
        if strikes >= _STRIKES and route in self._peers:
            reason = f"ignored after {strikes} bad messages"
            self._remove_peer(self._peers[route], Bye(reason=reason, has_failed=True))

    def _refuse(self, route: bytes, refusal: Refusal) -> None:
        """Send a refusal. Its reason is cut, because it may repeat a text of the peer of any length."""
        self.socket.send_message(
            route, Refusal(code=refusal.code, reason=refusal.reason[:_REASON_LIMIT])
        )

    def _on_fault(self, route: bytes, error: Exception) -> None:
        """Count an error of the hub itself as a bad message of the peer. The first one is logged with its place."""
        self._counts["faults"] += 1
        if self._counts["faults"] == 1:
            with suppress(OSError):  # the disk of the log is full
                sys.stderr.write("gradscope hub: " + "".join(traceback.format_exception(error)))
        reason = f"the hub could not handle this message: {type(error).__name__}"
        self._count_bad_message(route, Refusal(code="message", reason=reason))


def _end_of_silent(hello: Hello) -> Bye:
    """Return what is known about the end of a process that has sent no `bye`."""
    if is_running(hello):
        reason = f"lost: process {hello.pid} exists, but has sent nothing for {SILENCE_S:g} s"
    else:
        reason = f"killed: process {hello.pid} ended by a signal or by os._exit"
    return Bye(reason=reason, has_failed=True)


def _decode_head(parts: Parts) -> Message:
    """Decode the head. The body is counted and measured, but not decoded."""
    if len(parts) < 2:
        return decode(parts)
    if len(parts) > PART_LIMIT_COUNT or max(map(len, parts)) > PART_LIMIT_BYTES:
        return decode(parts)  # raises with the reason
    message = decode(parts[:1])
    if not isinstance(message, WITH_BODY):
        raise ProtocolError(f"a {type(message).__name__} has no body, got {len(parts)} parts")
    return message
