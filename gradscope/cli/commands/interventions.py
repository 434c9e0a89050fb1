"""`gradscope clip` and similar commands, `interventions`, `remove`: change a run over the link."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gradscope.cli.connection import connect_to
from gradscope.cli.output import print_lines, table_lines
from gradscope.client import Client, python_lines
from gradscope.errors import UsageError
from gradscope.names import counted, match_names
from gradscope.protocol import (
    ArgumentInfo,
    Backfill,
    Event,
    InterventionState,
    schedule_in_words,
    unpack_layers,
)
from gradscope.recording import open_recording

__all__ = [
    "End",
    "install",
    "read_arguments",
    "remove",
    "show_actions",
    "show_history",
    "show_interventions",
    "show_python",
]

_HISTORY_S = 10.0


@dataclass(frozen=True, slots=True)
class End:
    """When an intervention ends: after N steps, after some seconds, at a step, or when it is removed."""

    steps: int | None
    seconds: float | None
    is_kept: bool
    until_step: int | None = None

    def __post_init__(self) -> None:
        self._require(self._count <= 1)

    def check(self) -> None:
        """Raise UsageError if no end is given."""
        self._require(self._count == 1 or self.until_step is not None)

    @property
    def _count(self) -> int:
        return (self.steps is not None) + (self.seconds is not None) + self.is_kept

    def _require(self, is_right: bool) -> None:
        if not is_right:
            raise UsageError(
                f"give one of --steps N, --for SECONDS, --until-step N, --keep, got {self._count} of them: "
                "an intervention from the command line needs an end, because no viewer watches it"
            )

    def __str__(self) -> str:
        if self.steps is not None:
            return f"for {counted(self.steps, 'step')}"
        if self.seconds is not None:
            return f"for {self.seconds:g} s"
        return "until it is removed" if self.until_step is None else f"until step {self.until_step}"


def install(
    run: str,
    action: str,
    layers: Sequence[str],
    arguments: Mapping[str, float | str],
    end: End,
    how: Mapping[str, Any],  # Any: where and when, as `Client.intervene` takes it
    *,
    timeout_s: float,
) -> None:
    """Install an intervention, wait until it is in force, and print the result.

    Reports an unknown run first, then an unknown layer, then a missing end, then the arguments.
    """
    with connect_to(run) as client:
        match_names(layers, [layer.name for layer in unpack_layers(client.manifest())])
        end.check()
        ack = client.intervene(
            layers,
            action,
            arguments=arguments,
            end_steps=end.steps,
            end_s=end.seconds,
            is_kept=end.is_kept or (end.steps is None and end.seconds is None),
            timeout_s=timeout_s,
            **how,
        )
    print_lines(
        f"{action} on {_first_names(ack.layers)}: in force from step {ack.step} {end}",
        f"remove it with: gradscope remove {run} {ack.id}",
    )


def show_interventions(run: str) -> None:
    """Print the active interventions."""
    with connect_to(run, want="observe") as client:
        entries = client.interventions()
    if entries:
        print_lines(*table_lines(_HEADINGS, [_table_row(entry) for entry in entries]))
    else:
        print_lines("nothing is in force")


def show_actions(run: str) -> None:
    """Print the interventions that are available in a run, with their arguments."""
    with connect_to(run, want="observe") as client:
        actions = client.manifest().actions
    rows = [
        (
            a.name,
            ", ".join(_describe_argument(each) for each in a.arguments) or "-",
            ", ".join(a.sites),
            a.help,
        )
        for a in actions
    ]
    print_lines(*table_lines(("NAME", "ARGUMENTS", "SITES", "WHAT IT DOES"), rows))


def read_arguments(run: str, name: str, texts: Sequence[str]) -> dict[str, float | str]:
    """Parse texts `NAME=VALUE` into arguments, with the types that the run has sent.

    Raises UsageError for an unknown intervention or argument, and for an invalid value.
    """
    with connect_to(run, want="observe") as client:
        actions = client.manifest().actions
    action = next((each for each in actions if each.name == name), None)
    if action is None:
        known = ", ".join(each.name for each in actions)
        raise UsageError(f"this run has no intervention {name!r}; there are: {known}")
    kinds = {argument.name: argument.kind for argument in action.arguments}
    given: dict[str, float | str] = {}
    for text in texts:
        key, sign, value = text.partition("=")
        if not sign or key not in kinds:
            known = ", ".join(kinds) or "none"
            raise UsageError(f"--set takes NAME=VALUE of {name}'s arguments: {known}; got {text!r}")
        given[key] = value if kinds[key] == "choice" else _parse_number(text, value)
    return given


def show_history(run: str) -> None:
    """Print the audit log of a run, oldest entry first."""
    with connect_to(run, want="observe") as client:
        info = next(each for each in client.runs() if each.run == run)
        events = _recorded_events(info.recording) if info.recording else _events_from_hub(client, run)
    if not events:
        print_lines("nothing was ever changed")
    for event in events:
        clock = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(event.time_s))
        print_lines(f"{clock}  {event.text}")


def show_python(run: str) -> None:
    """Print the active interventions as Python code."""
    with connect_to(run, want="observe") as client:
        entries, actions = client.interventions(), client.manifest().actions
    for entry in entries:
        first, *others = python_lines(entry, actions)
        print_lines(first, *(f"# or, without a scope: {line}" for line in others))
    if not entries:
        print_lines("# nothing is in force")


def remove(run: str, intervention: str | None, *, timeout_s: float) -> None:
    """Remove an intervention, or all, and print the first step without it."""
    with connect_to(run) as client:
        ack = (
            client.remove_all(timeout_s=timeout_s)
            if intervention is None
            else client.remove(intervention, timeout_s=timeout_s)
        )
    what = "all interventions" if intervention is None else intervention
    print_lines(f"{what}: gone from step {ack.step} on")


_HEADINGS = ("ID", "ACTION", "LAYERS", "SITE", "SINCE", "WHEN", "END", "SET BY")


def _table_row(entry: InterventionState) -> tuple[str, ...]:
    given = [f"{name}={value:g}" for name, value in entry.arguments.items()]
    arguments = ", ".join([*given, *(f"{name}={text}" for name, text in entry.choices.items())])
    return (
        entry.id,
        f"{entry.action}({arguments})",
        _first_names(entry.layers),
        entry.site,
        "pending" if entry.active_since is None else f"step {entry.active_since}",
        schedule_in_words(entry.schedule) or "-",
        entry.end or "-",
        entry.set_by,
    )


def _first_names(layers: Sequence[str]) -> str:
    rest = len(layers) - 3
    return ", ".join(layers[:3]) + (f" and {rest} more" if rest > 0 else "")


def _describe_argument(argument: ArgumentInfo) -> str:
    """Describe an argument with its type or default: `max_norm`, `alpha=1`, `per=tensor|layer|all`."""
    if argument.kind == "choice":
        return f"{argument.name}={'|'.join(argument.options)}"
    return argument.name if argument.default is None else f"{argument.name}={argument.default:g}"


def _parse_number(text: str, value: str) -> float:
    known = {"true": 1.0, "yes": 1.0, "false": 0.0, "no": 0.0}
    try:
        return known[value.lower()] if value.lower() in known else float(value)
    except ValueError:
        raise UsageError(f"--set {text!r}: expected a number after the =") from None


def _is_intervention_event(event: Event) -> bool:
    return event.code.startswith("intervention.") and event.rank == 0


def _recorded_events(path: str) -> list[Event]:
    with open_recording(path) as recording:
        return [event for event in recording.events() if _is_intervention_event(event)]


def _events_from_hub(client: Client, run: str) -> list[Event]:
    """Return the events of a run that the hub has kept."""
    client.watch(run, max_rate_hz=1.0)
    until_s = time.monotonic() + _HISTORY_S
    found: list[Event] = []
    while time.monotonic() < until_s:
        for message in client.receive(0.2):
            if isinstance(message, Event) and _is_intervention_event(message):
                found.append(message)
            elif isinstance(message, Backfill) and message.state == "end":
                return found
    return found
