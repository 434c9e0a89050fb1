"""Whole tensors, sent to the viewer that asked for them and to nobody else."""

from gradscope.protocol.fields import TaggedMessage, Whole

__all__ = ["Captured"]


class Captured(TaggedMessage, frozen=True, kw_only=True, tag="captured"):
    """One tensor that was captured. The body holds its elements, little-endian and in C order."""

    command: bytes
    run: str
    rank: Whole
    step: Whole
    layer: str
    what: str
    name: str = ""
    index: Whole = 0
    count: Whole = 1
    dtype: str = "float32"
    shape: tuple[Whole, ...] = ()
    full_shape: tuple[Whole, ...] = ()
    note: str = ""
    body: bytes = b""
