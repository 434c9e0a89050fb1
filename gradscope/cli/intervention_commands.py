"""The commands that change gradients: one for each common intervention, and `intervene` for any of them.

The common ones are generated from the catalogue. All have the same options for site, schedule and end.
"""

import inspect
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer

from gradscope.catalogue import COMMON, INTERVENTIONS, Argument
from gradscope.cli.connection import connect_to, typed_run
from gradscope.cli.options import Json, Run, Timeout
from gradscope.cli.output import print_json, print_lines, print_result, table_lines
from gradscope.errors import UsageError
from gradscope.names import counted, match_names

if TYPE_CHECKING:
    from gradscope.client import Client
    from gradscope.protocol import ActionInfo, ArgumentInfo, Event, InterventionState

__all__ = ["register"]

_HISTORY_S = 10.0

Layers: TypeAlias = Annotated[
    list[str],
    typer.Argument(metavar="LAYERS", help="Names or patterns: blocks.0.mlp, 'blocks.*.mlp.fc1'."),
]
Steps: TypeAlias = Annotated[
    int | None, typer.Option("--steps", metavar="N", min=1, help="Remove it after N steps.")
]
Seconds: TypeAlias = Annotated[
    float | None, typer.Option("--for", metavar="SECONDS", min=0.0, help="Remove it after that time.")
]
Keep: TypeAlias = Annotated[bool, typer.Option("--keep", help="Leave it in force until it is removed.")]
Site: TypeAlias = Annotated[
    str, typer.Option("--site", help="The layer's output, input, or params (before the optimizer).")
]
StartStep: TypeAlias = Annotated[
    int | None, typer.Option("--from-step", metavar="N", min=0, help="The first step.")
]
EndStep: TypeAlias = Annotated[
    int | None, typer.Option("--until-step", metavar="N", min=1, help="Stop before this step.")
]
EverySteps: TypeAlias = Annotated[
    int, typer.Option("--every", metavar="N", min=1, help="Act in every N-th step.")
]
RampText: TypeAlias = Annotated[
    str | None,
    typer.Option("--ramp", help="ARGUMENT=FROM:TO:STEPS: alpha=0:1:1000, or with :dann at the end."),
]
When: TypeAlias = Annotated[
    str, typer.Option("--when", help="A condition on the tensor: 'norm > 10', 'nan > 0'.")
]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    for name in COMMON:
        app.command(name, help=_sentence(INTERVENTIONS[name].help))(_command(name))
    app.command()(_with_options(intervene))
    for function in (interventions, remove):
        app.command()(function)


def _command(name: str) -> Callable[..., None]:
    arguments = INTERVENTIONS[name].arguments

    def command(run: Run, layers: Layers, **given: Any) -> None:  # Any: the options below
        values = {argument.name: given.pop(argument.name) for argument in arguments}
        _install(run, layers, name, values, **given)

    return _with_options(command, [_option(argument) for argument in arguments])


def _with_options(
    command: Callable[..., None], options: Sequence[inspect.Parameter] = ()
) -> Callable[..., None]:
    """Set the signature that Typer reads: the command's parameters, `options` and those of `_install`."""
    own = inspect.signature(command).parameters.values()
    shared = inspect.signature(_install).parameters.values()
    parameters = [
        *(p for p in own if p.kind is not p.VAR_KEYWORD),
        *options,
        *(p for p in shared if p.kind is p.KEYWORD_ONLY),
    ]
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # what inspect reads
    command.__annotations__ = {p.name: p.annotation for p in parameters}
    return command


def _option(argument: Argument) -> inspect.Parameter:
    kind = {"number": float, "whole": int, "yes": bool, "choice": str}[argument.kind]
    words = argument.help if not argument.options else f"{argument.help}: {', '.join(argument.options)}"
    option = typer.Option(f"--{argument.name.replace('_', '-')}", help=_sentence(words))
    default = inspect.Parameter.empty if argument.default is None else kind(argument.default)
    return inspect.Parameter(
        argument.name,
        inspect.Parameter.KEYWORD_ONLY,
        default=default,
        annotation=Annotated[kind, option],
    )


