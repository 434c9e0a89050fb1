"""`Session`: the thread of a client, which owns the link. Other threads call its public methods."""

import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future

from msgspec.structs import replace

from gradscope.access import CurveKeys
from gradscope.client.captured_tensors import ReceivedTensors
from gradscope.client.inbox import Inbox, Item
from gradscope.client.pending_commands import PendingCommands
from gradscope.client.state import RunState
from gradscope.errors import LinkError
from gradscope.protocol import (
    Ack,
    Bye,
    Captured,
    Command,
    Credit,
    Heartbeat,
    Hello,
    Message,
    Runs,
    Step,
    Subscribe,
    Welcome,
)
from gradscope.transport import Link, LinkState

__all__ = ["Session"]

_WINDOW_STEPS = 32
_GRANT_STEPS = 8
_RECEIVE_S = 1.0
_JOIN_S = 5.0
_REJOIN_S = 3.0


class Session:
    """A thread that owns a link, from construction to `close`. Fills `inbox` while `is_listening`.

    Credit: at most 32 steps may be in transit or unread in the inbox. The session grants more as the
    reader takes steps.
    """

    def __init__(
        self,
        address: str,
        hello: Hello,
        on_arrival: Callable[[], object] | None = None,
        keys: CurveKeys | None = None,
    ) -> None:
        self.inbox = Inbox(on_arrival)
        self.known = RunState()
        self.captured = ReceivedTensors()
        self.is_listening = True
        self._address = address
        self._hello = hello
        self._keys = keys
        self._pending = PendingCommands()
        self._subscription: Subscribe | None = None
        self._subscriptions: deque[tuple[Subscribe, bool, threading.Event]] = deque()
        self._subscription_count = 0
        self._must_ask_for_runs = False
        self._granted_steps = 0
        self._epoch = ""
        self._hold_until_s = 0.0
        self._is_ending = threading.Event()
        self._has_link = threading.Event()
        self._link: Link | None = None
        self._thread = threading.Thread(target=self._run, name="gradscope-client", daemon=True)
        self._thread.start()
        self._has_link.wait(_JOIN_S)

    # For any thread.

    @property
    def state(self) -> LinkState:
        """The state of the link. Raises LinkError if the thread could not start."""
        return self._made_link().state

    @property
    def counters(self) -> dict[str, int]:
        """The link's counters, the items that the inbox dropped, and messages that match no manifest."""
        own = {"inbox_dropped": self.inbox.dropped, "unreadable": self.known.unreadable}
        return self._made_link().counters | own

    def subscribe(self, subscription: Subscribe, *, is_listening: bool) -> None:
        """Watch a run from now on, and subscribe again after each reconnect.

        Returns when the link's thread has changed the subscription, so that no message of the old
        subscription is taken for one of the new.
        """
        is_done = threading.Event()
        self._subscriptions.append((subscription, is_listening, is_done))
        self._made_link().wake()
        is_done.wait(_JOIN_S)

    def ask_for_runs(self) -> None:
        """Ask the hub for the list of runs."""
        self._must_ask_for_runs = True
        self._made_link().wake()

    def ask(self, command: Command) -> "Future[Ack]":
        """Send a command now, or as soon as the link is connected."""
        future = self._pending.add(command)
        self._made_link().wake()
        return future

    def forget(self, future: "Future[Ack]") -> None:
        """Do not send a command again."""
        self._pending.forget(future)

    def note_read(self) -> None:
        """Let the hub send more items (credit), if enough were taken from the inbox."""
        if self._due_credit() >= _GRANT_STEPS:
            self._made_link().wake()

    def close(self) -> None:
        """Send `bye` to the hub and end the thread. Does nothing in a forked child."""
        self._is_ending.set()
        self._made_link().wake()
        self._thread.join(_JOIN_S)

    def _made_link(self) -> Link:
        if self._link is None:
            raise LinkError("the client's thread could not start")
        return self._link

    # From here on everything runs on the session's own thread.

    def _run(self) -> None:
        with Link(self._address, self._hello, keys=self._keys) as link:
            self._link = link
            self._has_link.set()
            try:
                while not self._is_ending.is_set():
                    self._on_messages(link, link.receive(_RECEIVE_S))
                    self._switch(link)
                    if link.state.phase == "up":
                        self._send_pending(link)
            finally:
                self._pending.close("the client was closed before an answer came")
                self.inbox.close()
                self.known.close()
                self.captured.close()
                link.close(Bye(reason="closed"))

    def _on_messages(self, link: Link, messages: list[Message]) -> None:
        stream: list[Item] = []
        for message in messages:
            try:
                stream += self._on_message(link, message)
            except Exception:  # noqa: BLE001 - one message must not end the thread, and with it the viewer
                self.known.unreadable += 1
        if stream and self.is_listening:
            self.inbox.put(stream)

    def _on_message(self, link: Link, message: Message) -> list[Item]:
        """Handle a message. Return the items of the stream that it completes."""
        match message:
            case Welcome():
                self._start_over(link, message.epoch)
            case Ack():
                self._pending.resolve(message)
            case Captured():
                self.captured.put(message)
            case Heartbeat():
                pass
            case _:
                self._granted_steps -= isinstance(message, Step)
                items = self.known.store_message(message)
                if self._is_wanted(message):
                    return items
        return []

    def _is_wanted(self, message: Message) -> bool:
        """Return False for a message of a run that was watched earlier."""
        return getattr(message, "run", self.known.run) == self.known.run

    def _start_over(self, link: Link, epoch: str) -> None:
        """Subscribe and send all pending commands to a hub that may not know this client."""
        if self._epoch not in ("", epoch):
            self._hold_until_s = time.monotonic() + _REJOIN_S
            self.known.forget_runs()
        self._epoch = epoch
        self._granted_steps = 0
        self._pending.repeat()
        link.send(Runs())
        if self._subscription is not None:
            link.send(self._subscription)

    def _switch(self, link: Link) -> None:
        while self._subscriptions:
            subscription, is_listening, is_done = self._subscriptions.popleft()
            self._subscription_count += 1
            subscription = replace(subscription, number=self._subscription_count)
            self.known.watch(subscription.run, subscription.number, is_merged=subscription.is_merged)
            self.inbox.clear()
            self.is_listening = is_listening
            self._subscription = subscription
            if link.state.phase == "up":
                link.send(subscription)
            is_done.set()

    def _send_pending(self, link: Link) -> None:
        if self._must_ask_for_runs:
            self._must_ask_for_runs = False
            link.send(Runs())
        self._pending.send(lambda command: self._may_ask(command) and link.send(command))
        credit = self._due_credit()
        if credit >= _GRANT_STEPS and self._subscription and link.send(Credit(count=credit)):
            self._granted_steps += credit

    def _may_ask(self, command: Command) -> bool:
        """Return whether to send a command now. Until a new hub lists the run, hold it back for up to 3 s."""
        if time.monotonic() > self._hold_until_s:
            return True
        return any(info.run == command.run and info.is_live for info in self.known.runs)

    def _due_credit(self) -> int:
        return _WINDOW_STEPS - self._granted_steps - self.inbox.held_steps
