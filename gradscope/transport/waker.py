"""`Waker`: lets any thread end another thread's wait in a poll."""

import socket

__all__ = ["Waker"]


class Waker:
    """A pair of connected sockets; writing a byte ends the poll. Open until `close`."""

    def __init__(self) -> None:
        self._receiver, self._sender = socket.socketpair()
        self._receiver.setblocking(False)
        self._sender.setblocking(False)

    def fileno(self) -> int:
        """Return the descriptor to poll for reading."""
        return self._receiver.fileno()

    def wake(self) -> None:
        """Make the descriptor readable. Never blocks; after `close` it does nothing."""
        try:
            self._sender.send(b"!")
        except OSError:
            return  # full: it is readable already; closed: no thread waits

    def clear(self) -> bool:
        """Read all bytes; return whether there were any."""
        try:
            return bool(self._receiver.recv(4096))
        except BlockingIOError:
            return False

    def close(self) -> None:
        """Close both ends."""
        self._receiver.close()
        self._sender.close()
