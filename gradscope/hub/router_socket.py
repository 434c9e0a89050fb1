"""The hub's two ROUTER sockets: socket options, socket files, and sending without blocking."""

import errno
import os
from collections.abc import Sequence
from pathlib import Path

import zmq

from gradscope.errors import LinkError
from gradscope.protocol import Message, encode
from gradscope.transport.options import set_common_options

__all__ = ["AGENT_PART_BYTES", "VIEWER_PART_BYTES", "RouterSocket"]

AGENT_PART_BYTES = 1024 * 1024
VIEWER_PART_BYTES = 64 * 1024
_RECEIVE_QUEUE = 256
_SEND_QUEUE = 64
_LINGER_MS = 200


class RouterSocket:
    """A ROUTER socket bound to one path, for agents or for viewers. Open until `close`."""

    def __init__(
        self, context: zmq.Context[zmq.Socket[bytes]], path: Path, *, part_limit_bytes: int
    ) -> None:
        self.path = path
        self.socket = context.socket(zmq.ROUTER)
        set_common_options(self.socket)
        self.socket.setsockopt(zmq.ROUTER_MANDATORY, 1)  # sending to an absent or full peer fails
        self.socket.setsockopt(zmq.MAXMSGSIZE, part_limit_bytes)
        self.socket.setsockopt(zmq.RCVHWM, _RECEIVE_QUEUE)
        self.socket.setsockopt(zmq.SNDHWM, _SEND_QUEUE)
        self._filter_by_user()
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
        self.socket.unbind(f"ipc://{self.path}")
        self._bind()
        return True

    def close(self) -> None:
        """Close the socket, and remove its file if this hub owns it. libzmq sends queued messages for 200 ms."""
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
