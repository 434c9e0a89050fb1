"""`Link`: one end of the connection to the hub, for agents and viewers."""

import errno
import os
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, Self, TypeAlias

import zmq

from gradscope.access import CurveKeys, to_hex
from gradscope.errors import ProtocolError, UsageError
from gradscope.protocol import (
    PROTOCOL_VERSION,
    Bye,
    Heartbeat,
    Hello,
    Message,
    Refusal,
    Welcome,
    Who,
    decode,
    encode,
)
from gradscope.transport.options import HEARTBEAT_S, SILENCE_S, new_context, open_dealer
from gradscope.transport.waker import Waker

__all__ = ["Link", "LinkState"]

_HELLO_AGAIN_S = 2.0
_REFUSED_AGAIN_S = 5.0
_DRAIN_LIMIT = 1_000
_BROKEN_HANDSHAKES = 2
_FAILED_HANDSHAKE = (
    zmq.EVENT_HANDSHAKE_FAILED_AUTH
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
)
_MONITORED = zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED
_MONITORED_WITH_KEYS = _MONITORED | zmq.EVENT_CONNECT_RETRIED | _FAILED_HANDSHAKE

_FINAL_REFUSALS = ("version", "role", "run")

Phase: TypeAlias = Literal["connecting", "up", "lost", "refused"]
"""The states of a link:

    connecting ──welcome──▶ up
        ▲  │                 │ silent for 6 s, or the socket broke
        │  └──refusal──▶ refused ──(5 s, or a new connection)──▶ connecting
        └────connected────  lost  ◀┘

With CURVE a failed handshake or a refused key also leads to `refused`. The link opens a new socket after 5 s.
"""


@dataclass(frozen=True, slots=True)
class LinkState:
    """The state of a link. `since_s` and `last_message_s` are times of `time.monotonic()`.

    `epoch` identifies the hub that sent the last welcome. `code` is the code of the refusal, if
    refused.
    """

    phase: Phase
    since_s: float
    epoch: str = ""
    reason: str = ""
    last_message_s: float | None = None
    code: str = ""


