"""The arguments and options that several commands share."""

from typing import Annotated, TypeAlias

import typer

__all__ = ["Json", "Run", "Timeout"]

Run: TypeAlias = Annotated[
    str, typer.Argument(metavar="RUN", help="The run's name, as `gradscope ls` shows it.")
]
Json: TypeAlias = Annotated[bool, typer.Option("--json", help="Output JSON.")]
Timeout: TypeAlias = Annotated[
    float,
    typer.Option("--timeout", metavar="SECONDS", help="How long to wait for the end of the step."),
]
