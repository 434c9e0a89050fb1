"""The two spellings of a CURVE key, and whether libzmq has CURVE at all.

Files and sockets have a key as Z85, in 40 characters; people read and type it as 64 hexadecimal digits, because a shell
gives many characters of Z85 a meaning.
"""

import re
from dataclasses import dataclass, field

import zmq
from zmq.utils import z85

from gradscope.errors import UsageError

__all__ = ["CurveKeys", "require_curve", "to_hex", "to_z85"]

_HEX = re.compile(r"[0-9a-fA-F]{64}")
_Z85 = re.compile(r"[0-9a-zA-Z.\-:+=^!/*?&<>()\[\]{}@%$#]{40}")


@dataclass(frozen=True, slots=True)
class CurveKeys:
    """What a client of a CURVE server needs, as Z85: its own key pair, and the public key of the server."""

    public: str
    secret: str = field(repr=False)
    server: str


def require_curve() -> None:
    """Raise UsageError if this installation of libzmq has no CURVE."""
    if not zmq.has("curve"):
        raise UsageError(
            "expected a libzmq with CurveZMQ for an encrypted connection, but libzmq "
            f"{zmq.zmq_version()} of pyzmq {zmq.__version__} was built without it; install a wheel of pyzmq: "
            "pip install --force-reinstall --only-binary :all: pyzmq"
        )


def to_hex(key: str) -> str:
    """Return a key for people: 64 hexadecimal digits."""
    return z85.decode(key).hex()


def to_z85(text: str) -> str:
    """Return a public key that a person has typed, in either spelling, as Z85. Raises UsageError for anything else."""
    if _HEX.fullmatch(text):
        return z85.encode(bytes.fromhex(text)).decode()
    if _Z85.fullmatch(text):
        return text
    raise UsageError(
        f"expected a public key of 64 hexadecimal digits, as `gradscope key list` prints it, got {text[:80]!r}"
    )
