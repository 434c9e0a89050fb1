"""Addresses of the hub's sockets. Does not access the file system."""

import os
import re
from dataclasses import dataclass
from pathlib import Path

from gradscope.errors import UsageError
from gradscope.paths import runtime_dir

__all__ = ["HubAddress", "hub_address", "split_target"]

_SCHEME = "ipc://"
_REMOTE = "tcp://"
_HOST_AND_PORT = re.compile(r"tcp://(\[[0-9A-Fa-f:.%]+\]|[^\s/:*\[\]]+):([0-9]{1,5})")


@dataclass(frozen=True, slots=True)
class HubAddress:
    """A hub's two sockets, as libzmq endpoints: `ipc:///…/agents.sock` and `ipc:///…/viewers.sock`.

    A hub on another machine has only `viewers`, `tcp://HOST:PORT`: there is `gradscope serve`.
    """

    agents: str
    viewers: str

    @property
    def is_remote(self) -> bool:
        """Whether this is the address of `gradscope serve`, so that its recordings are on another machine."""
        return self.viewers.startswith(_REMOTE)

    @property
    def place(self) -> str:
        """The runtime directory, or the remote address; for messages."""
        return self.viewers if self.is_remote else str(self.directory)

    @property
    def directory(self) -> Path:
        """The runtime directory that holds the sockets, the locks and the log."""
        return self.viewers_path.parent

    @property
    def agents_path(self) -> Path:
        """The path of the agents' socket."""
        return Path(self.agents.removeprefix(_SCHEME))

    @property
    def viewers_path(self) -> Path:
        """The path of the viewers' socket. Raises UsageError for a hub on another machine."""
        if self.is_remote:
            raise UsageError(
                f"{self.viewers} is for viewers only, and this needs the hub of this machine: unset "
                "GRADSCOPE_HUB, or set it to a runtime directory"
            )
        return Path(self.viewers.removeprefix(_SCHEME))


def hub_address(endpoint: str | None = None) -> HubAddress:
    """Return the address of the hub at `endpoint`, or $GRADSCOPE_HUB, or the default hub of this user.

    An endpoint is the path of a runtime directory, or `ipc://` followed by the path, or for viewers
    `tcp://HOST:PORT`. Raises UsageError for anything else.
    """
    chosen = endpoint or os.environ.get("GRADSCOPE_HUB") or str(runtime_dir())
    if chosen.startswith(_REMOTE):
        found = _HOST_AND_PORT.fullmatch(chosen)
        if found is None or not 0 < int(found[2]) < 65536:
            raise UsageError(
                f"expected tcp://HOST:PORT, as `gradscope serve` prints it, got {chosen!r}"
            )
        return HubAddress("", chosen)
    scheme, separator, _ = chosen.partition("://")
    if separator and scheme != "ipc":
        raise UsageError(
            f"cannot connect to {chosen!r}: expected a runtime directory, ipc://DIRECTORY or tcp://HOST:PORT"
        )
    directory = Path(chosen.removeprefix(_SCHEME)).expanduser().absolute()
    return HubAddress(f"{_SCHEME}{directory}/agents.sock", f"{_SCHEME}{directory}/viewers.sock")


def split_target(target: str | None) -> tuple[str | None, str | None]:
    """Split `tcp://HOST:PORT[/RUN]` into endpoint and run; a run alone has no endpoint."""
    if target is None or not target.startswith(_REMOTE):
        return None, target
    host, _, run = target.removeprefix(_REMOTE).partition("/")
    return _REMOTE + host, run or None
