"""Connects a client to the run that a command names, on this machine or on another one."""

import os
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from gradscope.client import Client

__all__ = ["connect_to", "named_run", "select_hub", "typed_run"]


def connect_to(run: str, *, want: Literal["observe", "control"] = "control") -> "Client":
    """Return a client of the run. Raises NothingToConnectError with similar names if it does not exist."""
    from gradscope.client import connect  # noqa: PLC0415 - loads zmq, which --help must not

    return connect(run, want=want, name="the command line")


def select_hub(target: str | None) -> str | None:
    """Return the run of `tcp://HOST:PORT[/RUN]`, and connect this command to the hub there; other names are runs."""
    if target is None or not target.startswith("tcp://"):
        return target
    from gradscope.transport import hub_address, split_target  # noqa: PLC0415 - as above

    endpoint, run = split_target(target)
    os.environ["GRADSCOPE_HUB"] = hub_address(endpoint).viewers
    return run


def typed_run(run: str) -> str:
    """Return what a user must type for this run: with the address of the hub if that is on another machine."""
    hub = os.environ.get("GRADSCOPE_HUB", "")
    return f"{hub}/{run}" if hub.startswith("tcp://") else run


def named_run(target: str) -> str:
    """Return the name of the run in `target`; for `tcp://HOST:PORT` alone, the only live run there."""
    run = select_hub(target)
    if run is not None:
        return run
    from gradscope.client import connect, only_live_run  # noqa: PLC0415 - as above

    with connect(want="observe", name="the command line") as client:
        return only_live_run(client.runs())
