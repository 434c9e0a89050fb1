"""Encodes messages as parts of bytes, and decodes them. Decoding is bounded and never executes received data.

The head is decoded directly into its type. A generic decoder would first build all objects that the
bytes claim to contain: five kilobytes of nested array headers would take 70 ms and 67 MB; here they
take microseconds.
"""

from collections.abc import Sequence
from typing import TypeAlias

import msgspec

from gradscope.errors import ProtocolError, UsageError
from gradscope.protocol.control import Ack, Command, Interventions
from gradscope.protocol.limits import (
    BODY_LIMIT_BYTES,
    HEAD_LIMIT_BYTES,
    PART_LIMIT_BYTES,
    PART_LIMIT_COUNT,
)
from gradscope.protocol.links import (
    Backfill,
    Bye,
    Credit,
    Heartbeat,
    Hello,
    Refusal,
    Runs,
    Skipped,
    Subscribe,
    Welcome,
    Who,
)
from gradscope.protocol.stream import (
    Captured,
    Environment,
    Event,
    Manifest,
    Memory,
    RankStates,
    Scalars,
    Step,
    Times,
)

__all__ = ["WITH_BODY", "Message", "decode", "encode"]

_LinkMessage: TypeAlias = (
    Hello | Welcome | Who | Refusal | Subscribe | Credit | Skipped | Backfill | Runs | Heartbeat | Bye
)
Message: TypeAlias = (
    _LinkMessage
    | Manifest
    | Environment
    | Step
    | Memory
    | Times
    | Scalars
    | Event
    | RankStates
    | Captured
    | Interventions
    | Command
    | Ack
)
"""A message of the link; README.md in this folder specifies each.

A field that is added later must have a default, so that messages of older peers can still be decoded.
Unknown fields are ignored. Any other change requires a new PROTOCOL_VERSION.
"""

WITH_BODY = (Captured, Manifest, Memory, Step, Times)
"""The messages with a body, which follows the head in pieces."""

_HEAD: msgspec.msgpack.Decoder[Message] = msgspec.msgpack.Decoder(Message)


def encode(message: Message) -> list[bytes]:
    """Return a message as parts: a msgpack head, then its body in pieces of at most 256 kB.

    Raises UsageError if the message exceeds the limits of the link, or if msgpack cannot encode the
    value of a field: a lone surrogate, an integer beyond 64 bits, an object of another type.
    """
    body = b""
    if isinstance(message, WITH_BODY):
        body = message.body
        message = msgspec.structs.replace(message, body=b"")
    head = _encode_head(message)
    if len(head) > HEAD_LIMIT_BYTES or len(body) > BODY_LIMIT_BYTES:
        raise UsageError(
            f"a {type(message).__name__} of {len(head)} + {len(body)} bytes is larger than the "
            f"link's limits of {HEAD_LIMIT_BYTES} + {BODY_LIMIT_BYTES}"
        )
    pieces = [body[i : i + PART_LIMIT_BYTES] for i in range(0, len(body), PART_LIMIT_BYTES)]
    return [head, *pieces]


def decode(parts: Sequence[bytes]) -> Message:
    """Decode a message. Raises ProtocolError, and no other error, if `parts` are not a message."""
    if not 1 <= len(parts) <= PART_LIMIT_COUNT:
        raise ProtocolError(f"expected 1 to {PART_LIMIT_COUNT} parts, got {len(parts)}")
    longest = max(len(part) for part in parts)
    if longest > PART_LIMIT_BYTES:
        raise ProtocolError(f"a part has {longest} bytes, the limit is {PART_LIMIT_BYTES}")
    message = _decode_head(parts[0])
    if len(parts) == 1:
        return message
    if not isinstance(message, WITH_BODY):
        raise ProtocolError(f"a {type(message).__name__} has no body, got {len(parts)} parts")
    return msgspec.structs.replace(message, body=b"".join(parts[1:]))


def _encode_head(message: Message) -> bytes:
    try:
        return msgspec.msgpack.encode(message)
    except (ValueError, TypeError, OverflowError) as error:
        raise UsageError(f"a {type(message).__name__} cannot be sent: {error}") from error


def _decode_head(head: bytes) -> Message:
    try:
        return _HEAD.decode(head)
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"these {len(head)} bytes are not a message: {error}") from error
