"""`Gateway`: lets viewers with an authorized key reach the hub of this machine over TCP; `gradscope serve`.

It is a process of its own. Each remote viewer gets a DEALER to the hub's viewer socket, so that the hub sees one more
viewer, with credit and queues of its own. For each message the gateway finds the key of its connection among the
authorized ones; libzmq itself checks a key only while connecting.

Threads: `run` in one thread owns all sockets but that of zmq.auth's thread, which answers libzmq's question for each
    new connection.
"""

import contextlib
import errno
import resource
import time
from collections import Counter, OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import zmq
from msgspec.structs import replace
from zmq.auth.thread import ThreadAuthenticator

from gradscope.access import AuthorizedKey, AuthorizedKeys, KeyPair, to_hex
from gradscope.errors import GradscopeError, LinkError, NothingToConnectError, ProtocolError
from gradscope.hub.router_socket import (
    AGENT_PART_BYTES,
    RECEIVE_QUEUE,
    SEND_QUEUE,
    VIEWER_PART_BYTES,
    open_descriptors,
)
from gradscope.notice import print_notice
from gradscope.protocol import Ack, Bye, Command, Hello, Message, Refusal, Who, decode, encode
from gradscope.transport import HubAddress, ensure_hub, hub_listens
from gradscope.transport.options import SILENCE_S, new_context, open_dealer, set_common_options
from gradscope.transport.waker import Waker

__all__ = ["Gateway"]

VIEWER_LIMIT = 64
"""Viewers at a time. Each holds two file descriptors here and one in the hub, whose limit may be 1,024."""

_KEY_VIEWER_LIMIT = 16
"""Viewers at a time with one key, so that one key cannot take the places of all others."""

FORWARDED_LIMIT = 512
"""Runs at a time that the hubs of other nodes forward. Each has two file descriptors here."""

_DOMAIN = "gradscope"
_BATCH = 100
_STRIKES = 10
_REMEMBERED_ROUTES = 1_000
_CHECK_S = 0.5
_HUB_CHECK_S = 2.0
_RETRY_S = 0.01
_LINGER_MS = 500
_WHO_LIMIT = 100
_EVENTS_AT_ONCE = 1_000
_UNKNOWN_HUB = Who(epoch="")
_GONE = zmq.EHOSTUNREACH, errno.ECONNRESET


@dataclass(slots=True)
class _Viewer:
    """A remote viewer: its connection, its key, its connection to the hub, and a message that it was too slow for."""

    route: bytes
    key: AuthorizedKey
    dealer: zmq.Socket[bytes]
    heard_s: float
    waiting: Sequence[bytes] | None = None


class _Admission:
    """Tells zmq.auth's thread which keys may connect. An error admits no viewer; `run` raises the same error."""

    def __init__(self, keys: AuthorizedKeys) -> None:
        self._keys = keys

    def callback(self, _domain: str, key: bytes) -> bool:
        try:
            return self._keys.viewer(key.decode()) is not None
        except GradscopeError:
            return False


