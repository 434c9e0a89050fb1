"""Messages from a run to its viewers: layers, steps, memory, times, scalars, events, captured tensors."""

from collections.abc import Iterable
from typing import Literal

import msgspec

from gradscope.errors import ProtocolError
from gradscope.findings import Checked, Finding
from gradscope.names import counted
from gradscope.protocol.fields import TaggedMessage, Whole

__all__ = [
    "ActionInfo",
    "AlertInfo",
    "ArgumentInfo",
    "Captured",
    "ChangeInfo",
    "Environment",
    "Event",
    "Layer",
    "Manifest",
    "Memory",
    "Parameter",
    "RankState",
    "RankStates",
    "Scalars",
    "Step",
    "StepFacts",
    "Times",
    "pack_layers",
    "unpack_layers",
]


class Manifest(TaggedMessage, frozen=True, kw_only=True, tag="manifest"):
    """The layers of a run's model, in `named_modules()` order, and the available interventions.

    The body contains the layers.
    """

    run: str
    rank: Whole
    revision: Whole
    model: str
    device: str = ""
    measured_by: str = ""
    layer_count: Whole = 0
    actions: tuple["ActionInfo", ...] = ()
    body: bytes = b""

    def with_actions(self, actions: "tuple[ActionInfo, ...]") -> "Manifest":
        """Return a copy with these interventions."""
        return msgspec.structs.replace(self, actions=actions)


class Environment(TaggedMessage, frozen=True, kw_only=True, tag="environment"):
    """What a training process runs with, when it attached. Secrets are hidden from `command`.

    A version, variable or setting that is not known is absent.
    """

    run: str
    rank: Whole
    host: str = ""
    system: str = ""
    versions: dict[str, str] = msgspec.field(default_factory=dict)
    devices: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    script: str = ""
    directory: str = ""
    variables: dict[str, str] = msgspec.field(default_factory=dict)
    settings: dict[str, str] = msgspec.field(default_factory=dict)


class Parameter(msgspec.Struct, frozen=True):
    """One parameter that a layer owns directly."""

    name: str
    shape: tuple[Whole, ...]
    dtype: str
    is_trainable: bool


class Layer(msgspec.Struct, frozen=True):
    """One module. `name` is its name in `named_modules()`, empty for the model itself."""

    name: str
    type: str
    parameters: tuple[Parameter, ...] = ()
    is_watched: bool = True


class ActionInfo(msgspec.Struct, frozen=True):
    """One intervention that can be installed. `is_own`: the training script registered it."""

    name: str
    help: str = ""
    what: Literal["gradient", "value", "passage"] = "gradient"
    sites: tuple[str, ...] = ()
    arguments: tuple["ArgumentInfo", ...] = ()
    is_own: bool = False


class ArgumentInfo(msgspec.Struct, frozen=True):
    """One argument: a number in a range, an integer, a boolean (1 or 0), or one of `options`.

    It is required if it has no default. `chosen` is the default of an argument with options.
    """

    name: str
    help: str = ""
    kind: Literal["number", "whole", "yes", "choice"] = "number"
    default: float | None = None
    lowest: float | None = None
    highest: float | None = None
    chosen: str = ""
    options: tuple[str, ...] = ()


class Step(TaggedMessage, frozen=True, kw_only=True, tag="step"):
    """The statistics of one observed step, or of the layers in the focus in one focus step.

    `every` and `cost` of a focus step refer to focus steps. The body contains the columns.

    ranks: the ranks whose rows the hub has merged; empty for the rows of `rank` itself, as that rank has sent them.
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
    facts: "StepFacts | None" = None
    ranks: tuple[Whole, ...] = ()
    body: bytes = b""


class StepFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What else is known of a step, to compare runs. `digests` are of the state before its forward."""

    start_step: Whole = 0
    settings: dict[str, str] = msgspec.field(default_factory=dict)
    hyperparameters: dict[str, float] = msgspec.field(default_factory=dict)
    eval_layers: tuple[Whole, ...] = ()
    optimizer_state: Whole | None = None
    digests: dict[str, bytes] = msgspec.field(default_factory=dict)


class _ResourceMessage(TaggedMessage, frozen=True, kw_only=True):
    """The fields that `Memory` and `Times` share."""

    run: str
    rank: Whole
    step: Whole
    time_s: float
    manifest_revision: Whole
    rows: Whole
    columns: tuple[tuple[str, str], ...]
    zero: tuple[str, ...] = ()


