"""Interventions as text: a few cells, a line, and the sentence of the form."""

from collections.abc import Mapping, Sequence

from gradscope.catalogue import INTERVENTIONS, InterventionSpec
from gradscope.protocol import ActionInfo, Command, InterventionState, Ramp, Schedule, schedule_in_words
from gradscope_tui.view.numbers import plain_number

__all__ = [
    "action_in_words",
    "effect_sentence",
    "intervention_in_words",
    "intervention_line",
    "layers_in_words",
    "specs_of",
    "start_in_words",
]


_PLACES = {
    "gradient": {
        "output": "the gradient arriving at the output of {}",
        "input": "the gradient leaving through the input of {}",
        "params": "the gradient of the parameters of {}, just before the optimizer steps,",
    },
    "value": {"output": "the output of {}", "input": "what is given to {}"},
    "passage": {"output": "the gradient arriving at the output of {}"},
}


def specs_of(infos: Sequence[ActionInfo]) -> tuple[tuple[InterventionSpec, ActionInfo], ...]:
    """Return each action of a run with its catalogue entry. Actions of the script have digits as keys."""
    digits = iter("123456789")
    found: list[tuple[InterventionSpec, ActionInfo]] = []
    for info in infos:
        spec = INTERVENTIONS.get(info.name)
        if spec is None and (key := next(digits, "")):
            effect = f"is changed by {info.name}"
            spec = InterventionSpec(
                info.name, info.help, key=key, verb=info.name, menu=info.help, effect=effect
            )
        if spec is not None:
            found.append((spec, info))
    return tuple(found)


def action_in_words(name: str, arguments: Mapping[str, float | str]) -> str:
    """Return an intervention in a few cells, such as `clip ≤1`."""
    words = {key: _short_number(value) for key, value in arguments.items()}
    try:
        return INTERVENTIONS[name].short.format(**words)
    except KeyError:  # the script's own, or of a newer version
        return " ".join([name, *(f"{key}={value}" for key, value in words.items())])


def intervention_in_words(state: InterventionState) -> str:
    """Return an intervention in a few cells, with its site unless that is the output."""
    words = action_in_words(state.action, {**state.arguments, **state.choices})
    return words if state.site == "output" else f"{words} at {state.site}"


def layers_in_words(layers: Sequence[str], most: int = 3) -> str:
    """Return `blocks.0.fc1`, or `5 layers (a, b, c and 2 more)`."""
    names = [name or "the whole model" for name in layers]
    if len(names) == 1:
        return names[0]
    rest = len(names) - most
    listed = ", ".join(names[:most]) + (f" and {rest} more" if rest > 0 else "")
    return f"{len(names)} layers ({listed})"


def start_in_words(state: InterventionState, step: int | None = None) -> str:
    """Return the state as text: `active since step 412`, `pending`, or `from step 500 on`."""
    since = state.active_since
    if since is None:
        return "pending"
    is_to_come = step is not None and since > step + 1
    return f"from step {since:,} on" if is_to_come else f"active since step {since:,}"


def intervention_line(state: InterventionState) -> str:
    """Return an intervention in one line: action, layers and state."""
    return (
        f"{intervention_in_words(state)} on {layers_in_words(state.layers, 2)}, {start_in_words(state)}"
    )


def _short_number(value: float | str) -> str:
    if isinstance(value, str):
        return value
    text = plain_number(value)
    return text.rstrip("0").rstrip(".") if "." in text and "e" not in text else text


def effect_sentence(spec: InterventionSpec, info: ActionInfo, command: Command, end: str) -> str:
    """Return one sentence that describes the effect of a command. `enter` confirms it."""
    values: dict[str, float | str] = {**command.arguments, **command.choices}
    shown = {name: _short_number(value) for name, value in values.items()}
    schedule = command.schedule or Schedule()
    ramp = _ramp_with_argument_name(schedule.ramp, command)
    if ramp is not None:  # the ramp replaces the value of the field
        shown[ramp.argument] = ramp.argument
    effect = spec.effect.format(**shown)
    if spec.name not in INTERVENTIONS:
        given = ", ".join(f"{name} {_short_number(value)}" for name, value in values.items())
        effect += f" with {given}" if given else ""
    place = _PLACES[info.what][command.site].format(layers_in_words(command.layers))
    on = " before it flows on" if info.what == "gradient" and command.site != "params" else ""
    start = schedule.start_step
    first = "the next step" if start is None else f"step {start:,}"
    rest = Schedule(None, schedule.end_step, schedule.every_steps, ramp, schedule.condition)
    when = schedule_in_words(rest)
    return f"From {first} on, {place} {effect}{on}{', ' + when if when else ''}; {end}."


def _ramp_with_argument_name(ramp: Ramp | None, command: Command) -> Ramp | None:
    """Return a ramp with the name of its argument, by default the first numeric one."""
    if ramp is None or ramp.argument or not command.arguments:
        return ramp
    return Ramp(next(iter(command.arguments)), ramp.start, ramp.end, ramp.steps, ramp.shape)