class Gateway:
    """Listens at `bind`, a `tcp://HOST:PORT` with CURVE, from construction until `close`.

    Call all methods except `stop` from one thread. Raises LinkError if it cannot listen there.
    """

    def __init__(self, hub: HubAddress, bind: str, server: KeyPair, keys: AuthorizedKeys) -> None:
        self.counts: Counter[str] = Counter()
        self._hub = hub
        self._keys = keys
        self._known: tuple[AuthorizedKey, ...] = keys.all()
        self._viewers: dict[bytes, _Viewer] = {}
        self._strikes: OrderedDict[bytes, int] = OrderedDict()
        self._is_ending = False
        self._hub_due_s = 0.0
        self._waker = Waker()
        self._context: zmq.Context[zmq.Socket[bytes]] = new_context()
        self._admission = ThreadAuthenticator(self._context)
        self._admission.start()
        self._admission.configure_curve_callback(_DOMAIN, _Admission(keys))
        self._router = self._context.socket(zmq.ROUTER)
        self._poller = zmq.Poller()
        self._poller.register(self._waker.fileno(), zmq.POLLIN)
        try:
            self._listen(bind, server)
        except BaseException:
            self.close()
            raise

    def _listen(self, bind: str, server: KeyPair) -> None:
        router = self._router
        set_common_options(router)
        router.setsockopt(zmq.ROUTER_MANDATORY, 1)
        may_forward = any(key.role == "forward" for key in self._known)
        router.setsockopt(zmq.MAXMSGSIZE, AGENT_PART_BYTES if may_forward else VIEWER_PART_BYTES)
        router.setsockopt(zmq.RCVHWM, RECEIVE_QUEUE)
        router.setsockopt(zmq.SNDHWM, SEND_QUEUE)
        router.setsockopt(zmq.IPV6, int("[" in bind))
        router.setsockopt(zmq.CURVE_SERVER, 1)
        router.setsockopt_string(zmq.CURVE_SECRETKEY, server.secret)
        router.setsockopt_string(zmq.ZAP_DOMAIN, _DOMAIN)
        router.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)
        self._accepted = router.get_monitor_socket(zmq.EVENT_ACCEPTED)
        try:
            router.bind(bind)
        except zmq.ZMQError as error:
            raise LinkError(
                f"cannot listen on {bind}: {error.strerror}; choose an address of this machine and a free port"
            ) from error
        self.address = router.getsockopt_string(zmq.LAST_ENDPOINT).rstrip("\0")
        self._is_listening = True
        self._poller.register(router, zmq.POLLIN)
        self._poller.register(self._accepted, zmq.POLLIN)

    def run(self) -> None:
        """Serve until `stop`. Raises UnsafePathError if the authorized keys are no longer private to this user."""
        check_due_s = 0.0
        while not self._is_ending:
            is_waiting = any(viewer.waiting for viewer in self._viewers.values())
            ready = dict(self._poller.poll(int((_RETRY_S if is_waiting else _CHECK_S) * 1000)))
            if self._waker.fileno() in ready:
                self._waker.clear()
            if self._accepted in ready:
                self._bound_connections()
            if self._router in ready:
                self._receive_from_viewers()
            for viewer in list(self._viewers.values()):
                if viewer.waiting is not None or viewer.dealer in ready:
                    self._send_to_viewer(viewer)
            if time.monotonic() >= check_due_s:
                check_due_s = time.monotonic() + _CHECK_S
                self._check_viewers()
                self._bound_connections()

    def stop(self) -> None:
        """Make `run` return soon. May be called from any thread or a signal handler."""
        self._is_ending = True
        self._waker.wake()

    def close(self) -> None:
        """Say bye to the viewers and to the hub for them, and close all sockets."""
        for viewer in list(self._viewers.values()):
            self._send(viewer.route, Bye(reason="gradscope serve has ended on that machine"))
            self._remove(viewer)
        self._admission.stop()
        self._router.disable_monitor()
        self._context.destroy(linger=_LINGER_MS)
        self._waker.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def _bound_connections(self) -> None:
        """Accept none while half of the file descriptors are open. Without a handshake, connections end after 3 s."""
        with contextlib.suppress(zmq.Again):
            for _ in range(_EVENTS_AT_ONCE):
                self._accepted.recv_multipart(zmq.NOBLOCK)
        limit, count = resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2, open_descriptors()
        if self._is_listening and count > limit:
            self.counts["paused_listening"] += 1
            self._router.unbind(self.address)
            self._is_listening = False
        elif not self._is_listening and count <= limit:
            with contextlib.suppress(zmq.ZMQError):  # the port is not free yet: tried again
                self._router.bind(self.address)
                self._is_listening = True

    # From the viewers to the hub.

    def _receive_from_viewers(self) -> None:
        for _ in range(_BATCH):
            try:
                sender, *frames = self._router.recv_multipart(zmq.NOBLOCK, copy=False)
            except zmq.Again:
                return
            self._on_parts(sender.bytes, frames)

    def _on_parts(self, route: bytes, frames: Sequence[zmq.Frame]) -> None:
        key = self._keys.viewer(_user_id(frames))
        viewer = self._viewers.get(route)
        if viewer is not None and viewer.key != key:
            self._expel(viewer, key)
            viewer = None
        if key is None or self._strikes.get(route, 0) >= _STRIKES:
            self.counts["ignored"] += 1
            return
        self.counts["received"] += 1
        try:
            message = decode([frame.bytes for frame in frames])
        except ProtocolError as error:
            self._on_garbage(route, str(error))
            return
        if key.role != "forward" and len(frames[0].bytes) > VIEWER_PART_BYTES:
            self._on_garbage(
                route, f"expected at most {VIEWER_PART_BYTES} bytes, got {len(frames[0].bytes)}"
            )
            return
        if len(frames) > 1 and key.role != "forward":
            self._on_garbage(route, f"the messages of a viewer have one part, got {len(frames)}")
            return
        if viewer is None and isinstance(message, Hello):
            viewer = self._admit(route, key, message)
        elif viewer is None:
            if not isinstance(message, Bye):
                self._send(route, _UNKNOWN_HUB)  # the viewer says hello again
            return
        if viewer is not None:
            viewer.heard_s = time.monotonic()
            if key.role == "forward":
                self._pass_on(viewer, message, [frame.bytes for frame in frames])
            else:
                self._forward(viewer, message, frames[0].bytes)

    def _forward(self, viewer: _Viewer, message: Message, part: bytes) -> None:
        """Pass a message to the hub, with no more rights than the viewer's key has."""
        key = viewer.key
        match message:
            case Hello():
                want = message.want if key.role == "control" else "observe"
                (part,) = encode(replace(message, want=want))
            case Command() if key.role != "control":
                self.counts["refused"] += 1
                reason = (
                    f"the key {key.name!r} may only observe; on the machine of the run: gradscope key authorize "
                    f"{to_hex(key.curve_publickey)} --name {key.name} --role control"
                )
                ack = Ack(command=message.id, run=message.run, is_done=False, reason=reason)
                self._send(viewer.route, ack)
                return
            case Command():
                (part,) = encode(replace(message, set_by=f"key {key.name}: {message.set_by}"))
        try:
            viewer.dealer.send(part, zmq.NOBLOCK)
        except zmq.Again:
            self.counts["dropped_to_hub"] += 1
        if isinstance(message, Bye):
            self._remove(viewer)

    def _pass_on(self, node: _Viewer, message: Message, parts: Sequence[bytes]) -> None:
        """Pass a message of another node's hub to this one, unchanged."""
        try:
            node.dealer.send_multipart(parts, zmq.NOBLOCK)
        except zmq.Again:
            self.counts["dropped_to_hub"] += 1
        if isinstance(message, Bye):
            self._remove(node)

    def _admit(self, route: bytes, key: AuthorizedKey, hello: Hello) -> _Viewer | None:
        """Connect a viewer to the hub. Without a hub, or with too many viewers, refuse it and return None."""
        if key.role == "forward" and hello.role != "agent":
            self.counts["refused"] += 1
            reason = f"the key {key.name!r} has the role forward: it cannot watch runs; use another key"
            self._send(route, Refusal(code="role", reason=reason))
            return None
        try:
            self._check_room(key)
            dealer = open_dealer(self._context)
        except (
            GradscopeError,
            OSError,
            zmq.ZMQError,
        ) as error:  # the last two: no file descriptor is free
            self.counts["refused"] += 1
            self._send(route, Refusal(code="run", reason=str(error)))
            return None
        dealer.setsockopt(zmq.IMMEDIATE, 0)  # the hello waits for the connection
        dealer.connect(self._hub.agents if key.role == "forward" else self._hub.viewers)
        self._poller.register(dealer, zmq.POLLIN)
        viewer = self._viewers[route] = _Viewer(route, key, dealer, time.monotonic())
        who = ascii(f"{hello.user}@{hello.host}"[:_WHO_LIMIT])  # a viewer may claim any characters
        print_notice(f"gradscope: {key.name} ({key.role}) has connected, from {who}")
        return viewer

    def _check_room(self, key: AuthorizedKey) -> None:
        """Raise LinkError or NothingToConnectError if no other viewer can be connected to the hub."""
        nodes = sum(other.key.role == "forward" for other in self._viewers.values())
        if key.role == "forward":
            if nodes >= FORWARDED_LIMIT:
                raise LinkError(
                    f"{nodes} runs of other nodes are forwarded, expected at most {FORWARDED_LIMIT}"
                )
            ensure_hub(str(self._hub.directory))
            return
        count = len(self._viewers) - nodes
        mine = sum(other.key.name == key.name for other in self._viewers.values())
        if count >= VIEWER_LIMIT or mine >= _KEY_VIEWER_LIMIT:
            raise LinkError(
                f"{count} viewers are connected, {mine} of them with the key {key.name!r}, expected at most "
                f"{VIEWER_LIMIT} and {_KEY_VIEWER_LIMIT}; close one"
            )
        if not hub_listens(self._hub):
            raise NothingToConnectError(
                "no run is live on that machine; start one there, with: gradscope run train.py"
            )

    def _on_garbage(self, route: bytes, reason: str) -> None:
        """Answer an invalid message; after ten of them the connection is ignored, as the hub does."""
        self.counts["garbage"] += 1
        self._strikes[route] = strikes = self._strikes.pop(route, 0) + 1
        if len(self._strikes) > _REMEMBERED_ROUTES:
            self._strikes.popitem(last=False)
        self._send(route, Refusal(code="message", reason=reason))
        if strikes >= _STRIKES and route in self._viewers:
            self._remove(self._viewers[route])

    # From the hub to the viewers.

    def _send_to_viewer(self, viewer: _Viewer) -> None:
        """Forward what the hub sends. If the viewer is too slow, wait: then the hub skips steps for it."""
        for _ in range(_BATCH):
            parts = viewer.waiting
            if parts is None:
                try:
                    parts = viewer.dealer.recv_multipart(zmq.NOBLOCK)
                except zmq.Again:
                    break
            try:
                self._router.send_multipart([viewer.route, *parts], zmq.NOBLOCK)
            except zmq.Again:
                viewer.waiting = parts
                break
            except zmq.ZMQError as error:
                if error.errno not in _GONE:
                    raise
                self._remove(viewer)
                return
            viewer.waiting = None
        if (viewer.waiting is None) != (viewer.dealer in self._poller):
            self._poller.register(viewer.dealer, 0 if viewer.waiting else zmq.POLLIN)  # 0 unregisters

    def _send(self, route: bytes, message: Message) -> None:
        try:
            self._router.send_multipart([route, *encode(message)], zmq.NOBLOCK)
        except zmq.ZMQError as error:
            if error.errno not in (zmq.EAGAIN, *_GONE):
                raise

    # The end of a viewer.

    def _check_viewers(self) -> None:
        """Expel viewers whose key was revoked or has another role; forget silent ones."""
        now_s = time.monotonic()
        if now_s >= self._hub_due_s and any(v.key.role == "forward" for v in self._viewers.values()):
            self._hub_due_s = now_s + _HUB_CHECK_S
            self._require_hub()
        for viewer in list(self._viewers.values()):
            key = self._keys.viewer(viewer.key.curve_publickey)
            if key != viewer.key:
                self._expel(viewer, key)
            elif now_s - viewer.heard_s > SILENCE_S:
                # Of a node, the hub notices the silence: a bye would end the run, and refuse its open commands.
                self._remove(viewer, says_bye=viewer.key.role != "forward")

    def _require_hub(self) -> None:
        """Start a hub if none runs: no training of this machine may do it, and nodes forward to it."""
        try:
            if not hub_listens(self._hub):
                ensure_hub(str(self._hub.directory))
        except GradscopeError as error:
            self.counts["no_hub"] += 1
            print_notice(f"gradscope: {error}")

    def _expel(self, viewer: _Viewer, key: AuthorizedKey | None) -> None:
        self._remove(viewer)
        if key is None:  # the last message that it gets; with another role it says hello again
            self.counts["revoked"] += 1
            reason = f"the key {viewer.key.name!r} was revoked on that machine"
            self._send(viewer.route, Refusal(code="key", reason=reason))

    def _remove(self, viewer: _Viewer, *, says_bye: bool = True) -> None:
        """End the connection to the hub for a viewer or a node."""
        if self._viewers.pop(viewer.route, None) is None:
            return
        print_notice(f"gradscope: {viewer.key.name} ({viewer.key.role}) has disconnected")
        if viewer.dealer in self._poller:
            self._poller.unregister(viewer.dealer)
        try:
            if says_bye:
                viewer.dealer.send_multipart(encode(Bye(reason="closed")), zmq.NOBLOCK)
        except zmq.Again:
            self.counts["dropped_to_hub"] += 1  # the hub notices the silence
        viewer.dealer.close(linger=_LINGER_MS)


def _user_id(frames: Sequence[zmq.Frame]) -> str:
    """Return the public key that libzmq has authenticated for the connection of a message; empty if there is none."""
    try:
        return str(frames[-1].get("User-Id"))
    except (IndexError, KeyError, zmq.ZMQError):
        return ""
