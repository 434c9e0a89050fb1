"""What every message is made of: its root, and the numbers that its fields may hold."""

from typing import Annotated, TypeAlias

import msgspec

__all__ = ["Rate", "TaggedMessage", "Whole"]

Whole: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
"""A count, an index or a revision. What comes over the link outside of this range is no message."""

Rate: TypeAlias = Annotated[float, msgspec.Meta(gt=0)]
"""So many a second."""


class TaggedMessage(msgspec.Struct, frozen=True, tag_field="t"):
    """The root of all messages: frozen, tagged by `t`."""
