"""The commands for watching over a network: `serve`, and the group `key`."""

from typing import Annotated, Literal

import typer

from gradscope.cli.options import Json

__all__ = ["register"]

_keys = typer.Typer(add_completion=False, rich_markup_mode=None, no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Add these commands to the command line."""
    app.command()(serve)
    for name, function in (
        ("new", new_key),
        ("list", list_keys),
        ("authorize", authorize_key),
        ("revoke", revoke_key),
    ):
        _keys.command(name)(function)
    app.add_typer(_keys, name="key", help="Make, list, authorize and revoke keys of remote viewers.")


def serve(
    bind: Annotated[
        str,
        typer.Option(
            "--bind", metavar="tcp://HOST:PORT", help="Where to listen. Port 0 is any free port."
        ),
    ],
    json: Json = False,
) -> None:
    """Let viewers on other machines watch the runs of this one, until Ctrl+C; those with an authorized key only.

    All traffic is encrypted with CurveZMQ. To watch over ssh instead, nothing needs to listen: ssh -t HOST gradscope

    Example: gradscope serve --bind tcp://0.0.0.0:5711
    """
    from gradscope.cli.commands.serve import serve as serve_viewers  # noqa: PLC0415 - loads zmq

    raise typer.Exit(serve_viewers(bind, as_json=json))


def new_key(
    name: Annotated[str, typer.Argument(metavar="[NAME]", help="A name for the key.")] = "viewer",
    json: Json = False,
) -> None:
    """Make a key of your own, to watch runs of other machines.

    If there are several, GRADSCOPE_KEY=NAME chooses one.
    """
    from gradscope.cli.commands.keys import make_key  # noqa: PLC0415 - loads zmq

    make_key(name, as_json=json)


def list_keys(json: Json = False) -> None:
    """List your keys, and the keys that are authorized on this machine."""
    from gradscope.cli.commands import keys  # noqa: PLC0415 - loads zmq

    keys.list_keys(as_json=json)


def authorize_key(
    key: Annotated[str, typer.Argument(metavar="PUBLICKEY", help="64 hexadecimal digits.")],
    name: Annotated[str | None, typer.Option("--name", help="A name for the viewer's key.")] = None,
    role: Annotated[
        Literal["observe", "control", "forward"] | None,
        typer.Option(
            "--role",
            help="observe (default): watch runs; control: also change; forward: a hub of another node.",
        ),
    ] = None,
    server: Annotated[
        str | None,
        typer.Option(
            "--server", metavar="tcp://HOST:PORT", help="It is the key of this server, which you watch."
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Authorize the key of a viewer on this machine, or trust the key of a server that you watch.

    Example: gradscope key authorize PUBLICKEY --name laptop --role control
    """
    from gradscope.cli.commands import keys  # noqa: PLC0415 - loads zmq

    keys.authorize_key(key, name=name, role=role, server=server, as_json=json)


def revoke_key(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A name, a server's address, or a key.")],
    json: Json = False,
) -> None:
    """Revoke an authorized key. It also ends the connections that it has."""
    from gradscope.cli.commands import keys  # noqa: PLC0415 - loads zmq

    keys.revoke_key(name, as_json=json)
