"""Messages that change a run: commands, answers to commands, and the resulting state."""

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
    """One intervention. `active_since`: the first step in which it is in force; None while it is pending."""

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
    """The training is paused before `step`. It resumes when the lease expires."""

    step: Whole
    left_s: float
    set_by: str
    reason: str = ""


class BreakpointState(msgspec.Struct, frozen=True):
    """A condition at which the training pauses. `hits`: how often it has paused the training."""

    id: str
    condition: str
    set_by: str
    hits: Whole = 0


class Interventions(TaggedMessage, frozen=True, kw_only=True, tag="interventions"):
    """All interventions of a run, its pause and its breakpoints. `revision` counts the changes."""

    run: str
    rank: Whole
    revision: Whole
    step: Whole
    entries: tuple[InterventionState, ...] = ()
    pause: PauseState | None = None
    breakpoints: tuple[BreakpointState, ...] = ()


class Command(TaggedMessage, frozen=True, kw_only=True, tag="cmd"):
    """A request of a viewer to change a run. A command sets a state; it never toggles one.

    The client fills in `id`, `run` and `peer` when it sends the command.

    `action` is one of the following; the names in backquotes are the fields that it uses:

    - `install` the `intervention` with its `arguments` on `layers` at `site`. It ends `end_steps` steps
    or `end_s` seconds after it took effect; never, if `is_kept`; otherwise 60 s after the viewer `peer`
    has disconnected. - `remove` the intervention with the id `target`; `remove_all` removes all
    interventions. - `pause` for `lease_s`, from the next step boundary on; `resume`; `step_once`. -
    `break` at a `condition`; `unbreak` removes the breakpoint with the id `target`, or all. - `capture`
    the tensors `what` of `layers`; the `what` "fault" saves the newest NaN to a file, and the answer's id is
    its path. - `undo`: remove all interventions and restore the snapshot. -
    `measure` memory and time in the next step. - `focus` on `layers`: record them in additional steps,
    instead of the layers given before. The focus ends 10 s after the viewer `peer` has disconnected.
    """

    action: CommandName
    id: bytes = b""
    run: str = ""
    peer: str = ""
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
    """The answer to a command. If `is_done`, `step` is the first step in which the command is in force."""

    command: bytes
    run: str
    is_done: bool
    step: Whole | None = None
    id: str = ""
    layers: tuple[str, ...] = ()
    reason: str = ""
