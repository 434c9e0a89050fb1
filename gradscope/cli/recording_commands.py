"""The commands for recordings: report, export and replay, and rm, pin and unpin for the files on disk."""

from pathlib import Path
from typing import Annotated, Literal, TypeAlias

import typer

from gradscope.cli.options import Json
from gradscope.errors import UsageError

__all__ = ["register"]

_Runs: TypeAlias = Annotated[
    list[str], typer.Argument(metavar="RUN...", help="Runs that have ended, or paths of recordings.")
]


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    for command in (report, export, replay, rm, pin, unpin):
        app.command()(command)


def report(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run, or the path of a recording.")],
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="FILE", help="The file to write.")
    ] = Path("report.html"),
    layers: Annotated[
        list[str] | None,
        typer.Option("--layers", metavar="PATTERN", help="Draw these layers. May be repeated."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing file.")] = False,
    json: Json = False,
) -> None:
    """Write what happened in a run as one HTML file, to read, print or send.

    The verdict and findings, loss and speed, gradients, activations and updates of all layers over the run,
    interventions, memory and time, environment. The page loads nothing from a network. The run may be live or have
    ended. Needs the package matplotlib.

    Example: gradscope report RUN -o report.html
    """
    from gradscope.cli.commands.report import report_run  # noqa: PLC0415 - loads zmq and sqlite3

    report_run(run, output, layers=tuple(layers or ()), force=force, as_json=json)


def export(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run, or the path of a recording.")],
    output: Annotated[
        Path,
        typer.Option(
            "-o", "--output", metavar="FILE", help="The file; of TensorBoard a directory; - is stdout."
        ),
    ],
    form: Annotated[
        Literal["csv", "jsonl", "parquet", "tensorboard"] | None,
        typer.Option("--format", help="Default: as the name of the file ends."),
    ] = None,
    *,
    layers: Annotated[
        list[str] | None,
        typer.Option("--layers", metavar="PATTERN", help="Only these layers. May be repeated."),
    ] = None,
    kinds: Annotated[
        list[str] | None,
        typer.Option(
            "--kinds", metavar="KIND", help="Only these: out, grad, param, param_grad, update."
        ),
    ] = None,
    stats: Annotated[
        list[str] | None,
        typer.Option("--stats", metavar="STAT", help="Only these, such as norm. May be repeated."),
    ] = None,
    steps: Annotated[
        str, typer.Option("--steps", metavar="A:B", help="From step A to step B, both included.")
    ] = "",
    force: Annotated[bool, typer.Option("--force", help="Replace what is there.")] = False,
    json: Json = False,
) -> None:
    """Write the recorded data of a run as a table for other programs, or as TensorBoard's event files.

    A row is one kind of tensor of one layer in one observed step. What was not measured is empty. The run may be live
    or have ended. Parquet needs the package pyarrow, TensorBoard the package tensorboard.

    Example: gradscope export RUN -o run.parquet --kinds grad --layers 'blocks.*'
    """
    from gradscope.cli.commands.export import export_and_print  # noqa: PLC0415 - loads zmq and sqlite3

    export_and_print(
        run,
        output,
        form,
        layers=tuple(layers or ()),
        kinds=tuple(kinds or ()),
        stats=tuple(stats or ()),
        steps=steps,
        force=force,
        as_json=json,
    )


def replay(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run, or the path of a recording.")],
    step: Annotated[
        int | None,
        typer.Option("--step", metavar="STEP", min=0, help="Begin here. Default: the last step."),
    ] = None,
    against: Annotated[
        str | None,
        typer.Option(
            "--against", metavar="RUN", help="Compare with this run, at the same step: also a path."
        ),
    ] = None,
    tab: Annotated[
        str, typer.Option("--tab", metavar="TAB", help="The first tab: layers, findings or memory.")
    ] = "layers",
) -> None:
    """Open the recording of a run in the UI: go through its steps, play them, jump to its findings.

    The screens show the run as it was at the shown step. Nothing is sent to any run. Without a
    terminal, print the table of the step.
    """
    if tab not in ("layers", "findings", "memory"):
        raise UsageError(f"expected --tab to be layers, findings or memory, got {tab!r}")
    from gradscope.cli.commands.replay import open_replay  # noqa: PLC0415 - loads zmq and sqlite3

    raise typer.Exit(open_replay(run, step=step, against=against, tab=tab))


def rm(runs: _Runs, json: Json = False) -> None:
    """Remove the recordings of runs. One that is pinned or may still be written is refused with exit code 4."""
    from gradscope.cli.commands.recordings import remove  # noqa: PLC0415 - loads sqlite3

    remove(runs, as_json=json)


def pin(runs: _Runs, json: Json = False) -> None:
    """Keep the recordings of runs. Without this, the oldest are removed if all together exceed their limit.

    The limit is 10 GB, at most a tenth of the disk, or the number of GB in GRADSCOPE_RECORDINGS_GB.
    """
    from gradscope.cli.commands.recordings import pin as pin_runs  # noqa: PLC0415 - loads sqlite3

    pin_runs(runs, is_pinned=True, as_json=json)


def unpin(runs: _Runs, json: Json = False) -> None:
    """Let the recordings of runs be removed if space is needed."""
    from gradscope.cli.commands.recordings import pin as pin_runs  # noqa: PLC0415 - loads sqlite3

    pin_runs(runs, is_pinned=False, as_json=json)
