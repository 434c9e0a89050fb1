"""The link's messages, their bytes and their limits: pure data, no sockets.

Bodies need NumPy, which takes longer to load than all the rest: the hub, which never looks into a body,
starts in half the time because `pack_block` and `pack_layers` load it when they are first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

from gradscope.protocol.codec import WITH_BODY, decode, encode
from gradscope.protocol.limits import (
    BODY_LIMIT_BYTES,
    HEAD_LIMIT_BYTES,
    HISTOGRAM_ROWS_LIMIT,
    PART_LIMIT_BYTES,
    PART_LIMIT_COUNT,
    PROTOCOL_VERSION,
)
from gradscope.protocol.messages import (
    Ack,
    ActionInfo,
    AlertInfo,
    ArgumentInfo,
    Backfill,
    BreakpointState,
    Bye,
    Captured,
    Command,
    Credit,
    Event,
    Heartbeat,
    Hello,
    Interventions,
    InterventionState,
    Layer,
    Manifest,
    Memory,
    Message,
    Parameter,
    PauseState,
    Ramp,
    Refusal,
    RunInfo,
    Runs,
    Scalars,
    Schedule,
    Skipped,
    Step,
    Subscribe,
    Times,
    Welcome,
    Who,
    parse_ramp,
    schedule_in_words,
)

__all__ = [
    "BODY_LIMIT_BYTES",
    "HEAD_LIMIT_BYTES",
    "HISTOGRAM_ROWS_LIMIT",
    "PART_LIMIT_BYTES",
    "PART_LIMIT_COUNT",
    "PROTOCOL_VERSION",
    "WITH_BODY",
    "Ack",
    "ActionInfo",
    "AlertInfo",
    "ArgumentInfo",
    "Backfill",
    "BreakpointState",
    "Bye",
    "Captured",
    "Command",
    "Credit",
    "Event",
    "Heartbeat",
    "Hello",
    "InterventionState",
    "Interventions",
    "Layer",
    "Manifest",
    "Memory",
    "Message",
    "PackBins",
    "Parameter",
    "PauseState",
    "Ramp",
    "Refusal",
    "RunInfo",
    "Runs",
    "Scalars",
    "Schedule",
    "Skipped",
    "Step",
    "Subscribe",
    "Times",
    "Welcome",
    "Who",
    "decode",
    "encode",
    "pack_block",
    "pack_layers",
    "pack_memory",
    "pack_times",
    "parse_ramp",
    "schedule_in_words",
]

if TYPE_CHECKING:
    from gradscope.protocol.bodies import pack_block, pack_layers
    from gradscope.protocol.histograms import PackBins
    from gradscope.protocol.resource_bodies import pack_memory, pack_times

_LOADED_LATE = {
    "PackBins": "histograms",
    "pack_block": "bodies",
    "pack_layers": "bodies",
    "pack_memory": "resource_bodies",
    "pack_times": "resource_bodies",
}


def __getattr__(name: str) -> Any:  # Any: the type is in the block above
    if name not in _LOADED_LATE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"gradscope.protocol.{_LOADED_LATE[name]}"), name)
    globals()[name] = value
    return value
