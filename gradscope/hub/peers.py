"""Who is behind each route of a door, and who is turned away.

A peer's life, as the hub sees it:

    stranger ──hello──▶ known ──bye, silence, or its peer id at another route──▶ stranger
        └───── ten messages that are none, or not allowed ─────▶ ignored, for good

A stranger's other messages are answered `who`, so that it says hello again: that is how peers find
their way back to a hub that was started anew, or that they were silent towards for too long. libzmq
cannot close the connection of one peer, so an ignored one is neither decoded nor answered.
"""

from collections import Counter, OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, Protocol

from gradscope.errors import ProtocolError
from gradscope.hub.history import Parts
from gradscope.hub.router_socket import RouterSocket
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

__all__ = ["Handler", "Identity", "Peer", "Peers"]

_STRIKES = 10
_REMEMBERED_ROUTES = 1_000
_NAME_LIMIT = 200


@dataclass(frozen=True, slots=True)
class Identity:
    """This hub, as it presents itself."""

    epoch: str
    version: str
    pid: int


@dataclass(slots=True)
class Peer:
    """A process that said hello. `heard_s` is monotonic."""

    route: bytes
    hello: Hello
    heard_s: float


class Handler(Protocol):
    """What one kind of peer is served by, once it is known."""

    @property
    def role(self) -> Literal["agent", "viewer"]:
        """Whom it serves."""

    def objection(self, hello: Hello) -> Refusal | None:
        """Return why this peer may not come in, if it may not."""

    def arrived(self, peer: Peer) -> None:
        """Take in a peer that is welcome. It may be one that never was away."""

    def left(self, peer: Peer, reason: str, *, is_farewell: bool) -> None:
        """Take note that a peer is gone: for good by its own word, or maybe to come back."""

    def handle(self, peer: Peer, message: Message, parts: Parts) -> Refusal | None:
        """Deal with a message; return an objection to it, if there is one."""


