"""`Session`: the thread that owns a client's link, and what other threads may ask of it."""

import threading
import time
from collections import deque
from concurrent.futures import Future

from gradscope.client.captured_tensors import Incoming
from gradscope.client.inbox import Inbox
from gradscope.client.pending_commands import PendingCommands
from gradscope.client.state import RunState
from gradscope.errors import LinkError
from gradscope.protocol import (
    Ack,
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
_TURN_S = 1.0
_JOIN_S = 5.0
_REJOIN_S = 3.0


class Session:
    """A thread with a link, from birth to `close`. `inbox` is filled while `is_listening`.

    Credit: the hub may have so many steps on their way, or waiting in the inbox, as the window says. It
    is granted again as the reader takes them out.
    """

    def __init__(self, address: str, hello: Hello) -> None:
        self.inbox = Inbox()
        self.known = RunState()
        self.captured = Incoming()
        self.is_listening = True
        self._address = address
        self._hello = hello
        self._asked = PendingCommands()
        self._subscription: Subscribe | None = None
        self._changes: deque[tuple[Subscribe, bool, threading.Event]] = deque()
        self._wishes: deque[Message] = deque(maxlen=100)
        self._granted_steps = 0
        self._epoch = ""
        self._patient_until_s = 0.0
        self._is_ending = threading.Event()
        self._has_link = threading.Event()
        self._link: Link | None = None
        self._thread = threading.Thread(target=self._run, name="gradscope-client", daemon=True)
        self._thread.start()
        self._has_link.wait(_JOIN_S)

    # For any thread.

    @property
    def state(self) -> LinkState:
        """The state of the link. Raises LinkError when there is none."""
        return self._made_link().state

    @property
    def counters(self) -> dict[str, int]:
        """The link's counters, what the inbox dropped, and steps that fit no manifest."""
        own = {"inbox_dropped": self.inbox.dropped, "unreadable": self.known.unreadable}
        return self._made_link().counters | own

    def subscribe(self, subscription: Subscribe, *, is_listening: bool) -> None:
        """Watch a run from now on, and again after each break of the link.

        The link's thread changes over, between two messages: none of the old subscription can be taken
        for one of the new.
        """
        is_done = threading.Event()
        self._changes.append((subscription, is_listening, is_done))
        self._made_link().wake()
        is_done.wait(_JOIN_S)

    def ask_for_runs(self) -> None:
        """Ask the hub for the list of runs."""
        self._wish(Runs())

    def ask(self, command: Command) -> "Future[Ack]":
        """Send a command, now or as soon as there is a link."""
        future = self._asked.add(command)
        self._made_link().wake()
        return future

    def forget(self, future: "Future[Ack]") -> None:
        """Stop repeating a command that nobody waits for any more."""
        self._asked.forget(future)

    def note_read(self) -> None:
        """Say that something was taken out of the inbox: more may be granted."""
        if self._due_credit() >= _GRANT_STEPS:
            self._made_link().wake()

    def close(self) -> None:
        """Say goodbye and end the thread. In a forked child nothing is touched."""
        self._is_ending.set()
        self._made_link().wake()
        self._thread.join(_JOIN_S)

    def _wish(self, message: Message) -> None:
        self._wishes.append(message)
        self._made_link().wake()

    def _made_link(self) -> Link:
        if self._link is None:
            raise LinkError("the client's thread could not start")
        return self._link

    # From here on everything runs on the session's own thread.

    def _run(self) -> None:
        with Link(self._address, self._hello) as link:
            self._link = link
            self._has_link.set()
            try:
                while not self._is_ending.is_set():
                    self._on_messages(link, link.receive(_TURN_S))
                    self._change_over(link)
                    if link.state.phase == "up":
                        self._say(link)
            finally:
                self._asked.close("the client was closed before an answer came")
                self.inbox.close()
                self.known.close()
                self.captured.close()
                link.close(bye="closed")

    def _on_messages(self, link: Link, messages: list[Message]) -> None:
        stream: list[Message] = []
        for message in messages:
            match message:
                case Welcome():
                    self._start_over(link, message.epoch)
                case Ack():
                    self._asked.resolve(message)
                case Captured():
                    self.captured.put(message)
                case Heartbeat():
                    pass
                case _:
                    self._granted_steps -= isinstance(message, Step)
                    if self.known.note(message) and self._is_wanted(message):
                        stream.append(message)
        if stream and self.is_listening:
            self.inbox.put(stream)

    def _is_wanted(self, message: Message) -> bool:
        """Return False for what is still on its way from a run that was watched before."""
        return getattr(message, "run", self.known.run) == self.known.run

    def _start_over(self, link: Link, epoch: str) -> None:
        """Tell a hub that knows nothing of this client what it wants."""
        if self._epoch not in ("", epoch):
            self._patient_until_s = time.monotonic() + _REJOIN_S
            self.known.forget_runs()
        self._epoch = epoch
        self._granted_steps = 0
        self._asked.repeat()
        link.send(Runs())
        if self._subscription is not None:
            link.send(self._subscription)

    def _change_over(self, link: Link) -> None:
        while self._changes:
            subscription, is_listening, is_done = self._changes.popleft()
            self.known.watch(subscription.run, awaits_past=subscription.backfill)
            self.inbox.clear()
            self.is_listening = is_listening
            self._subscription = subscription
            if link.state.phase == "up":
                link.send(subscription)
            is_done.set()

    def _say(self, link: Link) -> None:
        while self._wishes:
            link.send(self._wishes.popleft())
        self._asked.send(lambda command: self._may_ask(command) and link.send(command))
        credit = self._due_credit()
        if credit >= _GRANT_STEPS and self._subscription and link.send(Credit(count=credit)):
            self._granted_steps += credit

    def _may_ask(self, command: Command) -> bool:
        """Wait a little for a run to join a new hub, which would refuse its commands until then."""
        if time.monotonic() > self._patient_until_s:
            return True
        return any(info.run == command.run and info.is_live for info in self.known.runs)

    def _due_credit(self) -> int:
        return _WINDOW_STEPS - self._granted_steps - self.inbox.held_steps
