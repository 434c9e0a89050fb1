"""Connects a client to the run that a command names."""

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from gradscope.client import Client

__all__ = ["connect_to"]


def connect_to(run: str, *, want: Literal["observe", "control"] = "control") -> "Client":
    """Return a client of the run. Raises NothingToConnectError with similar names if it does not exist."""
    from gradscope.client import connect  # noqa: PLC0415 - loads zmq, which --help must not

    return connect(run, want=want, name="the command line")
