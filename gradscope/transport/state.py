"""`LinkState`: what is known of a link, as one frozen value."""

from dataclasses import dataclass
from typing import Literal, TypeAlias

__all__ = ["LinkState", "Phase"]

Phase: TypeAlias = Literal["connecting", "up", "lost", "refused"]
"""The life of a link:

    connecting ──welcome──▶ up
        ▲  │                 │ no word for 6 s, or the socket broke
        │  └──refusal──▶ refused ──(5 s, or a new connection)──▶ connecting
        └────connected────  lost  ◀┘
"""


@dataclass(frozen=True, slots=True)
class LinkState:
    """The state of a link. `since_s` and `last_message_s` are times of `time.monotonic()`.

    `epoch` names the hub that said welcome last; `code` is that of the refusal while refused.
    """

    phase: Phase
    since_s: float
    epoch: str = ""
    reason: str = ""
    last_message_s: float | None = None
    code: str = ""
