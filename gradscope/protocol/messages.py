"""The messages of the link, as frozen data. What each means stands in README.md beside this file.

A field that is added later has a default, so that an older peer's message still decodes; an unknown
field is ignored. Anything else is another PROTOCOL_VERSION.
"""

from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias

import msgspec

from gradscope.protocol.limits import PROTOCOL_VERSION

if TYPE_CHECKING:
    from gradscope.columns import Block

__all__ = [
    "Ack",
    "Backfill",
    "Bye",
    "Command",
    "Credit",
    "Event",
    "Heartbeat",
    "Hello",
    "InterventionState",
    "Interventions",
    "Layer",
    "Manifest",
    "Message",
    "Parameter",
    "Refusal",
    "RunInfo",
    "Runs",
    "Scalars",
    "Skipped",
    "Step",
    "Subscribe",
    "Welcome",
    "Who",
]

Whole: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
"""A count, an index or a revision. What comes over the link outside of this range is no message."""

Rate: TypeAlias = Annotated[float, msgspec.Meta(gt=0)]
"""So many a second."""


class _Message(msgspec.Struct, frozen=True, tag_field="t"):
    """The root of all messages: frozen, tagged by `t`."""


class Hello(_Message, frozen=True, kw_only=True, tag="hello"):
    """A peer says who it is. It is the first message of each connection, and the answer to `who`."""

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


class Welcome(_Message, frozen=True, kw_only=True, tag="welcome"):
    """The hub accepts a peer."""

    epoch: str
    role: Literal["agent", "observe", "control"]
    protocol: Whole = PROTOCOL_VERSION
    version: str = ""
    hub_pid: Whole = 0


class Who(_Message, frozen=True, kw_only=True, tag="who"):
    """The hub does not know the sender: say hello again."""

    epoch: str


class Refusal(_Message, frozen=True, kw_only=True, tag="refusal"):
    """Something was refused, other than a command. `code` is for programs, `reason` for people."""

    code: Literal["version", "role", "message", "run"]
    reason: str


class Parameter(msgspec.Struct, frozen=True):
    """One parameter that a layer owns itself."""

    name: str
    shape: tuple[Whole, ...]
    dtype: str
    is_trainable: bool


class Layer(msgspec.Struct, frozen=True):
    """One module. `name` is that of `named_modules()`, empty for the model itself."""

    name: str
    type: str
    parameters: tuple[Parameter, ...] = ()
    is_watched: bool = True


class Manifest(_Message, frozen=True, kw_only=True, tag="manifest"):
    """The layers of a run's model, in `named_modules()` order. The body holds them."""

    run: str
    rank: Whole
    revision: Whole
    model: str
    device: str = ""
    layer_count: Whole = 0
    body: bytes = b""

    def layers(self) -> tuple[Layer, ...]:
        """Decode the layers. Raises ProtocolError when the body is none."""
        from gradscope.protocol.bodies import unpack_layers  # noqa: PLC0415 - it needs these classes

        return unpack_layers(self)


class Step(_Message, frozen=True, kw_only=True, tag="step"):
    """The statistics of one observed step. The body holds the columns."""

    run: str
    rank: Whole
    seq: Whole
    step: Whole
    time_s: float
    manifest_revision: Whole
    kinds: tuple[str, ...]
    rows: Whole
    columns: tuple[tuple[str, str], ...]
    zero: tuple[str, ...] = ()
    step_time_s: float | None = None
    every: Whole = 1
    cost: float | None = None
    dropped: Whole = 0
    body: bytes = b""

    def block(self) -> "Block":
        """Decode the columns. Raises ProtocolError when the body does not fit the head."""
        from gradscope.protocol.bodies import unpack_block  # noqa: PLC0415 - it needs these classes

        return unpack_block(self)


class Scalars(_Message, frozen=True, kw_only=True, tag="scalars"):
    """What is known of every step, observed or not; several steps at a time, oldest first."""

    run: str
    rank: Whole
    steps: tuple[Whole, ...]
    times_s: tuple[float, ...]
    values: dict[str, tuple[float | None, ...]] = {}


