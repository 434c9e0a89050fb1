"""Addresses of the hub's sockets. Does not access the file system."""

import os
from dataclasses import dataclass
from pathlib import Path

from gradscope.errors import UsageError
from gradscope.paths import runtime_dir

__all__ = ["HubAddress", "hub_address"]

_SCHEME = "ipc://"


@dataclass(frozen=True, slots=True)
class HubAddress:
    """A hub's two sockets, as libzmq endpoints: `ipc:///…/agents.sock` and `ipc:///…/viewers.sock`."""

    agents: str
    viewers: str

    @property
    def directory(self) -> Path:
        """The runtime directory that holds the sockets, the locks and the log."""
        return self.agents_path.parent

    @property
    def agents_path(self) -> Path:
        """The path of the agents' socket."""
        return Path(self.agents.removeprefix(_SCHEME))

    @property
    def viewers_path(self) -> Path:
        """The path of the viewers' socket."""
        return Path(self.viewers.removeprefix(_SCHEME))


def hub_address(endpoint: str | None = None) -> HubAddress:
    """Return the address of the hub at `endpoint`, or $GRADSCOPE_HUB, or the default hub of this user.

    An endpoint is the path of a runtime directory, or `ipc://` followed by the path. Raises UsageError
    for any other scheme.
    """
    chosen = endpoint or os.environ.get("GRADSCOPE_HUB") or str(runtime_dir())
    scheme, separator, _ = chosen.partition("://")
    if separator and scheme != "ipc":
        raise UsageError(
            f"cannot connect to {chosen!r}: expected a runtime directory or ipc://DIRECTORY; "
            "to watch a run on another machine: ssh -t HOST gradscope"
        )
    directory = Path(chosen.removeprefix(_SCHEME)).expanduser().absolute()
    return HubAddress(f"{_SCHEME}{directory}/agents.sock", f"{_SCHEME}{directory}/viewers.sock")
