"""Checks whether a hub is running, without becoming one of its peers."""

import errno
import os
import socket
import time

import zmq

from gradscope.errors import LinkError, ProtocolError
from gradscope.protocol import Heartbeat, Who, decode, encode
from gradscope.transport.addresses import HubAddress
from gradscope.transport.lock import HUB_LOCK, holder_pid
from gradscope.transport.options import new_context, open_dealer

__all__ = ["hub_answers", "hub_listens", "hub_pid"]

_NOT_LISTENING = (errno.ENOENT, errno.ECONNREFUSED)


def hub_listens(address: HubAddress) -> bool:
    """Return whether a process listens on the hub's socket. That process may be suspended.

    Raises LinkError if connecting fails for another reason, for example missing permission.
    """
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.settimeout(1.0)
            probe.connect(os.fspath(address.viewers_path))
    except TimeoutError:
        return True  # the queue of connections is full, so a process listens
    except OSError as error:
        if error.errno in _NOT_LISTENING:
            return False
        if error.errno == errno.EAGAIN:
            return True
        raise LinkError(
            f"cannot connect to the hub's socket {address.viewers_path}: {error.strerror}"
        ) from error
    return True


def hub_answers(address: HubAddress, timeout_s: float) -> bool:
    """Return whether a hub answers within `timeout_s`.

    The hub answers the heartbeat of an unknown peer with `who`, and does not store that peer. Raises LinkError if too
    few file descriptors are free.
    """
    deadline_s = time.monotonic() + timeout_s
    context = new_context()
    try:
        with open_dealer(context) as dealer:
            dealer.connect(address.viewers)
            if not dealer.poll(_left_ms(deadline_s), zmq.POLLOUT):
                return False
            dealer.send_multipart(encode(Heartbeat()), zmq.NOBLOCK)
            if not dealer.poll(_left_ms(deadline_s), zmq.POLLIN):
                return False
            return isinstance(decode(dealer.recv_multipart(zmq.NOBLOCK)), Who)
    except (zmq.Again, ProtocolError):
        return False
    finally:
        context.term()


def hub_pid(address: HubAddress) -> int | None:
    """Return the process id of the listening hub; None if there is none."""
    return holder_pid(address.directory / HUB_LOCK) if hub_listens(address) else None


def _left_ms(deadline_s: float) -> int:
    return max(0, int((deadline_s - time.monotonic()) * 1000))
