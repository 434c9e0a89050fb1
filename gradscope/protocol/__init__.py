"""The link's messages, their bytes and their limits: pure data, no sockets.

Bodies need NumPy, which takes longer to load than all the rest: the hub, which never looks into a body,
starts in half the time because `pack_block` and `pack_layers` load it when they are first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

from gradscope.protocol.codec import decode, encode
from gradscope.protocol.limits import (
    BODY_LIMIT_BYTES,
    HEAD_LIMIT_BYTES,
    PART_LIMIT_BYTES,
    PART_LIMIT_COUNT,
    PROTOCOL_VERSION,
)
from gradscope.protocol.messages import (
    Ack,
    Backfill,
    Bye,
    Command,
    Credit,
    Event,
    Heartbeat,
    Hello,
    Interventions,
    InterventionState,
    Layer,
    Manifest,
    Message,
    Parameter,
    Refusal,
    RunInfo,
    Runs,
    Scalars,
    Skipped,
    Step,
    Subscribe,
    Welcome,
    Who,
)

__all__ = [
    "BODY_LIMIT_BYTES",
    "HEAD_LIMIT_BYTES",
    "PART_LIMIT_BYTES",
    "PART_LIMIT_COUNT",
    "PROTOCOL_VERSION",
    "Ack",
    "Backfill",
    "Bye",
    "Command",
    "Credit",
    "Event",
    "Heartbeat",
    "Hello",
    "InterventionState",
    "Interventions",
    "Layer",
    "Manifest",
    "Message",
    "Parameter",
    "Refusal",
    "RunInfo",
    "Runs",
    "Scalars",
    "Skipped",
    "Step",
    "Subscribe",
    "Welcome",
    "Who",
    "decode",
    "encode",
    "pack_block",
    "pack_layers",
]

if TYPE_CHECKING:
    from gradscope.protocol.bodies import pack_block, pack_layers


def __getattr__(name: str) -> Any:  # Any: the type is in the block above
    if name not in ("pack_block", "pack_layers"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module("gradscope.protocol.bodies"), name)
    globals()[name] = value
    return value
