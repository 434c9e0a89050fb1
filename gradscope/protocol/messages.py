"""The messages of the link, as frozen data. What each means stands in README.md beside this file.

A field that is added later has a default, so that an older peer's message still decodes; an unknown
field is ignored. Anything else is another PROTOCOL_VERSION.
"""

from typing import TypeAlias

from gradscope.protocol.control import Ack, Command, Interventions, InterventionState
from gradscope.protocol.links import (
    Backfill,
    Bye,
    Credit,
    Heartbeat,
    Hello,
    Refusal,
    RunInfo,
    Runs,
    Skipped,
    Subscribe,
    Welcome,
    Who,
)
from gradscope.protocol.stream import Event, Layer, Manifest, Parameter, Scalars, Step

__all__ = [
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
]

Message: TypeAlias = (
    Hello
    | Welcome
    | Who
    | Refusal
    | Manifest
    | Step
    | Scalars
    | Event
    | Interventions
    | Subscribe
    | Credit
    | Skipped
    | Backfill
    | Runs
    | Command
    | Ack
    | Heartbeat
    | Bye
)
