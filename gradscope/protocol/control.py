"""Messages that change a run: commands, answers to commands, and the resulting state."""

import msgspec

from gradscope.catalogue import CommandName
from gradscope.names import counted
from gradscope.protocol.fields import TaggedMessage, Whole
from gradscope.protocol.schedules import Schedule

__all__ = [
    "Ack",
    "BreakpointState",
    "Command",
    "InterventionState",
    "Interventions",
    "PauseState",
    "RuleSetting",
    "RuleState",
    "rule_in_words",
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


class RuleSetting(msgspec.Struct, frozen=True):
    """A rule with its action. `rule`: its name, or a condition such as `loss > 10`.

    threshold: the limit, or the minimum and maximum of a range; empty: that of the rule. patience: in how many
    consecutive observed steps it must hold; None: the evidence decides. layers: patterns; empty: all.
    """

    rule: str
    action: str = "event"
    threshold: tuple[float, ...] = ()
    patience: Whole | None = None
    layers: tuple[str, ...] = ()


def rule_in_words(setting: RuleSetting) -> str:
    """Return a rule without its action: `exploding, threshold 100, 3 steps in a row, in blocks.*`."""
    limits = " to ".join(f"{number:g}" for number in setting.threshold)
    patience = setting.patience
    parts = (
        setting.rule,
        f"threshold {limits}" if limits else "",
        f"{counted(patience, 'step')} in a row" if patience else "",
        f"in {', '.join(layer or 'the model' for layer in setting.layers)}" if setting.layers else "",
    )
    return ", ".join(part for part in parts if part)


class RuleState(msgspec.Struct, frozen=True):
    """A rule that a viewer or the script has set. `reports`: how often it has reported something."""

    id: str
    setting: RuleSetting
    set_by: str
    end: str = ""
    reports: Whole = 0


class Interventions(TaggedMessage, frozen=True, kw_only=True, tag="interventions"):
    """All interventions of a run, its pause, breakpoints and set rules. `revision` counts the changes."""

    run: str
    rank: Whole
    revision: Whole
    step: Whole
    entries: tuple[InterventionState, ...] = ()
    pause: PauseState | None = None
    breakpoints: tuple[BreakpointState, ...] = ()
    rules: tuple[RuleState, ...] = ()


class Command(TaggedMessage, frozen=True, kw_only=True, tag="cmd"):
    """A request of a viewer to change a run. A command sets a state; it never toggles one.

    The client fills in `id`, `run` and `peer` when it sends the command.

    `action` is one of the following; the names in backquotes are the fields that it uses:

    - `install` the `intervention` with its `arguments` on `layers` at `site`. It ends `end_steps` steps
    or `end_s` seconds after it took effect; never, if `is_kept`; otherwise 60 s after the viewer `peer`
    has disconnected. - `remove` the intervention with the id `target`; `remove_all` removes all
    interventions. - `pause` for `lease_s`, from the next step boundary on; `resume`; `step_once`. -
    `break` at a `condition`; `unbreak` removes the breakpoint with the id `target`, or all. - set a
    `rule`, in the place of one with the same name and layers; it ends as an intervention does, by `end_s`,
    `is_kept` or with the viewer; `unrule` restores what was before the rule with the id `target`, or before
    all. - `capture` the tensors `what` of `layers`; the `what` "fault" saves the newest NaN to a file, and the
    answer's id is its path. - `undo`: remove all interventions and restore the snapshot. -
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
    rule: RuleSetting | None = None


class Ack(TaggedMessage, frozen=True, kw_only=True, tag="ack"):
    """The answer to a command. If `is_done`, `step` is the first step in which the command is in force."""

    command: bytes
    run: str
    is_done: bool
    step: Whole | None = None
    id: str = ""
    layers: tuple[str, ...] = ()
    reason: str = ""
