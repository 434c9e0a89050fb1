"""What a viewer may ask a run for: its interventions, with their arguments."""

from typing import Literal

import msgspec

__all__ = ["ActionInfo", "ArgumentInfo"]


class ArgumentInfo(msgspec.Struct, frozen=True):
    """One argument: a number between two limits, a whole one, yes (1) or no (0), or one of `options`.

    It must be given where it has no default; `chosen` is that of a choice.
    """

    name: str
    help: str = ""
    kind: Literal["number", "whole", "yes", "choice"] = "number"
    default: float | None = None
    lowest: float | None = None
    highest: float | None = None
    chosen: str = ""
    options: tuple[str, ...] = ()


class ActionInfo(msgspec.Struct, frozen=True):
    """One intervention that can be installed. `is_own`: the training script has brought it."""

    name: str
    help: str = ""
    what: Literal["gradient", "value", "passage"] = "gradient"
    sites: tuple[str, ...] = ()
    arguments: tuple[ArgumentInfo, ...] = ()
    is_own: bool = False