class Event(_Message, frozen=True, kw_only=True, tag="event"):
    """Something happened that a person should know."""

    run: str
    rank: Whole
    step: Whole
    time_s: float
    level: Literal["info", "warning", "error"]
    code: str
    text: str


class InterventionState(msgspec.Struct, frozen=True):
    """One intervention in force, or pending while `active_since` is None."""

    id: str
    action: str
    arguments: dict[str, float]
    layers: tuple[str, ...]
    site: str
    set_by: str
    active_since: Whole | None = None
    end: str = ""


class Interventions(_Message, frozen=True, kw_only=True, tag="interventions"):
    """All interventions of a run. Sent whole at each change; `revision` counts the changes."""

    run: str
    rank: Whole
    revision: Whole
    step: Whole
    entries: tuple[InterventionState, ...] = ()


class Subscribe(_Message, frozen=True, kw_only=True, tag="sub"):
    """A viewer wants a run's messages: at most `max_rate_hz` steps a second."""

    run: str
    max_rate_hz: Rate = 4.0
    backfill: bool = True


class Credit(_Message, frozen=True, kw_only=True, tag="credit"):
    """A viewer can take `count` more steps."""

    count: Whole


class Skipped(_Message, frozen=True, kw_only=True, tag="skipped"):
    """The hub withheld `count` steps from this viewer, the newest of them `step`."""

    run: str
    rank: Whole
    count: Whole
    step: Whole


class Backfill(_Message, frozen=True, kw_only=True, tag="backfill"):
    """Brackets the past steps sent to a viewer that joined late."""

    run: str
    state: Literal["begin", "end"]
    count: Whole


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
    counters: dict[str, Whole] = {}


class Runs(_Message, frozen=True, kw_only=True, tag="runs"):
    """All runs that the hub knows, sent to viewers at each change and asked for by `Runs()`."""

    runs: tuple[RunInfo, ...] = ()
    counters: dict[str, Whole] = {}


class Command(_Message, frozen=True, kw_only=True, tag="cmd"):
    """A viewer asks a training process to change something. It sets a state, it never toggles one.

    `action` is `install` (an `intervention` with its `arguments` on `layers` at `site`), `remove` (the
    one named in `target`) or `remove_all`. Its end: `end_steps` steps after it took effect, `end_s`
    seconds after, never when `is_kept`, else 60 s after the viewer `peer` has vanished.
    """

    id: bytes
    run: str
    peer: str
    action: Literal["install", "remove", "remove_all"]
    intervention: str = ""
    arguments: dict[str, float] = {}
    layers: tuple[str, ...] = ()
    site: str = "output"
    target: str = ""
    set_by: str = ""
    expect_revision: Whole | None = None
    end_steps: Whole | None = None
    end_s: float | None = None
    is_kept: bool = False


class Ack(_Message, frozen=True, kw_only=True, tag="ack"):
    """The answer to a command. When `is_done`, `step` is the first step in which it is in force."""

    command: bytes
    run: str
    is_done: bool
    step: Whole | None = None
    id: str = ""
    layers: tuple[str, ...] = ()
    reason: str = ""


class Heartbeat(_Message, frozen=True, kw_only=True, tag="hb"):
    """I am alive. From the hub, `peers` are the viewers that live; `counters` tell of drops."""

    step: Whole | None = None
    peers: tuple[str, ...] = ()
    counters: dict[str, Whole] = {}


class Bye(_Message, frozen=True, kw_only=True, tag="bye"):
    """I am going, on purpose."""

    reason: str = ""


Message: TypeAlias = (
    Hello
    | Welcome
    | Who
    | Refusal
    | Manifest
    | Step
    | Scalars
    | Event
    | Interventions
    | Subscribe
    | Credit
    | Skipped
    | Backfill
    | Runs
    | Command
    | Ack
    | Heartbeat
    | Bye
)
