"""The public keys that are authorized here: of viewers, each with a role, and of the servers that this user watches."""

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, TypeAlias

import msgspec

from gradscope.access.key_files import check_name
from gradscope.access.private_file import private_dir, read_private, stamp, write_private
from gradscope.access.public_keys import to_hex
from gradscope.errors import UnsafePathError, UsageError

__all__ = ["AuthorizedKey", "AuthorizedKeys", "Role", "ViewerRole", "authorize", "revoke", "server_key"]

ViewerRole: TypeAlias = Literal["observe", "control", "forward"]
"""What a peer with this key may do: watch runs, also change them, or forward the runs of another node's hub."""

Role: TypeAlias = Literal["observe", "control", "forward", "server"]
"""The role of a viewer's key; or "server", for the key of a server that this user watches."""

_FILE = "authorized.json"


class AuthorizedKey(msgspec.Struct, frozen=True):
    """A public key as Z85. `name` is chosen here; that of a server is its address, `tcp://HOST:PORT`."""

    name: str
    role: Role
    curve_publickey: str
    authorized_s: float


class _File(msgspec.Struct, frozen=True):
    keys: tuple[AuthorizedKey, ...] = ()


class AuthorizedKeys:
    """The authorized keys, read again whenever their file has changed. Thread-safe.

    All methods raise UnsafePathError if the file or its directory is not private to this user, or not readable.
    """

    def __init__(self) -> None:
        self._path = private_dir() / _FILE
        self._read: tuple[object, tuple[AuthorizedKey, ...]] | None = None

    def all(self) -> tuple[AuthorizedKey, ...]:
        """Return the keys of viewers and servers."""
        now = stamp(self._path)
        read = self._read
        if read is None or read[0] != now:
            read = self._read = (now, _load(self._path))
        return read[1]

    def viewer(self, public: str) -> AuthorizedKey | None:
        """Return the authorized key of a viewer; None if it was never authorized or has been revoked."""
        return next((k for k in self.all() if k.curve_publickey == public and k.role != "server"), None)


def authorize(name: str, public: str, role: Role) -> AuthorizedKey:
    """Authorize a public key (Z85) under a name. A known name with the same key gets the new role.

    Raises UsageError if the name belongs to another key, or the key to another name.
    """
    if role != "server":
        check_name(name)
    key = AuthorizedKey(name, role, public, time.time())
    with _changed() as keys:
        for other in keys:
            is_other_name = other.name != name and role != "server" and other.role != "server"
            if other.name == name and other.curve_publickey != public:
                raise UsageError(
                    f"another key is authorized as {name} ({to_hex(other.curve_publickey)}) and is not replaced; "
                    f"if that is intended, first: gradscope key revoke {name}"
                )
            if other.curve_publickey == public and is_other_name:
                raise UsageError(f"this key is already authorized as {other.name}; use that name")
        keys[:] = [*(other for other in keys if other.name != name), key]
    return key


def revoke(name: str) -> AuthorizedKey:
    """Revoke a key by its name or by the key itself (Z85), and return it. Raises UsageError if there is none."""
    with _changed() as keys:
        found = [key for key in keys if name in (key.name, key.curve_publickey)]
        if not found:
            known = ", ".join(key.name for key in keys) or "none"
            raise UsageError(f"no key named {name!r} is authorized; authorized: {known}")
        keys[:] = [key for key in keys if key not in found]
    return found[0]


def server_key(address: str) -> str:
    """Return the authorized public key of the server at `tcp://HOST:PORT`. Raises UsageError if there is none."""
    for key in AuthorizedKeys().all():
        if key.role == "server" and key.name == address:
            return key.curve_publickey
    raise UsageError(
        f"the key of the server at {address} is not authorized on this machine; `gradscope serve` and "
        f"`gradscope key list` print it there; here, once: gradscope key authorize PUBLICKEY --server {address}"
    )


def _load(path: Path) -> tuple[AuthorizedKey, ...]:
    private_dir()  # checks the directory
    content = read_private(path)
    if content is None:
        return ()
    try:
        return msgspec.json.decode(content, type=_File).keys
    except msgspec.MsgspecError as error:
        raise UnsafePathError(
            f"{path} cannot be read ({error}); remove it, and authorize the keys again"
        ) from None


@contextlib.contextmanager
def _changed() -> Iterator[list[AuthorizedKey]]:
    """Yield the keys as a list to change, and write it; one process at a time."""
    path = private_dir() / _FILE
    lock = os.open(path.parent, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        keys = list(_load(path))
        yield keys
        content = msgspec.json.format(msgspec.json.encode(_File(keys=tuple(keys))))
        write_private(path, content + b"\n", may_replace=True)
    finally:
        os.close(lock)
