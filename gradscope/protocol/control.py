"""Messages that change a run: commands, their answers, and the resulting state."""

import msgspec

from gradscope.catalogue import CommandName
from gradscope.protocol.fields import TaggedMessage, Whole
from gradscope.protocol.schedules import Schedule

__all__ = [
    "Ack",
    "BreakpointState",
    "Command",
    "InterventionState",
    "Interventions",
    "PauseState",
]


class InterventionState(msgspec.Struct, frozen=True):
    """One intervention: active since step `active_since`, or pending if it is None."""

    id: str
    action: str
    arguments: dict[str, float]
    layers: tuple[str, ...]
    site: str
    set_by: str
    active_since: Whole | None = None
    end: str = ""
    choices: dict[str, str] = msgspec.field(default_factory=dict)
    schedule: Schedule | None = None


class PauseState(msgspec.Struct, frozen=True):
    """The training is paused before `step`. It continues when the lease ends."""

    step: Whole
    left_s: float
    set_by: str
    reason: str = ""


class BreakpointState(msgspec.Struct, frozen=True):
    """A condition at which the training pauses. `hits` counts these pauses."""

    id: str
    condition: str
    set_by: str
    hits: Whole = 0


class Interventions(TaggedMessage, frozen=True, kw_only=True, tag="interventions"):
    """All interventions, the pause and the breakpoints of a run, complete. `revision` counts the changes."""

    run: str
    rank: Whole
    revision: Whole
    step: Whole
    entries: tuple[InterventionState, ...] = ()
    pause: PauseState | None = None
    breakpoints: tuple[BreakpointState, ...] = ()


class Command(TaggedMessage, frozen=True, kw_only=True, tag="cmd"):
    """A request of a viewer to change a run. It sets a state and never toggles one.

    `action` is `install` (an `intervention` with its `arguments` on `layers` at `site`), `remove` (the
    one named in `target`) or `remove_all`; `pause` (for `lease_s`, from the next boundary on),
    `resume` or `step_once`; `break` (at a `condition`), `unbreak` (the one named in `target`, or all);
    `capture` (the tensors `what` of `layers`); `undo` (all that was changed); `measure` (memory and
    time, in the next step); `focus` (on `layers`, of which further steps are measured, in the place of
    those of before; it ends 10 s after the viewer `peer` has vanished). The end of what it installs:
    `end_steps` steps after it took effect, `end_s` seconds after, never when `is_kept`, else 60 s after
    the viewer `peer` has vanished.
    """

    id: bytes
    run: str
    peer: str
    action: CommandName
    intervention: str = ""
    arguments: dict[str, float] = msgspec.field(default_factory=dict)
    layers: tuple[str, ...] = ()
    site: str = "output"
    target: str = ""
    set_by: str = ""
    expect_revision: Whole | None = None
    end_steps: Whole | None = None
    end_s: float | None = None
    is_kept: bool = False
    lease_s: float | None = None
    condition: str = ""
    what: str = ""
    choices: dict[str, str] = msgspec.field(default_factory=dict)
    schedule: Schedule | None = None


class Ack(TaggedMessage, frozen=True, kw_only=True, tag="ack"):
    """The answer to a command. If `is_done`, `step` is the first step in which it is in force."""

    command: bytes
    run: str
    is_done: bool
    step: Whole | None = None
    id: str = ""
    layers: tuple[str, ...] = ()
    reason: str = ""
