"""Builds the messages with measured memory and times."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from gradscope.columns import MemoryTable, TimesTable
from gradscope.protocol import Hello, Memory, Times
from gradscope.protocol.bodies import pack_memory, pack_times

__all__ = ["MeasuredLayers", "resource_message"]


@dataclass(frozen=True, slots=True)
class MeasuredLayers:
    """The layers that the rows of a table refer to. `revision` is the revision of their manifest."""

    names: tuple[str, ...]
    types: Sequence[str]
    revision: int


def resource_message(
    hello: Hello, time_s: float, table: MemoryTable | TimesTable, revision: int
) -> Memory | Times:
    """Return the message with the memory or the times of a step."""
    common: dict[str, Any] = {
        "run": hello.run,
        "rank": hello.rank,
        "step": table.step,
        "time_s": time_s,
        "manifest_revision": revision,
        "rows": len(table.layers),
        "notes": table.notes,
    }
    if isinstance(table, MemoryTable):
        columns, zero, body = pack_memory(table.own, len(table.layers))
        return Memory(
            **common,
            columns=columns,
            zero=zero,
            balance=table.balance,
            machine=table.machine,
            body=body,
        )
    columns, zero, body = pack_times(table.own, len(table.layers))
    return Times(
        **common,
        columns=columns,
        zero=zero,
        phases_s=table.phases_s,
        clock="device" if table.clock == "device" else "host",
        is_observed=table.is_observed,
        body=body,
    )
