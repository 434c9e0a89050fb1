"""The commands and their options. The code of each command is in a separate file, loaded when it runs."""

import io
import sys
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

import typer
from typer.core import TyperGroup

from gradscope._version import __version__
from gradscope.cli import (
    access_commands,
    control_commands,
    exit_codes,
    intervention_commands,
    recording_commands,
)
from gradscope.cli.connection import select_hub
from gradscope.cli.options import Json, LiveRun, RunOrRecording
from gradscope.errors import GradscopeError, UsageError

__all__ = ["app", "main"]


class _Commands(TyperGroup):
    """Converts the errors of all commands to a line on stderr and an exit code."""

    def invoke(self, ctx: Any) -> Any:  # Any: typer's context and result have no public types
        try:
            return super().invoke(ctx)
        except GradscopeError as error:
            exit_codes.print_error(str(error))
            raise typer.Exit(exit_codes.exit_code(error)) from error
        except KeyboardInterrupt as error:
            raise typer.Exit(exit_codes.INTERRUPTED) from error
        except BrokenPipeError as error:
            raise typer.Exit(exit_codes.leave_pipe_quietly()) from error


app = typer.Typer(
    cls=_Commands,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

_PAGE_WIDTH = 100

Readonly: TypeAlias = Annotated[
    bool, typer.Option("--readonly", help="View only; commands that change the run are disabled.")
]


intervention_commands.register(app)
control_commands.register(app)
recording_commands.register(app)
access_commands.register(app)


def main() -> None:
    """Run the command line and exit."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # do not fail in a locale without these characters
    try:
        app(prog_name="gradscope")
    except KeyboardInterrupt:
        raise SystemExit(exit_codes.INTERRUPTED) from None


@app.callback(invoke_without_command=True)
def gradscope(
    context: typer.Context,
    is_version: Annotated[
        bool, typer.Option("--version", help="Show the version.", is_eager=True)
    ] = False,
) -> None:
    """See what happens inside a PyTorch model while it trains, and change it.

    Without a command: open the only live run, or a list of live runs to choose from.
    """
    if is_version:
        typer.echo(__version__)
    elif context.invoked_subcommand is None:
        _watch(None)


@app.command()
def demo(
    seed: Annotated[int, typer.Option("--seed", help="Random seed.")] = 0,
) -> None:
    """Train a small GPT on real text in its own process, and open it.

    Without a terminal: print a table while it trains, reverse the gradient of one layer, compare the
    effect with a run without gradscope, and end with exit code 0 within a minute.
    """
    from gradscope.cli.demo import run_demo  # noqa: PLC0415 - loads numpy and zmq

    raise typer.Exit(run_demo(seed))


@app.command(
    "run", context_settings={"allow_interspersed_args": False}, options_metavar="[OPTIONS] [-m]"
)
def run_script(
    script: Annotated[
        str, typer.Argument(metavar="SCRIPT", help="The script or, with -m, the module.")
    ],
    arguments: Annotated[
        list[str] | None, typer.Argument(metavar="ARGUMENTS", help="The arguments of the script.")
    ] = None,
    *,
    is_module: Annotated[bool, typer.Option("-m", help="Run a module, as python -m does.")] = False,
    name: Annotated[str | None, typer.Option("--name", help="The name of the run.")] = None,
    layers: Annotated[
        list[str] | None,
        typer.Option("--layers", metavar="PATTERN", help="Observe only these layers. May be repeated."),
    ] = None,
    budget: Annotated[
        float,
        typer.Option(
            "--budget", min=0.0, max=1.0, help="What observing may cost, as a share of the time."
        ),
    ] = 0.02,
    every: Annotated[
        int | None,
        typer.Option("--every", min=1, help="Observe every N-th step, instead of using a budget."),
    ] = None,
    detail: Annotated[
        Literal["core", "full"],
        typer.Option("--detail", help="full also counts zeros, subnormals and exponents."),
    ] = "core",
    record: Annotated[bool, typer.Option("--record/--no-record", help="Keep a recording.")] = True,
    control: Annotated[
        bool, typer.Option("--control/--no-control", help="Let viewers change the run.")
    ] = True,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print nothing on stderr.")] = False,
    children: Annotated[
        bool, typer.Option("--children", help="Also observe the Python processes that it starts.")
    ] = False,
) -> None:
    """Run a training script, unchanged, and attach to the models that its optimizers train.

    Options of gradscope come before the script. The script runs as with python SCRIPT ARGUMENTS: exit code, output
    and results are the same. Under torchrun: torchrun ... -m gradscope run SCRIPT ARGUMENTS
    """
    from gradscope.cli.commands import run_script as command  # noqa: PLC0415 - only this command needs it

    command.run_script(
        script,
        arguments or (),
        is_module=is_module,
        name=name,
        layers=tuple(layers or ()),
        budget=budget,
        every=every,
        detail=detail,
        record=record,
        control=control,
        quiet=quiet,
        follows_children=children,
    )


@app.command()
def watch(
    run: LiveRun = None,
    *,
    once: Annotated[bool, typer.Option("--once", help="Print one table and end.")] = False,
    tab: Annotated[
        str, typer.Option("--tab", metavar="TAB", help="The first tab: layers, findings or memory.")
    ] = "layers",
    readonly: Readonly = False,
    json: Json = False,
    web: Annotated[
        bool,
        typer.Option("--web", help="Show it in a browser, read-only, at an address of this machine."),
    ] = False,
    control: Annotated[
        bool, typer.Option("--control", help="With --web: let the browser change the run.")
    ] = False,
    host: Annotated[
        str, typer.Option("--host", help="With --web: 127.0.0.1 or ::1.", show_default=True)
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option("--port", min=0, max=65535, help="With --web: 0 is any free port.")
    ] = 0,
) -> None:
    """Open a run. Without a terminal, print one table; with --json, what gradscope snapshot prints.

    A run that has ended can be printed if it was recorded.
    """
    if tab not in ("layers", "findings", "memory"):
        raise UsageError(f"expected --tab to be layers, findings or memory, got {tab!r}")
    if not web and (control or port or host != "127.0.0.1"):
        raise UsageError("--control, --host and --port belong to --web; add --web")
    if web and (once or json or (control and readonly)):
        raise UsageError(
            "expected --web without --once and --json, and with --control or --readonly, not with both"
        )
    if json:
        from gradscope.cli.commands.watch import print_as_json  # noqa: PLC0415 - loads zmq

        print_as_json(run)
        return
    if web:
        from gradscope.cli.commands.watch_web import serve_run  # noqa: PLC0415 - loads zmq

        raise typer.Exit(serve_run(run, host=host, port=port, is_control=control, tab=tab))
    _watch(run, is_once=once, is_readonly=readonly, tab=tab)


@app.command()
def ls(
    hub: Annotated[
        str | None,
        typer.Argument(
            metavar="[tcp://HOST:PORT]", help="The runs of another machine.", callback=select_hub
        ),
    ] = None,
    *,
    size: Annotated[
        bool, typer.Option("--size", help="Show the size of each recording, and of all together.")
    ] = False,
    json: Json = False,
) -> None:
    """List live and recorded runs."""
    if hub is not None:
        raise UsageError(f"expected gradscope ls, or gradscope ls tcp://HOST:PORT, got {hub!r}")
    from gradscope.cli.commands.run_list import print_runs  # noqa: PLC0415 - loads zmq and sqlite3

    print_runs(as_json=json, has_sizes=size)


@app.command()
def diagnose(
    run: RunOrRecording,
    json: Json = False,
) -> None:
    """Say what is wrong with a run: the findings, their causes and what to do; and what was not checked.

    The run may be live or have ended. Exit code 0 without a warning or an error, 1 with one, 3 if there is no
    such run.
    """
    from gradscope.cli.commands.diagnose import diagnose as diagnose_run  # noqa: PLC0415 - loads zmq and sqlite3

    raise typer.Exit(diagnose_run(run, as_json=json))


@app.command()
def diff(
    a: Annotated[
        str,
        typer.Argument(metavar="A", help="A run, or the path of a recording; RUN:rank1 is its rank 1."),
    ],
    b: Annotated[str | None, typer.Argument(metavar="B", help="The other run.")] = None,
    ranks: Annotated[
        str | None, typer.Option("--ranks", metavar="I,J", help="Compare two ranks of run A.")
    ] = None,
    rtol: Annotated[
        float | None,
        typer.Option(
            "--rtol", help="Compare statistics, up to this relative difference, and no digests."
        ),
    ] = None,
    first: Annotated[
        int | None, typer.Option("--from", metavar="STEP", help="The first step to compare.")
    ] = None,
    last: Annotated[
        int | None, typer.Option("--to", metavar="STEP", help="The last step to compare.")
    ] = None,
    json: Json = False,
) -> None:
    """Find the first step, pass and layer where two runs differ, and say what may have caused it.

    The runs may be live or have ended; they must be recorded. attach(digest=True, every=1) in both compares each tensor
    of each step bit for bit; otherwise the statistics of the steps that both have observed are compared. Two ranks are
    compared by parameters, their gradients and updates. Exit code 0 if equal, 1 if different, 3 if the runs cannot be
    compared.

    Example: gradscope diff monday tuesday
    """
    from gradscope.cli.commands.diff import diff as diff_runs  # noqa: PLC0415 - loads numpy and sqlite3

    code = diff_runs(a, b, ranks=ranks, rtol=rtol, first_step=first, last_step=last, as_json=json)
    raise typer.Exit(code)


@app.command()
def snapshot(
    run: RunOrRecording,
    around: Annotated[
        int | None,
        typer.Option("--around", metavar="STEP", min=0, help="Default: the newest observed step."),
    ] = None,
    layers: Annotated[
        list[str] | None,
        typer.Option("--layers", metavar="PATTERN", help="Show these layers. May be repeated."),
    ] = None,
    json: Json = False,
) -> None:
    """Print what is needed to judge one step of a run, in under 4,000 tokens.

    The verdict, findings, scalars, interventions and the layers: all of a small model; of a large one those of the
    findings and the extremes. The run may be live or have ended.

    Example: gradscope snapshot RUN --around 500 --json
    """
    from gradscope.cli.commands.snapshot import print_snapshot  # noqa: PLC0415 - loads zmq and sqlite3

    print_snapshot(run, around=around, layers=tuple(layers or ()), as_json=json)


@app.command()
def forward(
    run: RunOrRecording,
    to: Annotated[
        Literal["tensorboard", "wandb", "mlflow", "trackio", "opentelemetry"],
        typer.Option("--to", help="The tracker."),
    ],
    directory: Annotated[
        Path | None,
        typer.Option("--dir", metavar="DIR", help="Where its files go. Default: as the tracker does."),
    ] = None,
    project: Annotated[
        str, typer.Option("--project", help="The project, or the experiment of MLflow.")
    ] = "gradscope",
    name: Annotated[
        str | None, typer.Option("--name", help="Of the run in the tracker. Default: that of the run.")
    ] = None,
    layers: Annotated[
        list[str] | None,
        typer.Option(
            "--layers", metavar="PATTERN", help="Series of these layers, too. May be repeated."
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Forward the numbers and findings of a run to a tracker, until the run ends.

    A process next to the training: it costs the training nothing and cannot harm it.

    Example: gradscope forward RUN --to tensorboard --dir runs
    """
    from gradscope.cli.commands.forward import forward_run  # noqa: PLC0415 - loads zmq and sqlite3
    from gradscope.trackers import Destination  # noqa: PLC0415 - as above

    destination = Destination(to, directory, project, name)
    raise typer.Exit(forward_run(run, destination, layers=tuple(layers or ()), as_json=json))


@app.command()
def mcp(
    control: Annotated[
        bool, typer.Option("--control", help="Add tools that change gradients of a live run.")
    ] = False,
) -> None:
    """Serve runs to an assistant over stdin and stdout, by the Model Context Protocol.

    Tools: list_runs, diagnose, snapshot and layers; with --control, also all interventions. Needs the package mcp.
    """
    from gradscope.errors.requirement import require  # noqa: PLC0415 - only this command needs it

    require("mcp", "2.3")
    from gradscope.cli.commands.mcp_server import serve_stdio  # noqa: PLC0415 - loads mcp

    serve_stdio(may_control=control)


@app.command()
def explain(
    code: Annotated[
        str | None, typer.Argument(metavar="[CODE]", help="The code of a finding. Default: list all.")
    ] = None,
    json: Json = False,
) -> None:
    """Print the page of a finding's code: why it happens, how to confirm it, how to fix it."""
    from gradscope.cli.output import print_json, width  # noqa: PLC0415 - as below
    from gradscope.findings.explanation import (  # noqa: PLC0415 - only this command needs it
        explanation_as_json,
        list_of_codes,
        page_text,
    )

    if json:
        print_json(explanation_as_json(code))
        return
    typer.echo(list_of_codes() if code is None else page_text(code, min(width(), _PAGE_WIDTH)))


@app.command()
def config(json: Json = False) -> None:
    """Show where files and sockets are, and which hub answers."""
    from gradscope.cli.commands.config import print_configuration  # noqa: PLC0415 - loads zmq

    print_configuration(as_json=json)


@app.command()
def doctor(
    file: Annotated[
        str,
        typer.Argument(metavar="FILE.py[:NAME]", help="All Functions of the file, or the named one."),
    ],
    report_format: Annotated[
        Literal["text", "json", "sarif"] | None,
        typer.Option("--format", help="The form of the output; sarif is for editors and forges."),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Short for --format json.")] = False,
    isolate: Annotated[
        bool,
        typer.Option("--isolate", help="Examine in a separate process, in case compiled code crashes."),
    ] = False,
    approximate: Annotated[
        bool,
        typer.Option(
            "--approximate", help="Measure the error of gradients that are approximate by design."
        ),
    ] = False,
    no_second_order: Annotated[
        bool, typer.Option("--no-second-order", help="Do not check second derivatives.")
    ] = False,
    timeout: Annotated[
        float | None,
        typer.Option(
            "--timeout", metavar="SECONDS", help="Time limit for each Function (default: 120)."
        ),
    ] = None,
) -> None:
    """Find errors in the autograd Functions of a file.

    Runs the file. Its function `example_inputs()` returns the inputs. The exit code is 1 if a Function
    has an error.
    """
    from gradscope.cli.commands.doctor import run_doctor  # noqa: PLC0415 - loads torch

    if json and report_format not in (None, "json"):
        raise UsageError(f"expected --json or --format {report_format}, got both; remove one of them")
    code = run_doctor(
        file,
        form="json" if json else report_format or "text",
        is_isolated=isolate,
        approximate=approximate,
        second_order=not no_second_order,
        timeout_s=timeout,
    )
    raise typer.Exit(code)


def _watch(
    run: str | None, *, is_once: bool = False, is_readonly: bool = False, tab: str = "layers"
) -> None:
    from gradscope.cli.commands.watch import watch_run  # noqa: PLC0415 - loads zmq

    raise typer.Exit(watch_run(run, is_once=is_once, is_readonly=is_readonly, tab=tab))
