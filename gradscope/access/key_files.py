"""The key pairs of this user, one file each, with the field names of Jupyter's connection files."""

import os
import re
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import zmq

from gradscope.access.private_file import private_dir, read_private, write_private
from gradscope.access.public_keys import require_curve
from gradscope.errors import UnsafePathError, UsageError

__all__ = ["KeyPair", "check_name", "new_key_pair", "own_key", "own_keys", "own_server_key"]

_SUFFIX = ".key"
_SERVER = "server"
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A key pair of this user, as Z85, and its file."""

    name: str
    public: str
    secret: str = field(repr=False)
    path: Path


class _File(msgspec.Struct, frozen=True):
    curve_publickey: str
    curve_secretkey: str


def check_name(name: str) -> None:
    """Raise UsageError if a key cannot have this name."""
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"expected a name of at most 64 characters out of A-Z, a-z, 0-9, '.', '_' and '-' for a key, got {name!r}"
        )


def new_key_pair(name: str) -> KeyPair:
    """Make a key pair and write its file. Raises UsageError if this user has a key of that name."""
    check_name(name)
    require_curve()
    path = private_dir() / f"{name}{_SUFFIX}"
    public, secret = (key.decode() for key in zmq.curve_keypair())
    content = msgspec.json.encode(_File(curve_publickey=public, curve_secretkey=secret))
    if not write_private(path, content + b"\n", may_replace=False):
        raise UsageError(
            f"a key named {name!r} exists at {path}; choose another name: gradscope key new NAME"
        )
    return KeyPair(name, public, secret, path)


def own_keys() -> list[KeyPair]:
    """Return the key pairs of this user, by name. Raises UnsafePathError for a file that others can read."""
    return [_read(path) for path in sorted(private_dir().glob(f"*{_SUFFIX}"))]


def own_key() -> KeyPair:
    """Return the key pair of a viewer: the one that $GRADSCOPE_KEY names, otherwise the only one.

    Raises UsageError if there is none, or several.
    """
    keys = [key for key in own_keys() if key.name != _SERVER]
    wanted = os.environ.get("GRADSCOPE_KEY")
    found = [key for key in keys if wanted in (None, "", key.name)]
    if len(found) == 1:
        return found[0]
    names = ", ".join(key.name for key in keys)
    if wanted:
        raise UsageError(
            f"there is no key named {wanted!r}, as GRADSCOPE_KEY says; keys: {names or 'none'}"
        )
    if found:
        raise UsageError(
            f"several keys could be used ({names}); choose one: export GRADSCOPE_KEY={found[0].name}"
        )
    raise UsageError(
        "there is no key yet on this machine; make one: gradscope key new, and authorize it on the other machine"
    )


def own_server_key(*, may_create: bool) -> KeyPair:
    """Return the key pair of this machine's `gradscope serve`. Raises UsageError if it does not exist and may not."""
    path = private_dir() / f"{_SERVER}{_SUFFIX}"
    if may_create and not path.exists():
        return new_key_pair(_SERVER)
    if read_private(path) is None:
        raise UsageError(
            "expected a key of this server, which the first `gradscope key authorize` makes, found none at "
            f"{path}; on the other machine: gradscope key new; here: gradscope key authorize PUBLICKEY --name NAME"
        )
    return _read(path)


def _read(path: Path) -> KeyPair:
    content = read_private(path)
    try:
        found = msgspec.json.decode(content or b"", type=_File)
        public = zmq.curve_public(found.curve_secretkey.encode()).decode()
    except (msgspec.MsgspecError, ValueError, zmq.ZMQError) as error:
        raise UnsafePathError(
            f"{path} is not a key file ({error}); remove it, or make it again with: gradscope key new"
        ) from None
    if public != found.curve_publickey:
        raise UnsafePathError(
            f"the public key in {path} is not that of its secret key; remove it and make a new one"
        )
    return KeyPair(path.name.removesuffix(_SUFFIX), public, found.curve_secretkey, path)
