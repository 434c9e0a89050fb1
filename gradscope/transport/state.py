"""`LinkState`: the state of a link, as one frozen value."""

from dataclasses import dataclass
from typing import Literal, TypeAlias

__all__ = ["LinkState", "Phase"]

Phase: TypeAlias = Literal["connecting", "up", "lost", "refused"]
"""The states of a link:

    connecting ──welcome──▶ up
        ▲  │                 │ silent for 6 s, or the socket broke
        │  └──refusal──▶ refused ──(5 s, or a new connection)──▶ connecting
        └────connected────  lost  ◀┘
"""


@dataclass(frozen=True, slots=True)
class LinkState:
    """The state of a link. `since_s` and `last_message_s` are times of `time.monotonic()`.

    `epoch` identifies the hub that sent the last welcome. `code` is the code of the refusal, if
    refused.
    """

    phase: Phase
    since_s: float
    epoch: str = ""
    reason: str = ""
    last_message_s: float | None = None
    code: str = ""