def _sentence(phrase: str) -> str:
    return f"{phrase[0].upper()}{phrase[1:]}."


def intervene(
    run: Run,
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="The intervention; without it, lists them.")
    ] = None,
    layers: Annotated[
        list[str] | None, typer.Argument(metavar="[LAYERS]", help="Names or patterns.")
    ] = None,
    *,
    set: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="An argument of the intervention; repeat it."),
    ] = None,
    **how: Any,  # Any: the options of `_install`
) -> None:
    """Install any intervention, including the ones that the training script has registered.

    Without a name, list the run's interventions with their arguments.
    """
    if name is None:
        with connect_to(run, want="observe") as client:
            actions = client.manifest().actions
        if how["json"]:
            print_json({"run": run, "actions": [_plain(action) for action in actions]})
            return
        rows = [
            (a.name, ", ".join(map(_describe_argument, a.arguments)) or "-", ", ".join(a.sites), a.help)
            for a in actions
        ]
        print_lines(*table_lines(("NAME", "ARGUMENTS", "SITES", "WHAT IT DOES"), rows))
        return
    if not layers:
        raise UsageError(f"{name} needs the name or pattern of at least one layer")
    _install(run, layers, name, _read_arguments(run, name, set or []), **how)


def interventions(
    run: Run,
    history: Annotated[
        bool, typer.Option("--history", help="Who changed what, when, and from which step on.")
    ] = False,
    python: Annotated[
        bool, typer.Option("--python", help="As lines that make them permanent in a script.")
    ] = False,
    json: Json = False,
) -> None:
    """List the active interventions of a run, in the order in which they apply."""
    with connect_to(run, want="observe") as client:
        if history:
            info = next(each for each in client.runs() if each.run == run)
            events = (
                _recorded_events(info.recording) if info.recording else _events_from_hub(client, run)
            )
            if json:
                print_json({"run": run, "history": [_plain(event) for event in events]})
                return
            for event in events:
                clock = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(event.time_s))
                print_lines(f"{clock}  {event.text}")
            if not events:
                print_lines("nothing was ever changed")
            return
        entries = client.interventions()
        lines = _python_of(client, entries) if python or json else []
    if json:
        print_json({"run": run, "interventions": [_plain(e) for e in entries], "python": lines})
    elif python:
        print_lines(*lines or ["# no intervention is active"])
    elif entries:
        print_lines(*table_lines(_HEADINGS, [_table_row(entry) for entry in entries]))
    else:
        print_lines("no intervention is active")


def remove(
    run: Run,
    intervention: Annotated[
        str | None, typer.Argument(metavar="[ID]", help="As `gradscope interventions RUN` shows it.")
    ] = None,
    is_all: Annotated[bool, typer.Option("--all", help="Remove all of them.")] = False,
    timeout: Timeout = 30.0,
    json: Json = False,
) -> None:
    """Remove an intervention."""
    if (intervention is None) != is_all:
        raise UsageError("give the ID of one intervention, or --all")
    with connect_to(run) as client:
        if intervention is None:
            ack = client.remove_all(timeout_s=timeout)
        else:
            ack = client.remove(intervention, timeout_s=timeout)
    document = {"run": run, "step": ack.step, "id": intervention}
    text = f"{intervention or 'all interventions'}: not active from step {ack.step} on"
    print_result(document, json, text)


