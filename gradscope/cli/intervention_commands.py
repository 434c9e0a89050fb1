"""The commands that change gradients: one for each common intervention, and `intervene` for any of them.

The common ones are generated from the catalogue. All have the same options for site, schedule and end.
"""

import inspect
from collections.abc import Callable, Sequence
from typing import Annotated, Any, TypeAlias

import typer

from gradscope.catalogue import COMMON, INTERVENTIONS, Argument
from gradscope.errors import UsageError

__all__ = ["register"]

Run: TypeAlias = Annotated[
    str, typer.Argument(metavar="RUN", help="The run's name, as `gradscope ls` shows it.")
]
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
Timeout: TypeAlias = Annotated[
    float,
    typer.Option("--timeout", metavar="SECONDS", help="How long to wait for the next step boundary."),
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
    from gradscope.cli.commands.interventions import read_arguments, show_actions  # noqa: PLC0415 - loads zmq

    if name is None:
        show_actions(run)
        return
    if not layers:
        raise UsageError(f"{name} needs the name or pattern of at least one layer")
    _install(run, layers, name, read_arguments(run, name, set or []), **how)


def interventions(
    run: Run,
    history: Annotated[
        bool, typer.Option("--history", help="Who changed what, when, and from which step on.")
    ] = False,
    python: Annotated[
        bool, typer.Option("--python", help="As lines that make them permanent in a script.")
    ] = False,
) -> None:
    """List the active interventions of a run, in the order in which they apply."""
    from gradscope.cli.commands import interventions as listing  # noqa: PLC0415 - loads zmq

    if history:
        listing.show_history(run)
    elif python:
        listing.show_python(run)
    else:
        listing.show_interventions(run)


def remove(
    run: Run,
    intervention: Annotated[
        str | None, typer.Argument(metavar="[ID]", help="As `gradscope interventions RUN` shows it.")
    ] = None,
    is_all: Annotated[bool, typer.Option("--all", help="Remove all of them.")] = False,
    timeout: Timeout = 30.0,
) -> None:
    """Remove an intervention."""
    from gradscope.cli.commands.interventions import remove as remove_one  # noqa: PLC0415 - loads zmq

    if (intervention is None) != is_all:
        raise UsageError("give the ID of one intervention, or --all")
    remove_one(run, intervention, timeout_s=timeout)


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
) -> None:
    from gradscope.cli.commands.interventions import End, install  # noqa: PLC0415 - loads zmq

    how = {
        "site": site,
        "start_step": start_step,
        "end_step": end_step,
        "every_steps": every_steps,
        "ramp": ramp,
        "when": when,
    }
    end = End(steps, seconds, keep, end_step)
    install(run, name, layers, arguments, end, how, timeout_s=timeout)
