"""Messages of where memory and time went in a run, layer by layer."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import msgspec

from gradscope.protocol.fields import TaggedMessage, Whole

if TYPE_CHECKING:
    from gradscope.columns import MemoryTable, TimesTable

__all__ = ["Memory", "Times"]


class Memory(TaggedMessage, frozen=True, kw_only=True, tag="memory"):
    """Where the memory went in one step. The body holds the columns of its layers."""

    run: str
    rank: Whole
    step: Whole
    time_s: float
    manifest_revision: Whole
    rows: Whole
    columns: tuple[tuple[str, str], ...]
    zero: tuple[str, ...] = ()
    balance: dict[str, Whole] = msgspec.field(default_factory=dict)
    machine: dict[str, Whole] = msgspec.field(default_factory=dict)
    notes: tuple[str, ...] = ()
    body: bytes = b""

    def table(self, layers: Sequence[str]) -> "MemoryTable":
        """Decode it as a table of the manifest's layers.

        Raises ProtocolError when the body does not fit the head, UsageError for other layers.
        """
        from gradscope.protocol.resource_bodies import unpack_memory  # noqa: PLC0415 - loads NumPy

        return unpack_memory(self, layers)


class Times(TaggedMessage, frozen=True, kw_only=True, tag="times"):
    """Where the time went in one step. The body holds the columns of its layers."""

    run: str
    rank: Whole
    step: Whole
    time_s: float
    manifest_revision: Whole
    rows: Whole
    columns: tuple[tuple[str, str], ...]
    zero: tuple[str, ...] = ()
    phases_s: dict[str, float] = msgspec.field(default_factory=dict)
    clock: Literal["host", "device"] = "host"
    is_observed: bool = False
    notes: tuple[str, ...] = ()
    body: bytes = b""

    def table(self, layers: Sequence[str]) -> "TimesTable":
        """Decode it as a table of the manifest's layers; raises as `Memory.table`."""
        from gradscope.protocol.resource_bodies import unpack_times  # noqa: PLC0415 - loads NumPy

        return unpack_times(self, layers)
