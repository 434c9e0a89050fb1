"""`connect`: from nothing to a client whose hub has said welcome."""

import os
import socket
import time
import uuid
from typing import Literal

from gradscope._version import __version__
from gradscope.client.client import Client
from gradscope.client.run_selection import find_run, live_runs
from gradscope.errors import IncompatibleError, LinkError, NothingToConnectError
from gradscope.paths import ensure_private_dir
from gradscope.protocol import Hello
from gradscope.transport import HubAddress, hub_address, hub_listens

__all__ = ["connect"]

_POLL_S = 0.005
_RUN_GRACE_S = 1.0


def connect(
    run: str | None = None,
    endpoint: str | None = None,
    *,
    name: str = "script",
    want: Literal["observe", "control"] = "control",
    timeout_s: float = 5.0,
) -> Client:
    """Return a client of the hub at `endpoint` (this user's own by default) that is up.

    `run` names a run; without it the only live one is chosen, now or when one is first needed. `name`
    tells people who it was that changed something; `want="observe"` cannot change anything.

    Raises NothingToConnectError when there is no hub or no run of that name, UnsafePathError when the
    hub's directory is not this user's alone, IncompatibleError when the hub speaks another version, and
    LinkError when it does not answer in `timeout_s`.
    """
    address = hub_address(endpoint)
    _require_hub(address)
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
    client = Client(address.viewers, hello, f"{name} ({user}@{host}, pid {os.getpid()})")
    try:
        _await_welcome(client, address, timeout_s)
        _choose(client, run)
    except BaseException:
        client.close()
        raise
    return client


def _require_hub(address: HubAddress) -> None:
    if address.directory.exists():
        ensure_private_dir(address.directory)
        if hub_listens(address):
            return
    raise NothingToConnectError(
        f"no hub is running at {address.directory}, so nothing is being watched; start a training that "
        "calls gradscope.attach(model), or: gradscope demo"
    )


def _await_welcome(client: Client, address: HubAddress, timeout_s: float) -> None:
    deadline_s = time.monotonic() + timeout_s
    while (link := client.link).phase != "up":
        if link.phase == "refused":
            refusal = IncompatibleError if link.code == "version" else LinkError
            raise refusal(f"the hub at {address.directory} refused: {link.reason}")
        if time.monotonic() > deadline_s:
            raise LinkError(
                f"the hub at {address.directory} did not answer in {timeout_s:g} s: {link.reason}"
            )
        time.sleep(_POLL_S)


def _choose(client: Client, run: str | None) -> None:
    """Set the client's run. One that is just saying hello again to a new hub is waited for a little."""
    runs = client.runs()
    deadline_s = time.monotonic() + _RUN_GRACE_S
    while run is not None and not any(info.run == run for info in runs):
        if time.monotonic() > deadline_s:
            find_run(run, runs)
        time.sleep(_POLL_S * 4)
        runs = client.runs()
    live = live_runs(runs)
    client.run = run if run is not None else (live[0] if len(live) == 1 else None)
