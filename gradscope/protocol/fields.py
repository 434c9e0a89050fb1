"""The base class of all messages, and the numeric types of their fields."""

from typing import Annotated, TypeAlias

import msgspec

__all__ = ["Rate", "TaggedMessage", "Whole"]

Whole: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
"""A non-negative integer: a count, an index or a revision. A message with a value out of range is refused."""

Rate: TypeAlias = Annotated[float, msgspec.Meta(gt=0)]
"""A frequency in hertz, above 0."""


class TaggedMessage(msgspec.Struct, frozen=True, tag_field="t"):
    """The base class of all messages: frozen, with the message type in the field `t`."""
