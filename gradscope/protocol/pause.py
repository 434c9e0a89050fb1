"""Where the training is to stop, and that it stands."""

import msgspec

from gradscope.protocol.fields import Whole

__all__ = ["BreakpointState", "PauseState"]


class PauseState(msgspec.Struct, frozen=True):
    """The training stands before `step`, and goes on by itself when the lease ends."""

    step: Whole
    left_s: float
    set_by: str
    reason: str = ""


class BreakpointState(msgspec.Struct, frozen=True):
    """A condition at which the training pauses. `hits` counts how often it did."""

    id: str
    condition: str
    set_by: str
    hits: Whole = 0
