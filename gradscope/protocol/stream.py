"""What a run tells of itself: its layers, its steps, its numbers and events."""

from typing import TYPE_CHECKING, Literal

import msgspec

from gradscope.protocol.actions import ActionInfo
from gradscope.protocol.alerts import AlertInfo
from gradscope.protocol.fields import TaggedMessage, Whole

if TYPE_CHECKING:
    from gradscope.columns import Block

__all__ = ["Event", "Layer", "Manifest", "Parameter", "Scalars", "Step"]


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


class Manifest(TaggedMessage, frozen=True, kw_only=True, tag="manifest"):
    """The layers of a run's model, in `named_modules()` order, and what can be done to them.

    The body holds the layers.
    """

    run: str
    rank: Whole
    revision: Whole
    model: str
    device: str = ""
    measured_by: str = ""
    layer_count: Whole = 0
    actions: tuple[ActionInfo, ...] = ()
    body: bytes = b""

    def with_actions(self, actions: tuple[ActionInfo, ...]) -> "Manifest":
        """Return the same with other interventions."""
        return msgspec.structs.replace(self, actions=actions)

    def layers(self) -> tuple[Layer, ...]:
        """Decode the layers. Raises ProtocolError when the body is none."""
        from gradscope.protocol.bodies import unpack_layers  # noqa: PLC0415 - it needs these classes

        return unpack_layers(self)


class Step(TaggedMessage, frozen=True, kw_only=True, tag="step"):
    """The statistics of one observed step, or in a focus step those of the layers in the focus only.

    `every` and `cost` of a focus step are those of the focus. The body holds the columns.
    """

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
    layers: Literal["all", "focus"] = "all"
    step_time_s: float | None = None
    every: Whole = 1
    cost: float | None = None
    dropped: Whole = 0
    body: bytes = b""

    def block(self) -> "Block":
        """Decode the columns. Raises ProtocolError when the body does not fit the head."""
        from gradscope.protocol.bodies import unpack_block  # noqa: PLC0415 - it needs these classes

        return unpack_block(self)


class Scalars(TaggedMessage, frozen=True, kw_only=True, tag="scalars"):
    """What is known of every step, observed or not; several steps at a time, oldest first."""

    run: str
    rank: Whole
    steps: tuple[Whole, ...]
    times_s: tuple[float, ...]
    values: dict[str, tuple[float | None, ...]] = msgspec.field(default_factory=dict)


class Event(TaggedMessage, frozen=True, kw_only=True, tag="event"):
    """Something happened that a person should know."""

    run: str
    rank: Whole
    step: Whole
    time_s: float
    level: Literal["info", "warning", "error"]
    code: str
    text: str
    alert: AlertInfo | None = None
