"""Commands that have not been answered: sent, sent again after a reconnect, and resolved."""

import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field

from gradscope.errors import CommandRefusedError, LinkError
from gradscope.protocol import Ack, Command

__all__ = ["PendingCommands"]

_LIMIT = 1_000


@dataclass(slots=True)
class _Pending:
    command: Command
    future: "Future[Ack]" = field(default_factory=Future)
    is_sent: bool = False


class PendingCommands:
    """The commands that have not been answered. Any thread adds commands; the link's thread sends them.

    A command is sent again after each reconnect. This is safe, because the training process executes
    each id only once and repeats its answer.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pending: OrderedDict[bytes, _Pending] = OrderedDict()
        self._over = ""

    def add(self, command: Command) -> "Future[Ack]":
        """Queue a command and return a Future of its answer. Raises LinkError if the client is closed."""
        pending = _Pending(command)
        with self._lock:
            if self._over:
                raise LinkError(self._over)
            if len(self._pending) >= _LIMIT:
                raise LinkError(f"{_LIMIT} commands wait for an answer already; is the run alive?")
            self._pending[command.id] = pending
        return pending.future

    def send(self, send: Callable[[Command], bool]) -> None:
        """Send the commands that have not been sent yet."""
        with self._lock:
            unsent = [pending for pending in self._pending.values() if not pending.is_sent]
        for pending in unsent:
            pending.is_sent = send(pending.command)

    def repeat(self) -> None:
        """Mark all commands to be sent again after the link was broken."""
        with self._lock:
            for pending in self._pending.values():
                pending.is_sent = False

    def forget(self, future: "Future[Ack]") -> None:
        """Do not send a command again. It may still take effect."""
        with self._lock:
            for command_id, pending in list(self._pending.items()):
                if pending.future is future:
                    del self._pending[command_id]

    def resolve(self, ack: Ack) -> None:
        """Resolve the future of an answered command."""
        with self._lock:
            pending = self._pending.pop(ack.command, None)
        if pending is None or not pending.future.set_running_or_notify_cancel():
            return
        if ack.is_done:
            pending.future.set_result(ack)
        else:
            pending.future.set_exception(CommandRefusedError(ack.reason or "refused, without a reason"))

    def close(self, reason: str) -> None:
        """Fail all futures with a LinkError."""
        with self._lock:
            self._over = reason
            left = list(self._pending.values())
            self._pending.clear()
        for pending in left:
            if pending.future.set_running_or_notify_cancel():
                pending.future.set_exception(LinkError(reason))
