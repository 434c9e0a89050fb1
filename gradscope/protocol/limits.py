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
"""The maximum size of a message part; libzmq drops larger parts silently."""

PART_LIMIT_COUNT = 64
"""The maximum number of parts of one message, including the head."""

HEAD_LIMIT_BYTES = PART_LIMIT_BYTES
"""The maximum size of the head. It limits all strings, arrays and maps in the head."""

BODY_LIMIT_BYTES = PART_LIMIT_BYTES * (PART_LIMIT_COUNT - 1)
"""The maximum size of the body, over all its parts."""

HISTOGRAM_ROWS_LIMIT = 131_072
"""The maximum number of rows of a step with a histogram, because two bytes of a body can declare a row,
which takes 1 kB of memory."""
