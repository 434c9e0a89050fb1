"""The socket options of both ends of the link, each with its reason."""

import os

import zmq

from gradscope.access import CurveKeys
from gradscope.errors import LinkError
from gradscope.protocol import PART_LIMIT_BYTES

__all__ = ["HEARTBEAT_S", "SILENCE_S", "new_context", "open_dealer", "set_common_options"]

HEARTBEAT_S = 2.0
"""The interval of heartbeats in each direction, in seconds."""

SILENCE_S = 6.0
"""A peer that sends nothing for this time is considered lost, in seconds."""

_HANDSHAKE_MS = 3_000
_QUEUE_MESSAGES = 100
_RECONNECT_MS = 10
_RECONNECT_CAP_MS = 500
_RECONNECT_CURVE_MS = 500  # each attempt costs the server a computation with its secret key

_FREE_DESCRIPTORS = 32
"""A context with a DEALER and its monitor opens 11 file descriptors; the rest is for other threads of the process."""


def new_context() -> zmq.Context[zmq.Socket[bytes]]:
    """Return a new context of libzmq.

    Raises LinkError if fewer than 32 file descriptors are free: libzmq ends the process with an abort if it
    cannot open one that it needs.
    """
    opened: list[int] = []
    try:
        null = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        opened.append(null)
        while len(opened) < _FREE_DESCRIPTORS:
            opened.append(os.dup(null))
    except OSError as error:
        raise LinkError(
            f"expected {_FREE_DESCRIPTORS} free file descriptors, got {len(opened)} ({error.strerror}); "
            "close files, or raise the limit with ulimit -n"
        ) from error
    finally:
        for fd in opened:
            os.close(fd)
    return zmq.Context()


def set_common_options(socket: zmq.Socket[bytes]) -> None:
    """Set the options that hub and peers share."""
    socket.setsockopt(zmq.LINGER, 0)  # closing never waits for a peer that does not read
    socket.setsockopt(zmq.HANDSHAKE_IVL, _HANDSHAKE_MS)
    socket.setsockopt(zmq.HEARTBEAT_IVL, int(HEARTBEAT_S * 1000))
    socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, int(SILENCE_S * 1000))


def open_dealer(
    context: zmq.Context[zmq.Socket[bytes]], keys: CurveKeys | None = None
) -> zmq.Socket[bytes]:
    """Return a DEALER socket that keeps trying to connect; with `keys`, to a CURVE server."""
    socket = context.socket(zmq.DEALER)
    set_common_options(socket)
    socket.setsockopt(zmq.IMMEDIATE, 1)  # nothing is queued without a connection
    socket.setsockopt(zmq.MAXMSGSIZE, PART_LIMIT_BYTES)
    socket.setsockopt(zmq.SNDHWM, _QUEUE_MESSAGES)
    socket.setsockopt(zmq.RCVHWM, _QUEUE_MESSAGES)
    # 10 ms halve the time to the welcome, compared with 100 ms
    socket.setsockopt(zmq.RECONNECT_IVL, _RECONNECT_CURVE_MS if keys else _RECONNECT_MS)
    if keys is None:
        socket.setsockopt(zmq.RECONNECT_IVL_MAX, _RECONNECT_CAP_MS)
    else:
        socket.setsockopt(zmq.IPV6, 1)  # also connects to IPv4 addresses
        socket.setsockopt_string(zmq.CURVE_PUBLICKEY, keys.public)
        socket.setsockopt_string(zmq.CURVE_SECRETKEY, keys.secret)
        socket.setsockopt_string(zmq.CURVE_SERVERKEY, keys.server)
    return socket
