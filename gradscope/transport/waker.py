"""`Waker`: lets any thread end another's wait in a poll."""

import socket

__all__ = ["Waker"]


class Waker:
    """A pair of connected sockets; a byte in it means *look up*. Open from birth until `close`."""

    def __init__(self) -> None:
        self._ear, self._mouth = socket.socketpair()
        self._ear.setblocking(False)
        self._mouth.setblocking(False)

    def fileno(self) -> int:
        """Return the descriptor to poll for reading."""
        return self._ear.fileno()

    def wake(self) -> None:
        """Make the descriptor readable. Never waits; after `close` it does nothing."""
        try:
            self._mouth.send(b"!")
        except OSError:
            return  # full: it is readable already; closed: nobody waits

    def clear(self) -> bool:
        """Take what was put in; return whether there was anything."""
        try:
            return bool(self._ear.recv(4096))
        except BlockingIOError:
            return False

    def close(self) -> None:
        """Close both ends."""
        self._ear.close()
        self._mouth.close()