def _install(
    run: Run,
    layers: Layers,
    name: str,
    arguments: dict[str, float | str],
    *,
    steps: Steps = None,
    seconds: Seconds = None,
    keep: Keep = False,
    site: Site = "output",
    start_step: StartStep = None,
    end_step: EndStep = None,
    every_steps: EverySteps = 1,
    ramp: RampText = None,
    when: When = "",
    timeout: Timeout = 30.0,
    json: Json = False,
) -> None:
    """Install an intervention, wait until it is in force, and print the result.

    Reports an unknown run first, then an unknown layer, then a missing end, then the arguments.
    """
    from gradscope.protocol import unpack_layers  # noqa: PLC0415 - loads msgspec

    ends = (steps is not None) + (seconds is not None) + keep
    if ends > 1:
        raise _wrong_end(ends)
    with connect_to(run) as client:
        match_names(layers, [layer.name for layer in unpack_layers(client.manifest())])
        if not ends and end_step is None:
            raise _wrong_end(ends)
        ack = client.intervene(
            layers,
            name,
            arguments=arguments,
            site=site,
            start_step=start_step,
            end_step=end_step,
            every_steps=every_steps,
            ramp=ramp,
            when=when,
            end_steps=steps,
            end_s=seconds,
            is_kept=keep or (steps is None and seconds is None),
            timeout_s=timeout,
        )
    print_result(
        {"run": run, "id": ack.id, "action": name, "step": ack.step, "layers": ack.layers},
        json,
        f"{name} on {_first_names(ack.layers)}: in force from step {ack.step} "
        f"{_end_in_words(steps, seconds, end_step)}",
        f"remove it with: gradscope remove {typed_run(run)} {ack.id}",
    )


def _plain(message: "ActionInfo | Event | InterventionState") -> dict[str, Any]:  # Any: what JSON takes
    """Return a part of a message with the names of the protocol."""
    import msgspec  # noqa: PLC0415 - --help needs none of it

    plain: dict[str, Any] = msgspec.to_builtins(message)
    return plain


def _wrong_end(given: int) -> UsageError:
    return UsageError(
        f"give one of --steps N, --for SECONDS, --until-step N, --keep, got {given} of them: "
        "an intervention from the command line needs an end, because no viewer watches it"
    )


def _end_in_words(steps: int | None, seconds: float | None, end_step: int | None) -> str:
    if steps is not None:
        return f"for {counted(steps, 'step')}"
    if seconds is not None:
        return f"for {seconds:g} s"
    return "until it is removed" if end_step is None else f"until step {end_step}"


def _read_arguments(run: str, name: str, texts: Sequence[str]) -> dict[str, float | str]:
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


_HEADINGS = ("ID", "ACTION", "LAYERS", "SITE", "SINCE", "WHEN", "END", "SET BY")


def _table_row(entry: "InterventionState") -> tuple[str, ...]:
    from gradscope.protocol import schedule_in_words  # noqa: PLC0415 - loads msgspec

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


def _describe_argument(argument: "ArgumentInfo") -> str:
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


def _is_intervention_event(event: "Event") -> bool:
    return event.code.startswith("intervention.") and event.rank == 0


def _python_of(client: "Client", entries: Sequence["InterventionState"]) -> list[str]:
    """Return the lines of Python that make the interventions permanent."""
    from gradscope.client import python_lines  # noqa: PLC0415 - loads zmq

    lines = []
    for entry in entries:
        first, *others = python_lines(entry, client.manifest().actions)
        lines += [first, *(f"# or, without a scope: {line}" for line in others)]
    return lines


def _recorded_events(path: str) -> list["Event"]:
    from gradscope.recording import open_recording  # noqa: PLC0415 - loads sqlite3

    with open_recording(path) as recording:
        return [event for event in recording.events() if _is_intervention_event(event)]


def _events_from_hub(client: "Client", run: str) -> list["Event"]:
    """Return the events of a run that the hub has kept."""
    from gradscope.protocol import Backfill, Event  # noqa: PLC0415 - loads msgspec

    client.watch(run, max_rate_hz=1.0, ranks="merged")
    until_s = time.monotonic() + _HISTORY_S
    found: list[Event] = []
    while time.monotonic() < until_s:
        for message in client.receive(0.2):
            if isinstance(message, Event) and _is_intervention_event(message):
                found.append(message)
            elif isinstance(message, Backfill) and message.state == "end":
                return found
    return found
