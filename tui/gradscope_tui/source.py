"""`Source`: where the messages come from. `gradscope.client.Client` is one; tests have others."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import Literal, Protocol, TypeAlias

from gradscope.catalogue import CommandName
from gradscope.protocol import Ack, Message, Schedule

__all__ = ["Connect", "Link", "Source", "connect_client"]


class Link(Protocol):
    """The state of a link. `since_s` is a time of `time.monotonic()`."""

    @property
    def phase(self) -> Literal["connecting", "up", "lost", "refused"]:
        """Where it is in its life."""

    @property
    def since_s(self) -> float:
        """Since when it is in this phase."""

    @property
    def reason(self) -> str:
        """Why it is lost or refused."""


class Source(Protocol):
    """The part of a client that the screen uses."""

    @property
    def link(self) -> Link:
        """The state of the link to the hub."""

    def watch(self, run: str, *, max_rate_hz: float = 4.0, backfill: bool = True) -> None:
        """Choose the run whose messages come."""

    def receive(self, timeout_s: float) -> list[Message]:
        """Wait for messages and return them in order."""

    def submit(
        self,
        action: CommandName,
        *,
        intervention: str = "",
        arguments: Mapping[str, float | str] | None = None,
        layers: Sequence[str] = (),
        site: str = "output",
        schedule: Schedule | None = None,
        target: str = "",
        end_steps: int | None = None,
        is_kept: bool = False,
        lease_s: float | None = None,
    ) -> Future[Ack]:
        """Send a command; the future ends with the answer."""

    def close(self) -> None:
        """Close the link."""


Connect: TypeAlias = Callable[[], Source]
"""Opens a source. Raises NothingToConnectError while there is none."""


def connect_client(endpoint: str | None, *, is_readonly: bool) -> Source:
    """Open a client that watches no run yet. Raises NothingToConnectError when no hub runs."""
    from gradscope.client import connect  # noqa: PLC0415 - zmq loads after the first paint

    return connect(None, endpoint, name="tui", want="observe" if is_readonly else "control")
