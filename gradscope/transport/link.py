"""`Link`: one end of the connection to the hub, for an agent and for a viewer alike."""

import os
import time
from collections import Counter
from dataclasses import replace
from types import TracebackType
from typing import Self

import zmq

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
from gradscope.transport.options import HEARTBEAT_S, SILENCE_S, open_dealer
from gradscope.transport.state import LinkState, Phase
from gradscope.transport.waker import Waker

__all__ = ["Link"]

_HELLO_AGAIN_S = 2.0
_REFUSED_AGAIN_S = 5.0
_DRAIN_LIMIT = 1_000
_MONITORED = zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED

_FINAL_REFUSALS = ("version", "role", "run")


class Link:
    """One DEALER, made by, used by and closed by one thread. Only `wake` may be called from another.

    It says hello on each connection and whenever the hub asks, sends and expects heartbeats, and goes
    on trying when the hub is lost. The owner calls `receive` at least every second or so. Each Welcome
    reaches the owner, who then tells the hub again what it must know: it may be another hub, with
    another epoch. Nothing of the owner's is sent before that Welcome.
    """

    def __init__(self, address: str, hello: Hello) -> None:
        self._address = address
        self._hello = hello
        self._pid = os.getpid()
        self._waker = Waker()
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._counts: Counter[str] = Counter()
        self._hello_due_s: float | None = None
        self._heartbeat_due_s = 0.0
        self._heard_s = time.monotonic()
        self.state = LinkState("connecting", self._heard_s, reason="not connected yet")
        self._open()

    @property
    def counters(self) -> dict[str, int]:
        """Messages sent, received, dropped (no link, or a full queue), withheld (too large) etc."""
        return dict(self._counts)

    def send(self, message: Message) -> bool:
        """Send a message; return whether it is on its way. Never waits.

        False when there is no link, its queue is full, or the message is too large: counted as dropped
        or withheld.
        """
        if self._is_foreign():
            return False
        if self.state.phase != "up":
            self._counts["dropped"] += 1
            return False
        return self._send(message)

    def receive(self, timeout_s: float) -> list[Message]:
        """Return the messages that came, after waiting up to `timeout_s` for the first.

        Returns early, and maybe with nothing, when the state has changed or `wake` was called. At most
        1,000 messages are returned at once; the rest waits in the socket.
        """
        if self._is_foreign():
            return []
        deadline_s = time.monotonic() + timeout_s
        phase = self.state.phase
        messages: list[Message] = []
        while True:
            self._tend(time.monotonic())
            is_woken = self._wait(deadline_s)
            self._drain(messages)
            if messages or is_woken or self.state.phase != phase or time.monotonic() >= deadline_s:
                return messages

    def wake(self) -> None:
        """End a `receive` that waits, from any thread."""
        if not self._is_foreign():
            self._waker.wake()

    def close(self, farewell: str | None = None) -> None:
        """Say goodbye with `farewell` as the reason, where one is given, and close. At most 1 s.

        In a forked child it only drops what was inherited: the connection stays the parent's.
        """
        if self._is_foreign() or self._socket.closed:
            return
        if farewell is not None and self.state.phase == "up" and self._send(Bye(reason=farewell)):
            self._socket.setsockopt(zmq.LINGER, 500)
        self._close_socket()
        self._context.term()
        self._waker.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _is_foreign(self) -> bool:
        return os.getpid() != self._pid

    def _open(self) -> None:
        self._socket = open_dealer(self._context)
        # Before connecting, or else the handshake may be over before anybody looks.
        self._monitor = self._socket.get_monitor_socket(_MONITORED)
        self._socket.connect(self._address)
        self._poller = zmq.Poller()
        self._poller.register(self._socket, zmq.POLLIN)
        self._poller.register(self._monitor, zmq.POLLIN)
        self._poller.register(self._waker.fileno(), zmq.POLLIN)

    def _close_socket(self) -> None:
        self._socket.disable_monitor()
        self._monitor.close()
        self._socket.close()

    def _wait(self, deadline_s: float) -> bool:
        """Wait, deal with what is not a message, return whether `wake` was called."""
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

    # What the link does by itself: hello, heartbeats, noticing silence.

    def _next_due_s(self) -> float:
        due_s = self._heartbeat_due_s if self.state.phase == "up" else float("inf")
        return due_s if self._hello_due_s is None else min(due_s, self._hello_due_s)

    def _tend(self, now_s: float) -> None:
        if self.state.phase in ("up", "connecting") and self._is_silent(now_s):
            self._counts["silences"] += 1
            self._enter("lost", f"the hub was not heard for {SILENCE_S:g} s")
            self._hello_due_s = None
            self._close_socket()  # what was on its way to a hub that hangs shall not reach it later
            self._open()
        if self._hello_due_s is not None and now_s >= self._hello_due_s:
            self._say_hello(now_s)
        if self.state.phase == "up" and now_s >= self._heartbeat_due_s:
            self._heartbeat_due_s = now_s + HEARTBEAT_S
            self._send(Heartbeat(counters=dict(self._counts)))

    def _is_silent(self, now_s: float) -> bool:
        return now_s - max(self._heard_s, self.state.since_s) > SILENCE_S

    def _say_hello(self, now_s: float) -> None:
        # A connection may be known to the monitor before the socket has taken it in: then again, soon.
        is_sent = self._send(self._hello)
        self._hello_due_s = now_s + (_HELLO_AGAIN_S if is_sent else 0.005)

    def _follow_connection(self) -> None:
        while self._monitor.poll(0):
            event = int.from_bytes(self._monitor.recv_multipart(zmq.NOBLOCK)[0][:2], "little")
            if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                self._enter("connecting", "connected, waiting for the hub's welcome")
                self._hello_due_s = 0.0
                self._tend(time.monotonic())
            elif event == zmq.EVENT_DISCONNECTED:
                self._hello_due_s = None
                self._enter("lost", "the hub closed the connection")

    # What the hub says.

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
            case Refusal(code=code) if self.state.phase != "up" and code in _FINAL_REFUSALS:
                self._refused(code, message.reason)
            case Bye():
                self._send(Bye(reason="heard"))  # the hub waits for it, and then closes
                reason = message.reason or "the hub said goodbye"
                self._enter("lost", reason)
                self.state = replace(self.state, reason=reason)  # also where the end was noticed first
            case _:
                pass
        messages.append(message)

    def _on_who(self) -> None:
        # Everything sent meanwhile is answered `who` as well: one hello is enough for all.
        if self.state.phase != "connecting" or self._hello_due_s is None:
            self._enter("connecting", "the hub asked who this is")
            self._say_hello(self._heard_s)

    def _on_welcome(self, welcome: Welcome) -> None:
        self._counts["reconnects"] += bool(self.state.epoch)
        self._hello_due_s = None
        self._enter("up", "")
        self.state = replace(self.state, epoch=welcome.epoch)

    def _on_garbage(self, error: ProtocolError) -> None:
        self._counts["garbage"] += 1
        if self.state.phase == "connecting":
            reason = f"the hub answered with what version {PROTOCOL_VERSION} does not know: {error}"
            self._refused("version", reason)

    def _refused(self, code: str, reason: str) -> None:
        self._enter("refused", reason)
        self.state = replace(self.state, code=code)
        self._hello_due_s = time.monotonic() + _REFUSED_AGAIN_S  # the reason may go away

    def _enter(self, phase: Phase, reason: str) -> None:
        if phase == self.state.phase == "lost":
            return  # the first reason tells more than the broken connection that follows it
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
        "gradscope for both, or end the hub so that another is started"
    )