class Peers:
    """One door with the peers behind it, in front of one desk."""

    def __init__(
        self, door: RouterSocket, desk: Handler, identity: Identity, counts: Counter[str]
    ) -> None:
        self.door = door
        self._desk = desk
        self._identity = identity
        self._counts = counts
        self._peers: dict[bytes, Peer] = {}
        self._strikes: OrderedDict[bytes, int] = OrderedDict()

    def __len__(self) -> int:
        return len(self._peers)

    def __iter__(self) -> Iterator[Peer]:
        return iter(list(self._peers.values()))

    def take(self, limit: int, now_s: float) -> int:
        """Deal with at most `limit` messages that wait at the door; return how many there were."""
        for taken in range(limit):
            letter = self.door.receive()
            if letter is None:
                return taken
            self._on_parts(*letter, now_s)
        return limit

    def drop_silent(self, now_s: float) -> None:
        """Let go of the peers that were not heard for 6 s."""
        for peer in self:
            if now_s - peer.heard_s > SILENCE_S:
                self._counts["silent_peers"] += 1
                self._leave(peer, f"not heard for {SILENCE_S:g} s")

    def excuse_silence(self, now_s: float) -> None:
        """Forgive silence until now: it was this process that stood still."""
        for peer in self:
            peer.heard_s = now_s

    def tell_all(self, message: Message) -> None:
        """Tell all peers something of the hub's own; who takes nothing now misses it."""
        for peer in self:
            self.door.tell(peer.route, message)

    def take_answers(self) -> int:
        """Take what peers answer to a farewell, and nothing else; return how many have not yet."""
        while (letter := self.door.receive()) is not None:
            route, parts = letter
            try:
                message = _read(parts)
            except ProtocolError:
                continue  # nothing that comes now is dealt with
            if isinstance(message, Bye):
                self._peers.pop(route, None)
        return len(self._peers)

    def _on_parts(self, route: bytes, parts: Parts, now_s: float) -> None:
        self._counts["received"] += 1
        if self._strikes.get(route, 0) >= _STRIKES:
            self._counts["ignored"] += 1
            return
        try:
            message = _read(parts)
        except ProtocolError as error:
            self._strike(route, Refusal(code="message", reason=str(error)))
            return
        if isinstance(message, Hello):
            self._on_hello(route, message, now_s)
            return
        peer = self._peers.get(route)
        if peer is not None:
            peer.heard_s = now_s
            self._on_message(peer, message, parts)
        elif not isinstance(message, Bye):
            self.door.tell(route, Who(epoch=self._identity.epoch))

    def _on_message(self, peer: Peer, message: Message, parts: Parts) -> None:
        if isinstance(message, Bye):
            self._leave(peer, message.reason or "said goodbye", is_farewell=True)
            return
        refusal = self._desk.handle(peer, message, parts)
        if refusal is not None:
            self._strike(peer.route, refusal)

    def _on_hello(self, route: bytes, hello: Hello, now_s: float) -> None:
        refusal = self._objection(hello) or self._desk.objection(hello)
        if refusal is not None:
            self._counts["refused"] += 1
            self.door.tell(route, refusal)
            return
        for other in self:
            if other.hello.peer == hello.peer and other.route != route:
                self._replace(other, hello)
        peer = self._peers[route] = Peer(route, hello, now_s)
        role: Literal["agent", "observe", "control"] = "agent" if hello.role == "agent" else hello.want
        identity = self._identity
        welcome = Welcome(
            epoch=identity.epoch, role=role, version=identity.version, hub_pid=identity.pid
        )
        self.door.tell(route, welcome)
        self._desk.arrived(peer)

    def _replace(self, other: Peer, hello: Hello) -> None:
        """Forget a peer's former connection, and its former run if that was another."""
        if (other.hello.run, other.hello.rank) == (hello.run, hello.rank):
            del self._peers[other.route]
        else:
            self._leave(other, "came back as another")

    def _objection(self, hello: Hello) -> Refusal | None:
        if hello.protocol != PROTOCOL_VERSION:
            return Refusal(code="version", reason=self._other_version(hello))
        if hello.role != self._desk.role:
            return Refusal(
                code="role",
                reason=f"this socket is for {self._desk.role}s, got a hello of {hello.role!r}",
            )
        if not 0 < len(hello.peer) <= _NAME_LIMIT or len(hello.run) > _NAME_LIMIT:
            return Refusal(
                code="message", reason=f"a peer id or run name must have 1 to {_NAME_LIMIT} characters"
            )
        return None

    def _other_version(self, hello: Hello) -> str:
        return (
            f"the hub (process {self._identity.pid}, gradscope {self._identity.version}) speaks "
            f"version {PROTOCOL_VERSION} of the protocol, got {hello.protocol} (gradscope "
            f"{hello.version}); use one version of gradscope for both, or end the hub so that another "
            "is started"
        )

    def _leave(self, peer: Peer, reason: str, *, is_farewell: bool = False) -> None:
        if self._peers.pop(peer.route, None) is not None:
            self._desk.left(peer, reason, is_farewell=is_farewell)

    def _strike(self, route: bytes, refusal: Refusal) -> None:
        self._counts["garbage"] += 1
        self._strikes[route] = strikes = self._strikes.pop(route, 0) + 1
        if len(self._strikes) > _REMEMBERED_ROUTES:
            self._strikes.popitem(last=False)
        self.door.tell(route, refusal)
        if strikes >= _STRIKES and route in self._peers:
            self._leave(self._peers[route], f"ignored after {strikes} bad messages")


def _read(parts: Parts) -> Message:
    """Return the message in the head; a body is counted and measured and never looked into."""
    if len(parts) < 2:
        return decode(parts)
    if len(parts) > PART_LIMIT_COUNT or max(map(len, parts)) > PART_LIMIT_BYTES:
        return decode(parts)  # which says what is wrong
    message = decode(parts[:1])
    if not isinstance(message, WITH_BODY):
        raise ProtocolError(f"a {type(message).__name__} has no body, got {len(parts)} parts")
    return message
