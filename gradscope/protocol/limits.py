"""The limits of the link. A sender observes them; a receiver rejects larger messages."""

__all__ = [
    "BODY_LIMIT_BYTES",
    "HEAD_LIMIT_BYTES",
    "HISTOGRAM_ROWS_LIMIT",
    "PART_LIMIT_BYTES",
    "PART_LIMIT_COUNT",
    "PROTOCOL_VERSION",
]

PROTOCOL_VERSION = 1
"""Both ends of a link must have the same version."""

PART_LIMIT_BYTES = 256 * 1024
"""The longest part of a message on the wire; libzmq drops larger ones silently."""

PART_LIMIT_COUNT = 64
"""The most parts of one message, its head included."""

HEAD_LIMIT_BYTES = PART_LIMIT_BYTES
"""The longest head. It bounds all strings, arrays and maps in it."""

BODY_LIMIT_BYTES = PART_LIMIT_BYTES * (PART_LIMIT_COUNT - 1)
"""The longest body, over all its parts."""

HISTOGRAM_ROWS_LIMIT = 131_072
"""The most rows of a step with a histogram: two bytes of a body can claim a row, which takes 1 kB."""