class Memory(_ResourceMessage, frozen=True, kw_only=True, tag="memory"):
    """The memory of one step by layer. The body contains the columns."""

    balance: dict[str, Whole] = msgspec.field(default_factory=dict)
    machine: dict[str, Whole] = msgspec.field(default_factory=dict)
    notes: tuple[str, ...] = ()
    body: bytes = b""


class Times(_ResourceMessage, frozen=True, kw_only=True, tag="times"):
    """The time of one step by layer. The body contains the columns."""

    phases_s: dict[str, float] = msgspec.field(default_factory=dict)
    clock: Literal["host", "device"] = "host"
    is_observed: bool = False
    notes: tuple[str, ...] = ()
    body: bytes = b""


class RankState(msgspec.Struct, frozen=True, kw_only=True):
    """How one rank of a run is doing. What is not known is None or empty.

    step_s: the median duration of its newest steps. before_backward_s: the time that it needed in a step until its
        backward began, where ranks wait for each other. still_s, place, layer: as in `Heartbeat`.
    norms: by kind, the norm of all rows of that kind in a step. differs_at: the layer and kind whose root mean square
        is furthest from the median of the ranks, in that step, and `differs_by` the ratio to the median.
    nonfinite: the number of elements that are NaN or infinite in that step.
    """

    rank: Whole
    is_live: bool = True
    step: Whole | None = None
    step_s: float | None = None
    before_backward_s: float | None = None
    still_s: float | None = None
    place: str = ""
    layer: str = ""
    norms: dict[str, float] = msgspec.field(default_factory=dict)
    nonfinite: Whole | None = None
    differs_at: str = ""
    differs_by: float | None = None


class RankStates(TaggedMessage, frozen=True, kw_only=True, tag="ranks"):
    """How the ranks of a run are doing, once a second. With more than 256 ranks, the ones that stand out come first.

    compared_step: the step that `norms`, `nonfinite` and `differs_at` are of; None if no step was compared.
    """

    run: str
    time_s: float
    count: Whole
    ranks: tuple[RankState, ...] = ()
    compared_step: Whole | None = None


class Scalars(TaggedMessage, frozen=True, kw_only=True, tag="scalars"):
    """Scalars of all steps, observed or not: several steps in one message, oldest first."""

    run: str
    rank: Whole
    steps: tuple[Whole, ...]
    times_s: tuple[float, ...]
    values: dict[str, tuple[float | None, ...]] = msgspec.field(default_factory=dict)


class Event(TaggedMessage, frozen=True, kw_only=True, tag="event"):
    """An event that is shown to users."""

    run: str
    rank: Whole
    step: Whole
    time_s: float
    level: Literal["info", "warning", "error"]
    code: str
    text: str
    alert: "AlertInfo | None" = None
    finding: Finding | None = None
    checked: Checked | None = None
    change: "ChangeInfo | None" = None


class AlertInfo(msgspec.Struct, frozen=True):
    """The numbers of an alert. `layer` is empty for an alert without a layer, such as one about the loss."""

    rule: str
    layer: str
    kind: str
    value: float
    threshold: float
    first_step: Whole
    action: str = ""


class ChangeInfo(msgspec.Struct, frozen=True):
    """One change of the interventions: who did what, and the first step in which it is in force."""

    what: Literal["set", "removed", "ended", "failed"]
    id: str
    text: str
    step: Whole
    by: str = ""
    origin: str = ""


class Captured(TaggedMessage, frozen=True, kw_only=True, tag="captured"):
    """One captured tensor. The body contains its elements, little-endian and in C order."""

    command: bytes
    run: str
    rank: Whole
    step: Whole
    layer: str
    what: str
    name: str = ""
    index: Whole = 0
    count: Whole = 1
    dtype: str = "float32"
    shape: tuple[Whole, ...] = ()
    full_shape: tuple[Whole, ...] = ()
    note: str = ""
    body: bytes = b""


_LAYERS: msgspec.msgpack.Decoder[tuple[Layer, ...]] = msgspec.msgpack.Decoder(tuple[Layer, ...])


def pack_layers(layers: Iterable[Layer]) -> bytes:
    """Return the `body` of a manifest with these layers."""
    return msgspec.msgpack.encode(list(layers))


def unpack_layers(manifest: Manifest) -> tuple[Layer, ...]:
    """Return the layers of a manifest. Raises ProtocolError if the body contains anything else."""
    try:
        layers = _LAYERS.decode(manifest.body)
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"the body of a manifest does not hold layers: {error}") from error
    if len(layers) != manifest.layer_count:
        raise ProtocolError(
            f"expected {counted(manifest.layer_count, 'layer')}, the body has {len(layers)}"
        )
    return layers
