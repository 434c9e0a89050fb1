"""The limits of the link. A sender keeps below them; a receiver refuses what is above."""

__all__ = [
    "BODY_LIMIT_BYTES",
    "HEAD_LIMIT_BYTES",
    "HISTOGRAM_ROWS_LIMIT",
    "PART_LIMIT_BYTES",
    "PART_LIMIT_COUNT",
    "PROTOCOL_VERSION",
]

PROTOCOL_VERSION = 1
"""Both sides of a link must have the same."""

PART_LIMIT_BYTES = 256 * 1024
"""The longest part of a message on the wire; libzmq drops an oversized one without a word."""

PART_LIMIT_COUNT = 64
"""The most parts of one message, its head included."""

HEAD_LIMIT_BYTES = PART_LIMIT_BYTES
"""The longest head. It bounds all that a head can claim: strings, arrays and maps lie within it."""

BODY_LIMIT_BYTES = PART_LIMIT_BYTES * (PART_LIMIT_COUNT - 1)
"""The longest body, over all its parts."""

HISTOGRAM_ROWS_LIMIT = 131_072
"""The most rows of a step with a histogram: two bytes of a body could claim a row, which takes 1 kB."""
