"""The commands for the recordings on disk: rm, pin, unpin. Their code is loaded when one runs."""

from typing import Annotated, TypeAlias

import typer

from gradscope.cli.options import Json

__all__ = ["register"]

_Runs: TypeAlias = Annotated[
    list[str], typer.Argument(metavar="RUN...", help="Runs that have ended, or paths of recordings.")
]


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    for command in (rm, pin, unpin):
        app.command()(command)


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
