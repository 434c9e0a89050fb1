"""The commands that pause a training, inspect it, wait for it, and restore it."""

from pathlib import Path
from typing import Annotated, Literal, TypeAlias

import typer

__all__ = ["register"]

Run: TypeAlias = Annotated[
    str, typer.Argument(metavar="RUN", help="The run's name, as `gradscope ls` shows it.")
]
Lease: TypeAlias = Annotated[
    float,
    typer.Option(
        "--lease", metavar="SECONDS", help="The pause ends by itself after this time: 300 at most."
    ),
]
Timeout: TypeAlias = Annotated[
    float,
    typer.Option("--timeout", metavar="SECONDS", help="How long to wait for the next step boundary."),
]


def register(app: typer.Typer) -> None:
    """Add these commands to the command line."""
    for function in (pause, resume, step, break_, unbreak, breakpoints, wait, capture, focus, undo):
        app.command(function.__name__.rstrip("_"))(function)


def pause(run: Run, lease: Lease = 60.0, timeout: Timeout = 30.0) -> None:
    """Pause a training between two steps; again: renew the pause."""
    from gradscope.cli.commands import pause as pause_commands  # noqa: PLC0415 - loads zmq

    pause_commands.pause(run, lease, timeout_s=timeout)


def resume(run: Run, timeout: Timeout = 30.0) -> None:
    """Continue a paused training."""
    from gradscope.cli.commands import pause as pause_commands  # noqa: PLC0415 - loads zmq

    pause_commands.resume(run, timeout_s=timeout)


def step(run: Run, lease: Lease = 60.0, timeout: Timeout = 30.0) -> None:
    """Let one step run, and pause before the next."""
    from gradscope.cli.commands import pause as pause_commands  # noqa: PLC0415 - loads zmq

    pause_commands.step(run, lease, timeout_s=timeout)


def break_(
    run: Run,
    condition: Annotated[
        str,
        typer.Argument(
            metavar="CONDITION", help="As 'loss > 10', any.nan, 'grad[\"fc*\"].norm > 100'."
        ),
    ],
    lease: Lease = 60.0,
    timeout: Timeout = 30.0,
) -> None:
    """Pause a training when a condition becomes true.

    Layers are looked at in observed steps only.
    """
    from gradscope.cli.commands import pause as pause_commands  # noqa: PLC0415 - loads zmq

    pause_commands.add_breakpoint(run, condition, lease, timeout_s=timeout)


def unbreak(
    run: Run,
    id: Annotated[str | None, typer.Argument(metavar="[ID]", help="Default: all of them.")] = None,
    timeout: Timeout = 30.0,
) -> None:
    """Remove a breakpoint."""
    from gradscope.cli.commands import pause as pause_commands  # noqa: PLC0415 - loads zmq

    pause_commands.remove_breakpoint(run, id, timeout_s=timeout)


def breakpoints(run: Run) -> None:
    """List the breakpoints of a run."""
    from gradscope.cli.commands import pause as pause_commands  # noqa: PLC0415 - loads zmq

    pause_commands.show_breakpoints(run)


def wait(
    run: Run,
    until: Annotated[
        str, typer.Option("--until", help="alert, alert=RULE, nan, step=N, or done.")
    ] = "done",
    timeout: Annotated[
        float | None, typer.Option("--timeout", metavar="SECONDS", help="Give up after so long.")
    ] = None,
) -> None:
    """Wait until something has happened in a run.

    Ends with 0 when it has, with 1 when the run ended without it or the time was over.
    """
    from gradscope.cli.commands.wait import wait_for  # noqa: PLC0415 - loads zmq

    raise typer.Exit(wait_for(run, until, timeout_s=timeout))


def capture(
    run: Run,
    layer: Annotated[str, typer.Argument(metavar="LAYER", help="Its name, or a pattern.")],
    what: Annotated[
        Literal["activation", "gradient", "param_grad"],
        typer.Option("--what", help="Which tensors of the layer."),
    ] = "activation",
    save: Annotated[
        Path | None, typer.Option("--save", metavar="FILE", help="Ends in .npy or .safetensors.")
    ] = None,
    timeout: Timeout = 30.0,
) -> None:
    """Look at whole tensors of a layer, as the next step computes them."""
    from gradscope.cli.commands import capture as capture_command  # noqa: PLC0415 - loads zmq

    capture_command.capture(run, layer, what, save, timeout_s=timeout)


def focus(
    run: Run,
    layers: Annotated[
        list[str], typer.Argument(metavar="LAYERS", help="Names or patterns, of 16 layers at most.")
    ],
    steps: Annotated[
        int | None, typer.Option("--steps", metavar="N", min=1, help="End after N.")
    ] = None,
    timeout: Timeout = 30.0,
) -> None:
    """Have layers measured more often, and print what is seen of them.

    For as long as this runs; all layers are observed less often for it, within the same budget.
    """
    from gradscope.cli.commands import focus as focus_command  # noqa: PLC0415 - loads zmq

    focus_command.focus(run, layers, steps, timeout_s=timeout)


def undo(run: Run, timeout: Timeout = 30.0) -> None:
    """Remove all interventions, and put back the state of before the first of them.

    Requires a snapshot: the script must call scope.keep_snapshot().
    """
    from gradscope.cli.commands import pause as pause_commands  # noqa: PLC0415 - loads zmq

    pause_commands.undo(run, timeout_s=timeout)
