"""The arguments and options that several commands share."""

from typing import Annotated, TypeAlias

import typer

from gradscope.cli.connection import named_run, select_hub

__all__ = ["Json", "LiveRun", "Run", "RunOrRecording", "Timeout"]

Run: TypeAlias = Annotated[
    str,
    typer.Argument(
        metavar="RUN",
        help="The run's name, as `gradscope ls` shows it; tcp://HOST:PORT/RUN on another machine.",
        callback=named_run,
    ),
]
RunOrRecording: TypeAlias = Annotated[
    str,
    typer.Argument(
        metavar="RUN",
        help="A run, or the path of a recording; tcp://HOST:PORT/RUN on another machine.",
        callback=named_run,
    ),
]
LiveRun: TypeAlias = Annotated[
    str | None,
    typer.Argument(
        metavar="[RUN]",
        help="Default: the only live run. On another machine: tcp://HOST:PORT or tcp://HOST:PORT/RUN.",
        callback=select_hub,
    ),
]
Json: TypeAlias = Annotated[bool, typer.Option("--json", help="Output JSON.")]
Timeout: TypeAlias = Annotated[
    float,
    typer.Option("--timeout", metavar="SECONDS", help="How long to wait for the end of the step."),
]
