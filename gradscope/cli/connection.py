"""Connects a client to the run that a command names."""

from typing import Literal

from gradscope.client import Client, connect

__all__ = ["connect_to"]


def connect_to(run: str, *, want: Literal["observe", "control"] = "control") -> Client:
    """Return a client of the run. Raises NothingToConnectError with similar names if it does not exist."""
    return connect(run, want=want, name="the command line")
