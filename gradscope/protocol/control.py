"""Messages that change a run: commands, their answers, and what is in force."""

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
    """One intervention in force, or pending while `active_since` is None."""

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
    """The training stands before `step`, and goes on by itself when the lease ends."""

    step: Whole
    left_s: float
    set_by: str
    reason: str = ""


class BreakpointState(msgspec.Struct, frozen=True):
    """A condition at which the training pauses. `hits` counts how often it did."""

    id: str
    condition: str
    set_by: str
    hits: Whole = 0


class Interventions(TaggedMessage, frozen=True, kw_only=True, tag="interventions"):
    """All that is set in a run. Sent whole at each change; `revision` counts those of interventions."""

    run: str
    rank: Whole
    revision: Whole
    step: Whole
    entries: tuple[InterventionState, ...] = ()
    pause: PauseState | None = None
    breakpoints: tuple[BreakpointState, ...] = ()


class Command(TaggedMessage, frozen=True, kw_only=True, tag="cmd"):
    """A viewer asks a training process to change something. It sets a state, it never toggles one.

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
    """The answer to a command. When `is_done`, `step` is the first step in which it is in force."""

    command: bytes
    run: str
    is_done: bool
    step: Whole | None = None
    id: str = ""
    layers: tuple[str, ...] = ()
    reason: str = ""
