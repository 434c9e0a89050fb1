"""The messages of the link, as frozen data. README.md in this folder specifies each of them.

A field that is added later must have a default, so that messages of older peers can still be decoded.
Unknown fields are ignored. Any other change requires a new PROTOCOL_VERSION.
"""

from typing import TypeAlias

from gradscope.protocol.control import (
    Ack,
    BreakpointState,
    Command,
    Interventions,
    InterventionState,
    PauseState,
)
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
from gradscope.protocol.schedules import Ramp, Schedule, make_schedule, parse_ramp, schedule_in_words
from gradscope.protocol.stream import (
    ActionInfo,
    AlertInfo,
    ArgumentInfo,
    Captured,
    Event,
    Layer,
    Manifest,
    Memory,
    Parameter,
    Scalars,
    Step,
    Times,
)

__all__ = [
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
    "make_schedule",
    "parse_ramp",
    "schedule_in_words",
]

Message: TypeAlias = (
    Hello
    | Welcome
    | Who
    | Refusal
    | Manifest
    | Step
    | Memory
    | Times
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
    | Captured
    | Heartbeat
    | Bye
)
