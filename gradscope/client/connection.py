"""`connect`: creates a client and waits for the handshake with the hub."""

import os
import socket
import time
import uuid
from collections.abc import Callable
from typing import Literal

from gradscope._version import __version__
from gradscope.access import CurveKeys, own_key, require_curve, server_key
from gradscope.client.client import Client
from gradscope.client.run_selection import find_run, live_runs
from gradscope.errors import IncompatibleError, LinkError, NothingToConnectError
from gradscope.paths import ensure_private_dir
from gradscope.protocol import Hello
from gradscope.transport import HubAddress, hub_address, hub_listens, split_target

__all__ = ["connect"]

_REFUSALS = {"version": IncompatibleError, "run": NothingToConnectError}
_POLL_S = 0.005
_START_S = 2.0
"""How long to wait for a run that is starting or is reconnecting to a new hub, in seconds."""


def connect(
    run: str | None = None,
    endpoint: str | None = None,
    *,
    name: str = "script",
    want: Literal["observe", "control"] = "control",
    timeout_s: float = 5.0,
    on_arrival: Callable[[], object] | None = None,
) -> Client:
    """Connect to the hub at `endpoint` (default: the hub of this user) and return the client.

    run: the name of a run. Default: the only live run, chosen now or when it is first needed. A run on another
        machine, where `gradscope serve` runs, is tcp://HOST:PORT/RUN, or tcp://HOST:PORT for the only live one.
    name: shown to users next to the changes that this client makes.
    want: with "observe", the client cannot change anything.
    on_arrival: for user interfaces; see `Client`.

    Raises NothingToConnectError if there is no hub or no run with that name, UnsafePathError if other
    users have access to the hub's directory or to a key, IncompatibleError if the hub uses another protocol
    version, UsageError if a key is missing, and LinkError if the hub refuses the key or does not answer
    within `timeout_s`.
    """
    remote, run = split_target(run)
    address = hub_address(remote or endpoint)
    deadline_s = time.monotonic() + (0.0 if run is None else _START_S)
    keys = _remote_keys(address) if address.is_remote else None
    if keys is None:
        _require_hub(address, deadline_s)
    user = os.environ.get("USER") or str(os.getuid())
    host = socket.gethostname()
    hello = Hello(
        role="viewer",
        peer=uuid.uuid4().hex,
        version=__version__,
        want=want,
        pid=os.getpid(),
        host=host,
        user=user,
        script=name,
        started_s=time.time(),
    )
    set_by = f"{name} ({user}@{host}, pid {os.getpid()})"
    client = Client(address.viewers, hello, set_by, on_arrival, keys)
    try:
        _await_welcome(client, address, timeout_s)
        _choose(client, run, deadline_s)
    except BaseException:
        client.close()
        raise
    return client


def _remote_keys(address: HubAddress) -> CurveKeys:
    require_curve()
    pair = own_key()
    return CurveKeys(pair.public, pair.secret, server_key(address.viewers))


def _require_hub(address: HubAddress, deadline_s: float) -> None:
    while True:
        if address.directory.exists():
            ensure_private_dir(address.directory)
            if hub_listens(address):
                return
        if time.monotonic() >= deadline_s:
            break
        time.sleep(_POLL_S * 4)
    raise NothingToConnectError(
        f"no hub is running at {address.directory}, so there is no run to watch; start one with: "
        "gradscope run train.py, or: gradscope demo"
    )


def _await_welcome(client: Client, address: HubAddress, timeout_s: float) -> None:
    deadline_s = time.monotonic() + timeout_s
    while (link := client.link).phase != "up":
        if link.phase == "refused":
            error = _REFUSALS.get(link.code, LinkError)
            raise error(f"the hub at {address.place} refused: {link.reason}")
        if time.monotonic() > deadline_s:
            raise LinkError(
                f"the hub at {address.place} did not answer in {timeout_s:g} s: {link.reason}"
            )
        time.sleep(_POLL_S)


def _choose(client: Client, run: str | None, deadline_s: float) -> None:
    """Set the client's run. Waits for the named run until `deadline_s`."""
    runs = client.runs()
    while run is not None and not any(info.run == run for info in runs):
        if time.monotonic() > deadline_s:
            find_run(run, runs)
        time.sleep(_POLL_S * 4)
        runs = client.runs()
    live = live_runs(runs)
    client.run = run if run is not None else (live[0] if len(live) == 1 else None)
