"""Messages of the connection: handshake, subscription, credit, list of runs, heartbeat."""

from typing import Literal

import msgspec

from gradscope.protocol.fields import Rate, TaggedMessage, Whole
from gradscope.protocol.limits import PROTOCOL_VERSION

__all__ = [
    "Backfill",
    "Bye",
    "Credit",
    "Heartbeat",
    "Hello",
    "Refusal",
    "RunInfo",
    "Runs",
    "Skipped",
    "Subscribe",
    "Welcome",
    "Who",
]


class Hello(TaggedMessage, frozen=True, kw_only=True, tag="hello"):
    """The first message of a peer on each connection, and the answer to `who`: it identifies the peer."""

    role: Literal["agent", "viewer"]
    peer: str
    protocol: Whole = PROTOCOL_VERSION
    version: str = ""
    want: Literal["observe", "control"] = "observe"
    run: str = ""
    rank: Whole = 0
    world_size: Whole = 1
    pid: Whole = 0
    host: str = ""
    user: str = ""
    script: str = ""
    started_s: float = 0.0
    record: str | None = None


class Welcome(TaggedMessage, frozen=True, kw_only=True, tag="welcome"):
    """The hub accepts a peer."""

    epoch: str
    role: Literal["agent", "observe", "control"]
    protocol: Whole = PROTOCOL_VERSION
    version: str = ""
    hub_pid: Whole = 0


class Who(TaggedMessage, frozen=True, kw_only=True, tag="who"):
    """The hub does not know the receiver, which must send hello again."""

    epoch: str


class Refusal(TaggedMessage, frozen=True, kw_only=True, tag="refusal"):
    """Something other than a command was refused. `code` is for programs, `reason` for users."""

    code: Literal["version", "role", "message", "run", "key"]
    reason: str


class Subscribe(TaggedMessage, frozen=True, kw_only=True, tag="sub"):
    """A viewer subscribes to a run, with at most `max_rate_hz` steps per second.

    The hub repeats `number` in `Backfill`, so that the viewer can distinguish its subscriptions.

    is_merged: the hub merges the steps of all ranks into one; of other messages, only those of the lowest rank are
        sent, and the events of all. `rank`: only the messages of this rank, and the events of all. Otherwise the
        messages of each rank.
    """

    run: str
    max_rate_hz: Rate = 4.0
    backfill: bool = True
    number: Whole = 0
    is_merged: bool = False
    rank: Whole | None = None


class Credit(TaggedMessage, frozen=True, kw_only=True, tag="credit"):
    """A viewer allows the hub to send `count` more steps."""

    count: Whole


class Skipped(TaggedMessage, frozen=True, kw_only=True, tag="skipped"):
    """The hub did not send `count` steps to this viewer; the newest of them is `step`."""

    run: str
    rank: Whole
    count: Whole
    step: Whole


class Backfill(TaggedMessage, frozen=True, kw_only=True, tag="backfill"):
    """Begin or end of the past messages of the subscription with this number."""

    run: str
    state: Literal["begin", "end"]
    count: Whole
    number: Whole = 0


class RunInfo(msgspec.Struct, frozen=True):
    """One rank of one run, as the hub knows it."""

    run: str
    rank: Whole
    world_size: Whole
    host: str
    pid: Whole
    user: str
    script: str
    started_s: float
    is_live: bool
    step: Whole | None
    last_message_s: float
    recording: str = ""
    counters: dict[str, Whole] = msgspec.field(default_factory=dict)
    reason: str = ""
    has_failed: bool = False


class Runs(TaggedMessage, frozen=True, kw_only=True, tag="runs"):
    """All runs that the hub knows, sent to viewers at each change.

    A viewer sends an empty `Runs()` to request the list.
    """

    runs: tuple[RunInfo, ...] = ()
    counters: dict[str, Whole] = msgspec.field(default_factory=dict)


class Heartbeat(TaggedMessage, frozen=True, kw_only=True, tag="hb"):
    """A message that shows that the sender is alive; it is sent regularly.

    In a heartbeat of the hub, `peers` are the connected viewers, and `controllers` the ones with the right
    to change runs. `counters` include dropped messages.

    In a heartbeat of an agent, `still_s` is the time since its newest step ended. If that is long, `place` is what the
    training thread executes, such as "train.py:31 in forward", and `layer` the innermost layer whose forward it is in.
    """

    step: Whole | None = None
    still_s: float | None = None
    place: str = ""
    layer: str = ""
    peers: tuple[str, ...] = ()
    controllers: tuple[str, ...] = ()
    counters: dict[str, Whole] = msgspec.field(default_factory=dict)


class Bye(TaggedMessage, frozen=True, kw_only=True, tag="bye"):
    """The sender disconnects intentionally. `has_failed`: an exception or an exit code ended the run."""

    reason: str = ""
    has_failed: bool = False
