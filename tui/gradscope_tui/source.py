"""The source of a run's stream, a `gradscope.client.Client`; `Connector` is the thread that opens it.

The client has its own thread, which reads the link and calls `on_arrival` when there are items to take.
"""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import TYPE_CHECKING, Literal, TypeAlias

from gradscope.errors import GradscopeError, LinkError, NothingToConnectError
from gradscope.protocol import Ack, Command

if TYPE_CHECKING:
    from gradscope.client import Client

__all__ = [
    "NO_LINK",
    "Connect",
    "Connector",
    "OnAnswer",
    "Source",
    "connect_client",
    "send_command",
]

NO_LINK = "there is no link to the training process"

_RETRY_S = 0.3

Source: TypeAlias = "Client"
"""Watches a run and sends commands. Tests have a source without a link."""

Connect: TypeAlias = Callable[[Callable[[], object]], Source]
"""Opens a source that calls its argument when items arrive. Raises NothingToConnectError without a hub."""


OnAnswer: TypeAlias = Callable[[Ack | None, str], object]
"""Called with the acknowledgement, or with None and the reason why the command was refused."""


def send_command(source: "Source | None", command: Command, on_answer: OnAnswer) -> None:
    """Send a command; without a link it is refused at once. `on_answer` is called in any thread."""
    if source is None:
        on_answer(None, NO_LINK)
        return
    try:
        future = source.send(command)
    except GradscopeError as error:
        on_answer(None, str(error))
        return
    future.add_done_callback(partial(_report_answer, on_answer))


def _report_answer(on_answer: OnAnswer, future: "Future[Ack]") -> None:
    if future.cancelled():  # the client was closed
        return
    error = future.exception()
    if error is not None:
        on_answer(None, str(error))
    elif not future.result().is_done:
        on_answer(None, future.result().reason)
    else:
        on_answer(future.result(), "")


def connect_client(
    endpoint: str | None, on_arrival: Callable[[], object], *, is_readonly: bool
) -> Source:
    """Open a client that watches no run yet. Raises NothingToConnectError if no hub runs."""
    from gradscope.client import connect  # noqa: PLC0415 - zmq loads after the first paint

    want: Literal["observe", "control"] = "observe" if is_readonly else "control"
    return connect(None, endpoint, name="tui", want=want, on_arrival=on_arrival)


class Connector:
    """Opens the source in a thread that ends once the source is open. Connecting loads zmq and may wait.

    `notify()` is called in the connector's or the source's thread: when the source is open, when it has
    new items, and when `problem`, the reason why there is no source yet, changes.
    """

    def __init__(self, connect: Connect, notify: Callable[[], object]) -> None:
        self.source: Source | None = None
        self.problem = ""
        self._connect = connect
        self._notify = notify
        self._end = threading.Event()
        self._thread = threading.Thread(
            target=self._connect_or_retry, name="gradscope-connect", daemon=True
        )

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread and close the source; returns when both are done."""
        self._end.set()
        if self._thread.ident is not None:
            self._thread.join()
        if self.source is not None:
            self.source.close()

    def _connect_or_retry(self) -> None:
        while not self._end.is_set():
            try:
                self.source = self._connect(self._notify)
            except (NothingToConnectError, LinkError) as error:
                self._set_problem(str(error))
                self._end.wait(_RETRY_S)
            except GradscopeError as error:  # such as another version: trying again does not help
                self._set_problem(str(error))
                return
            else:
                self.problem = ""
                self._notify()
                return

    def _set_problem(self, problem: str) -> None:
        if problem != self.problem:
            self.problem = problem
            self._notify()
