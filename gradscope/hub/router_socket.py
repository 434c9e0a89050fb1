"""The hub's two ROUTER sockets: socket options, socket files, and sending without blocking."""

import errno
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import zmq

from gradscope.errors import LinkError
from gradscope.protocol import Message, encode
from gradscope.transport.options import set_common_options

__all__ = [
    "AGENT_PART_BYTES",
    "RECEIVE_QUEUE",
    "SEND_QUEUE",
    "VIEWER_PART_BYTES",
    "RouterSocket",
    "open_descriptors",
]

AGENT_PART_BYTES = 1024 * 1024
VIEWER_PART_BYTES = 64 * 1024
RECEIVE_QUEUE = 256
SEND_QUEUE = 64
_LINGER_MS = 200
_EVENTS_AT_ONCE = 1_000
_UNBIND_S = 0.1


class RouterSocket:
    """A ROUTER socket bound to one path, for agents or for viewers. Open until `close`.

    `monitor` becomes readable when a connection was accepted.
    """

    def __init__(
        self, context: zmq.Context[zmq.Socket[bytes]], path: Path, *, part_limit_bytes: int
    ) -> None:
        self.path = path
        self.socket = context.socket(zmq.ROUTER)
        set_common_options(self.socket)
        self.socket.setsockopt(zmq.ROUTER_MANDATORY, 1)  # sending to an absent or full peer fails
        self.socket.setsockopt(zmq.MAXMSGSIZE, part_limit_bytes)
        self.socket.setsockopt(zmq.RCVHWM, RECEIVE_QUEUE)
        self.socket.setsockopt(zmq.SNDHWM, SEND_QUEUE)
        self._filter_by_user()
        self.monitor = self.socket.get_monitor_socket(zmq.EVENT_ACCEPTED)
        self._bind()

    def receive(self) -> tuple[bytes, list[bytes]] | None:
        """Return the route of the sender and the parts of the next message; None if no message waits."""
        try:
            sender, *parts = self.socket.recv_multipart(zmq.NOBLOCK)
        except zmq.Again:
            return None
        return sender, parts

    def send(self, route: bytes, parts: Sequence[bytes]) -> bool:
        """Send to one peer without blocking. Return False if its queue is full or it has disconnected."""
        try:
            self.socket.send_multipart([route, *parts], zmq.NOBLOCK)
        except zmq.ZMQError as error:
            if error.errno in (zmq.EAGAIN, zmq.EHOSTUNREACH, errno.ECONNRESET):
                return False
            raise
        return True

    def send_message(self, route: bytes, message: Message) -> bool:
        """Encode and send a message of the hub. Return as `send` does."""
        return self.send(route, encode(message))

    def rebind_if_replaced(self) -> bool:
        """Bind again if the socket file was removed or replaced. Return whether this was necessary."""
        if self._identity() == self._bound:
            return False
        self.bind_again()
        return True

    def bind_again(self) -> None:
        """Close all connections, and listen again. The peers connect and say hello again.

        libzmq closes the connections that a listener has accepted together with it, and removes its file
        a little later.
        """
        self.socket.unbind(f"ipc://{self.path}")
        deadline_s = time.monotonic() + _UNBIND_S
        while self._identity() == self._bound and time.monotonic() < deadline_s:
            time.sleep(0.001)
        self._bind()

    def has_accepted(self, ready: Mapping[object, int]) -> bool:
        """Return whether connections were accepted since the last call. `ready`: the answer of a poller."""
        if self.monitor not in ready:
            return False
        for _ in range(_EVENTS_AT_ONCE):
            try:
                self.monitor.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                break
        return True

    def close(self) -> None:
        """Close the socket, and remove its file if this hub owns it. libzmq sends queued messages for 200 ms."""
        self.socket.disable_monitor()
        self.monitor.close()
        self.socket.setsockopt(zmq.LINGER, _LINGER_MS)
        self.socket.close()
        if self._identity() == self._bound:
            self.path.unlink(missing_ok=True)

    def _bind(self) -> None:
        try:
            self.socket.bind(f"ipc://{self.path}")
        except zmq.ZMQError as error:
            raise LinkError(f"cannot listen on {self.path}: {error.strerror}") from error
        self._bound = self._identity()

    def _identity(self) -> tuple[int, int] | None:
        try:
            status = os.lstat(self.path)
        except OSError:
            return None
        return status.st_dev, status.st_ino

    def _filter_by_user(self) -> None:
        """Accept only processes of this user, if libzmq can. The directory's mode also ensures this."""
        try:
            self.socket.setsockopt(zmq.IPC_FILTER_UID, os.getuid())
        except zmq.ZMQError as error:
            if error.errno != errno.EINVAL:
                raise


def open_descriptors() -> int:
    """Return the number of open file descriptors of this process; a very large one if none is left to count them."""
    try:
        return sum(1 for _ in Path("/dev/fd").iterdir())
    except OSError:
        return sys.maxsize
