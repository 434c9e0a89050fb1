"""The commands that change gradients: one for each usual intervention, and one for any.

All take the same options for where, when and how long; they are made from one table.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from gradscope.errors import UsageError

__all__ = ["register"]


@dataclass(frozen=True, slots=True)
class _Option:
    """An option of one command: what it is called in the call, its type, and its words."""

    name: str
    kind: type
    help: str
    default: Any = inspect.Parameter.empty  # Any: of that type

    def parameter(self) -> inspect.Parameter:
        flag = f"--{self.name.replace('_', '-')}"
        hint = Annotated[self.kind, typer.Option(flag, help=self.help)]  # type: ignore[name-defined]  # a type that is known when it runs
        keyword = inspect.Parameter.KEYWORD_ONLY
        return inspect.Parameter(self.name, keyword, default=self.default, annotation=hint)


_COMMANDS: tuple[tuple[str, str, tuple[_Option, ...]], ...] = (
    (
        "clip",
        "Clip the norm of a gradient.",
        (
            _Option("max_norm", float, "The greatest norm that passes."),
            _Option("per", str, "Whose: tensor, layer, or (with --site params) all.", "tensor"),
        ),
    ),
    (
        "clamp",
        "Clamp the elements of a gradient.",
        (_Option("limit", float, "The greatest magnitude of an element that passes."),),
    ),
    ("scale", "Multiply a gradient.", (_Option("factor", float, "What it is multiplied by."),)),
    (
        "reverse",
        "Reverse a gradient.",
        (_Option("alpha", float, "The gradient is multiplied by minus alpha.", 1.0),),
    ),
    ("stop", "Stop a gradient: nothing passes.", ()),
    (
        "noise",
        "Add Gaussian noise to a gradient.",
        (
            _Option("std", float, "The standard deviation of the noise."),
            _Option("seed", int, "The same seed gives the same noise.", 0),
            _Option("relative", bool, "As a part of the gradient's own deviation.", False),
        ),
    ),
)

_RUN = Annotated[str, typer.Argument(metavar="RUN", help="The run's name, as `gradscope ls` shows it.")]
_LAYERS = Annotated[
    list[str],
    typer.Argument(metavar="LAYERS", help="Names or patterns: blocks.0.mlp, 'blocks.*.mlp.fc1'."),
]
_STEPS = Annotated[
    int | None, typer.Option("--steps", metavar="N", min=1, help="End it after N steps.")
]
_FOR = Annotated[
    float | None,
    typer.Option("--for", metavar="SECONDS", min=0.0, help="End it after so many seconds."),
]
_KEEP = Annotated[bool, typer.Option("--keep", help="Leave it in force until it is removed.")]
_SITE = Annotated[
    str,
    typer.Option("--site", help="Where: the layer's output, input, or params (before the optimizer)."),
]
_FROM = Annotated[int | None, typer.Option("--from-step", metavar="N", min=0, help="The first step.")]
_UNTIL = Annotated[
    int | None,
    typer.Option("--until-step", metavar="N", min=1, help="The first step in which it acts no more."),
]
_EVERY = Annotated[int, typer.Option("--every", metavar="N", min=1, help="Act in every N-th step.")]
_RAMP = Annotated[
    str | None,
    typer.Option("--ramp", help="ARGUMENT=FROM:TO:STEPS: alpha=0:1:1000, or with :dann at the end."),
]
_WHEN = Annotated[
    str, typer.Option("--when", help="A condition on what arrives: 'norm > 10', 'nan > 0'.")
]
_TIMEOUT = Annotated[
    float,
    typer.Option("--timeout", metavar="SECONDS", help="How long to wait for the next step boundary."),
]

_HOW: dict[str, tuple[object, object]] = {
    "steps": (_STEPS, None),
    "seconds": (_FOR, None),
    "keep": (_KEEP, False),
    "site": (_SITE, "output"),
    "start_step": (_FROM, None),
    "end_step": (_UNTIL, None),
    "every_steps": (_EVERY, 1),
    "ramp": (_RAMP, None),
    "when": (_WHEN, ""),
    "timeout": (_TIMEOUT, 30.0),
}
"""Where, when and how long: the options that all these commands share, with their defaults."""


def register(app: typer.Typer) -> None:
    """Add the commands."""
    for name, help, options in _COMMANDS:
        app.command(name, help=help)(_command(name, options))
    app.command("intervene")(_with_signature(_intervene, (), has_name=True))
    app.command("interventions")(_interventions)
    app.command("remove")(_remove)


def _command(action: str, options: tuple[_Option, ...]) -> Callable[..., None]:
    def change(run: str, layers: list[str], **given: Any) -> None:  # Any: as the options say
        arguments = {option.name: given[option.name] for option in options}
        _install(run, action, layers, arguments, given)

    return _with_signature(change, options)


def _with_signature(
    function: Callable[..., None], options: tuple[_Option, ...], *, has_name: bool = False
) -> Callable[..., None]:
    """Give a function the signature that Typer makes arguments and options of."""
    positional = inspect.Parameter.POSITIONAL_OR_KEYWORD
    parameters = [inspect.Parameter("run", positional, annotation=_RUN)]
    if has_name:
        parameters.append(inspect.Parameter("name", positional, default=None, annotation=_NAME))
        parameters.append(
            inspect.Parameter("layers", positional, default=None, annotation=_SOME_LAYERS)
        )
        parameters.append(
            inspect.Parameter("set", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=_SET)
        )
    else:
        parameters.append(inspect.Parameter("layers", positional, annotation=_LAYERS))
    parameters += [option.parameter() for option in options]
    parameters += [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=hint)
        for name, (hint, default) in _HOW.items()
    ]
    function.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # what inspect looks for
    function.__annotations__ = {p.name: p.annotation for p in parameters}
    return function


_NAME = Annotated[
    str | None, typer.Argument(metavar="[NAME]", help="Of the intervention; without it, lists them.")
]
_SOME_LAYERS = Annotated[
    list[str] | None, typer.Argument(metavar="[LAYERS]", help="Names or patterns.")
]
_SET = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="An argument of the intervention; repeat it."),
]


def _intervene(
    run: str,
    name: str | None,
    layers: list[str] | None,
    set: list[str] | None,
    **given: Any,  # Any: as the options say
) -> None:
    """Install any intervention, also one that the training script has brought.

    Without a name, list those that the run has, with their arguments.
    """
    from gradscope.cli.interventions import read_arguments, show_actions  # noqa: PLC0415 - loads zmq

    if name is None:
        show_actions(run)
        return
    if not layers:
        raise UsageError(f"{name} needs the name or pattern of at least one layer")
    _install(run, name, layers, read_arguments(run, name, set or []), given)


def _interventions(
    run: _RUN,
    history: Annotated[
        bool, typer.Option("--history", help="Who did what, when, from which step on.")
    ] = False,
    python: Annotated[
        bool, typer.Option("--python", help="As lines that make them permanent in a script.")
    ] = False,
) -> None:
    """List what is in force in a run, in the order in which a gradient passes it."""
    from gradscope.cli import interventions as listing  # noqa: PLC0415 - loads zmq

    if history:
        listing.show_history(run)
    elif python:
        listing.show_python(run)
    else:
        listing.show_interventions(run)


def _remove(
    run: _RUN,
    intervention: Annotated[
        str | None, typer.Argument(metavar="[ID]", help="As `gradscope interventions RUN` shows it.")
    ] = None,
    is_all: Annotated[bool, typer.Option("--all", help="Remove all of them.")] = False,
    timeout: _TIMEOUT = 30.0,
) -> None:
    """Remove an intervention."""
    from gradscope.cli.interventions import remove as remove_one  # noqa: PLC0415 - loads zmq

    if (intervention is None) != is_all:
        raise UsageError("give the ID of one intervention, or --all")
    remove_one(run, intervention, timeout_s=timeout)


def _install(
    run: str,
    action: str,
    layers: list[str],
    arguments: dict[str, float | str],
    given: dict[str, Any],  # Any: as the options say
) -> None:
    from gradscope.cli.interventions import End, install  # noqa: PLC0415 - loads zmq

    end = End(given["steps"], given["seconds"], given["keep"], given["end_step"])
    how = {name: given[name] for name in ("site", "start_step", "end_step", "every_steps", "when")}
    install(
        run, action, layers, arguments, end, {**how, "ramp": given["ramp"]}, timeout_s=given["timeout"]
    )
