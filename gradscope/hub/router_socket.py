"""The hub's two sockets: their options, their files, and sending without ever waiting."""

import errno
import os
from collections.abc import Sequence
from pathlib import Path

import zmq

from gradscope.errors import LinkError
from gradscope.protocol import Message, encode
from gradscope.transport.options import set_common_options

__all__ = ["RouterSocket"]

_AGENT_PART_BYTES = 1024 * 1024
_VIEWER_PART_BYTES = 64 * 1024
_RECEIVE_QUEUE = 256
_SEND_QUEUE = 64
_FAREWELL_MS = 200


class RouterSocket:
    """One ROUTER bound to one path: the agents' or the viewers' way in. Open from birth to `close`."""

    def __init__(
        self, context: zmq.Context[zmq.Socket[bytes]], path: Path, *, part_limit_bytes: int
    ) -> None:
        self.path = path
        self.socket = context.socket(zmq.ROUTER)
        set_common_options(self.socket)
        self.socket.setsockopt(
            zmq.ROUTER_MANDATORY, 1
        )  # a peer that is gone or full is told, not guessed
        self.socket.setsockopt(zmq.MAXMSGSIZE, part_limit_bytes)
        self.socket.setsockopt(zmq.RCVHWM, _RECEIVE_QUEUE)
        self.socket.setsockopt(zmq.SNDHWM, _SEND_QUEUE)
        self._filter_by_user()
        self._bind()

    @classmethod
    def for_agents(cls, context: zmq.Context[zmq.Socket[bytes]], path: Path) -> "RouterSocket":
        """Open the door for training processes, whose frames are large."""
        return cls(context, path, part_limit_bytes=_AGENT_PART_BYTES)

    @classmethod
    def for_viewers(cls, context: zmq.Context[zmq.Socket[bytes]], path: Path) -> "RouterSocket":
        """Open the door for viewers, who only say what they want."""
        return cls(context, path, part_limit_bytes=_VIEWER_PART_BYTES)

    def receive(self) -> tuple[bytes, list[bytes]] | None:
        """Return the next sender and what it sent, or None when nothing waits."""
        try:
            sender, *parts = self.socket.recv_multipart(zmq.NOBLOCK)
        except zmq.Again:
            return None
        return sender, parts

    def send(self, route: bytes, parts: Sequence[bytes]) -> bool:
        """Send to one peer; return False when it takes nothing now, or is gone. Never waits."""
        try:
            self.socket.send_multipart([route, *parts], zmq.NOBLOCK)
        except zmq.ZMQError as error:
            if error.errno in (zmq.EAGAIN, zmq.EHOSTUNREACH, errno.ECONNRESET):
                return False
            raise
        return True

    def tell(self, route: bytes, message: Message) -> bool:
        """Send a message of the hub's own; return as `send` does."""
        return self.send(route, encode(message))

    def keep_in_place(self) -> bool:
        """Bind again when the path is no longer this socket; return whether that was needed."""
        if self._identity() == self._bound:
            return False
        self.socket.unbind(f"ipc://{self.path}")
        self._bind()
        return True

    def close(self) -> None:
        """Close the socket, after a moment for the last words, and remove its file if it is ours."""
        self.socket.setsockopt(zmq.LINGER, _FAREWELL_MS)
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
        """Let only this user's processes in if libzmq can tell; the directory's mode does anyway."""
        try:
            self.socket.setsockopt(zmq.IPC_FILTER_UID, os.getuid())
        except zmq.ZMQError as error:
            if error.errno != errno.EINVAL:
                raise