class Link:
    """A DEALER socket that is created, used and closed by one thread. Other threads may only call `wake`.

    The link sends hello on each connection and after each `who`, sends and expects heartbeats, and
    reconnects if the hub is lost. The owner calls `receive` about once per second. When `receive`
    returns a Welcome, the owner sends its state again, because the hub may be a new one with another
    epoch. Messages of the owner are sent only after that Welcome.

    Raises LinkError if too few file descriptors are free.
    """

    def __init__(
        self,
        address: str,
        hello: Hello,
        counts: Counter[str] | None = None,
        *,
        keys: CurveKeys | None = None,
        heartbeat: Callable[[dict[str, int]], Heartbeat] | None = None,
    ) -> None:
        """Open the link.

        counts: counters to continue; heartbeats report them to the hub. keys: use CURVE. heartbeat: returns the next
            heartbeat, with the counters that it is given.
        """
        self._address = address
        self._keys = keys
        self._broken_handshakes = 0
        self._hello = hello
        self._heartbeat = heartbeat
        self._pid = os.getpid()
        self._context = new_context()  # first: it may raise
        self._waker = Waker()
        self._counts: Counter[str] = Counter() if counts is None else counts
        self._hello_due_s: float | None = None
        self._heartbeat_due_s = 0.0
        self._heard_s = time.monotonic()
        self.state = LinkState("connecting", self._heard_s, reason="not connected yet")
        self._open()

    @property
    def counters(self) -> dict[str, int]:
        """Numbers of messages: sent, received, dropped (no link or full queue), withheld (too large), ..."""
        return dict(self._counts)

    def send(self, message: Message) -> bool:
        """Queue a message for sending; return whether it was queued. Never blocks.

        False if there is no link or its queue is full (counted as dropped), or if the message is too
        large (counted as withheld).
        """
        if self._is_forked():
            return False
        if self.state.phase != "up":
            self._counts["dropped"] += 1
            return False
        return self._send(message)

    def can_send(self, timeout_s: float) -> bool:
        """Return whether the socket's queue has room for a message, after waiting up to `timeout_s` for it."""
        return not self._is_forked() and bool(self._socket.poll(int(timeout_s * 1000), zmq.POLLOUT))

    def receive(self, timeout_s: float) -> list[Message]:
        """Return the messages that arrived, after waiting up to `timeout_s` for the first one.

        Returns early, possibly with no messages, if the state has changed or `wake` was called. Returns
        at most 1,000 messages; the others wait in the socket.
        """
        if self._is_forked():
            return []
        deadline_s = time.monotonic() + timeout_s
        phase = self.state.phase
        messages: list[Message] = []
        while True:
            self._do_due_work(time.monotonic())
            is_woken = self._poll_sockets(deadline_s)
            self._drain(messages)
            if messages or is_woken or self.state.phase != phase or time.monotonic() >= deadline_s:
                return messages

    def wake(self) -> None:
        """Make a waiting `receive` return. Thread-safe."""
        if not self._is_forked():
            self._waker.wake()

    def close(self, bye: Bye | None = None) -> None:
        """Close the link, after sending `bye` if it is given. Blocks up to 1 s.

        In a forked child it does nothing: the connection belongs to the parent.
        """
        if self._is_forked() or self._socket.closed:
            return
        if bye is not None and self.state.phase == "up" and self._send(bye):
            self._socket.setsockopt(zmq.LINGER, 500)
        self._close_socket()
        self._context.term()
        self._waker.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def _is_forked(self) -> bool:
        return os.getpid() != self._pid

    def _open(self) -> None:
        self._socket = open_dealer(self._context, self._keys)
        # Before connecting, otherwise the handshake may end before the monitor exists.
        self._monitor = self._socket.get_monitor_socket(
            _MONITORED if self._keys is None else _MONITORED_WITH_KEYS
        )
        self._socket.connect(self._address)
        self._poller = zmq.Poller()
        self._poller.register(self._socket, zmq.POLLIN)
        self._poller.register(self._monitor, zmq.POLLIN)
        self._poller.register(self._waker.fileno(), zmq.POLLIN)

    def _reopen(self) -> None:
        self._close_socket()
        self._open()

    def _close_socket(self) -> None:
        self._socket.disable_monitor()
        self._monitor.close()
        self._socket.close()

    def _poll_sockets(self, deadline_s: float) -> bool:
        """Poll, and process connection events. Return whether `wake` was called."""
        now_s = time.monotonic()
        wait_s = max(0.0, min(deadline_s, self._next_due_s(), now_s + HEARTBEAT_S) - now_s)
        ready = dict(self._poller.poll(int(wait_s * 1000) + (1 if wait_s else 0)))
        if self._monitor in ready:
            self._follow_connection()
        return self._waker.fileno() in ready and self._waker.clear()

    def _drain(self, messages: list[Message]) -> None:
        for _ in range(_DRAIN_LIMIT):
            try:
                parts = self._socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            try:
                message = decode(parts)
            except ProtocolError as error:
                self._on_garbage(error)
            else:
                self._on_message(message, messages)

    # Hello, heartbeats, and the check for silence.

    def _next_due_s(self) -> float:
        due_s = self._heartbeat_due_s if self.state.phase == "up" else float("inf")
        if self.state.code == "key":
            due_s = self.state.since_s + _REFUSED_AGAIN_S
        return due_s if self._hello_due_s is None else min(due_s, self._hello_due_s)

    def _do_due_work(self, now_s: float) -> None:
        if self.state.phase in ("up", "connecting") and self._is_silent(now_s):
            self._counts["silences"] += 1
            self._enter_phase("lost", f"the hub has sent nothing for {SILENCE_S:g} s")
            self._hello_due_s = None
            self._reopen()  # queued messages must not reach a hub that hangs later
        elif self.state.code == "key" and now_s >= self.state.since_s + _REFUSED_AGAIN_S:
            self._enter_phase("connecting", self.state.reason)
            self._reopen()  # libzmq does not connect again after a refused key
        if self._hello_due_s is not None and now_s >= self._hello_due_s:
            self._send_hello(now_s)
        if self.state.phase == "up" and now_s >= self._heartbeat_due_s:
            self._heartbeat_due_s = now_s + HEARTBEAT_S
            counters = dict(self._counts)
            make = self._heartbeat
            self._send(Heartbeat(counters=counters) if make is None else make(counters))

    def _is_silent(self, now_s: float) -> bool:
        return now_s - max(self._heard_s, self.state.since_s) > SILENCE_S

    def _send_hello(self, now_s: float) -> None:
        # The monitor may report a connection before the socket can send: try again soon.
        is_sent = self._send(self._hello)
        self._hello_due_s = now_s + (_HELLO_AGAIN_S if is_sent else 0.005)

    def _follow_connection(self) -> None:
        while self._monitor.poll(0):
            frame = self._monitor.recv_multipart(zmq.NOBLOCK)[0]
            event, value = int.from_bytes(frame[:2], "little"), int.from_bytes(frame[2:6], "little")
            if self.state.code == "key":
                continue  # the reason says more than the events that follow it
            if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                self._enter_phase("connecting", "connected, waiting for the hub's welcome")
                self._hello_due_s = 0.0
                self._do_due_work(time.monotonic())
            elif event == zmq.EVENT_DISCONNECTED:
                self._hello_due_s = None
                self._enter_phase("lost", "the hub closed the connection")
            elif event == zmq.EVENT_CONNECT_RETRIED and self.state.phase == "connecting":
                self.state = replace(self.state, reason=f"nothing answers at {self._address}")
            elif event & _FAILED_HANDSHAKE and self._keys is not None:
                self._on_failed_handshake(event, value, self._keys)

    def _on_failed_handshake(self, event: int, value: int, keys: CurveKeys) -> None:
        if event == zmq.EVENT_HANDSHAKE_FAILED_AUTH:
            reason = (
                f"the key of this machine is not authorized there, or was revoked; on that machine: "
                f"gradscope key authorize {to_hex(keys.public)} --name NAME"
            )
        elif event == zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL:
            reason = "what listens there does not use CurveZMQ, so it is not `gradscope serve`"
        elif value == errno.EAGAIN:
            reason = "what listens there did not answer the CurveZMQ handshake in 3 s; is it `gradscope serve`?"
        else:  # the server may just have ended: this is certain only if it happens again
            self._broken_handshakes += 1
            if self._broken_handshakes < _BROKEN_HANDSHAKES:
                return
            reason = (
                f"the server broke off the handshake: it has another key than {to_hex(keys.server)}, which is "
                "authorized here, or is not `gradscope serve`. Ask the person who runs it before you authorize another "
                f"key: gradscope key revoke {self._address}, then: gradscope key authorize PUBLICKEY --server "
                f"{self._address}"
            )
        self._broken_handshakes = 0
        self._refused("key", reason)

    # Messages of the hub.

    def _on_message(self, message: Message, messages: list[Message]) -> None:
        self._counts["received"] += 1
        self._heard_s = time.monotonic()
        self.state = replace(self.state, last_message_s=self._heard_s)
        match message:
            case Who():
                self._on_who()
                return
            case Welcome() if message.protocol != PROTOCOL_VERSION:
                self._refused("version", _other_version(message))
            case Welcome():
                self._on_welcome(message)
            case Refusal(code="key"):
                self._refused("key", message.reason)
            case Refusal(code=code) if self.state.phase != "up" and code in _FINAL_REFUSALS:
                self._refused(code, message.reason)
            case Bye():
                self._send(Bye(reason="heard"))  # the hub waits for this answer before it closes
                reason = message.reason or "the hub sent bye"
                self._enter_phase("lost", reason)
                self.state = replace(
                    self.state, reason=reason
                )  # also if the disconnection was noticed first
            case _:
                pass
        messages.append(message)

    def _on_who(self) -> None:
        # The hub answers each message sent meanwhile with `who`: one hello is enough.
        if self.state.phase != "connecting" or self._hello_due_s is None:
            self._enter_phase("connecting", "the hub sent who")
            self._send_hello(self._heard_s)

    def _on_welcome(self, welcome: Welcome) -> None:
        self._counts["reconnects"] += bool(self.state.epoch)
        self._hello_due_s = None
        self._enter_phase("up", "")
        self.state = replace(self.state, epoch=welcome.epoch)

    def _on_garbage(self, error: ProtocolError) -> None:
        self._counts["garbage"] += 1
        if self.state.phase == "connecting":
            reason = (
                f"the hub's answer is not a message of protocol version {PROTOCOL_VERSION}: {error}"
            )
            self._refused("version", reason)

    def _refused(self, code: str, reason: str) -> None:
        self._enter_phase("refused", reason)
        self.state = replace(self.state, code=code)
        # The reason may go away. After a refused key there is no connection to send on.
        self._hello_due_s = None if code == "key" else time.monotonic() + _REFUSED_AGAIN_S

    def _enter_phase(self, phase: Phase, reason: str) -> None:
        if phase == self.state.phase == "lost":
            return  # the first reason says more than the disconnection that follows it
        now_s = time.monotonic()
        self.state = replace(self.state, phase=phase, since_s=now_s, reason=reason, code="")

    def _send(self, message: Message) -> bool:
        try:
            self._socket.send_multipart(encode(message), zmq.NOBLOCK)
        except zmq.Again:
            self._counts["dropped"] += 1
            return False
        except UsageError:
            self._counts["withheld"] += 1
            return False
        self._counts["sent"] += 1
        return True


def _other_version(welcome: Welcome) -> str:
    return (
        f"the hub speaks version {welcome.protocol} of the protocol (gradscope {welcome.version}, "
        f"process {welcome.hub_pid}), this process speaks {PROTOCOL_VERSION}; use one version of "
        "gradscope for both, or end the hub so that a new one is started"
    )
