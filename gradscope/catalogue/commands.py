"""The commands that a viewer can send to a run. The message `Command` documents the fields of each."""

from typing import Literal, TypeAlias

__all__ = ["CommandName"]

CommandName: TypeAlias = Literal[
    "install",
    "remove",
    "remove_all",
    "pause",
    "resume",
    "step_once",
    "break",
    "unbreak",
    "rule",
    "unrule",
    "capture",
    "undo",
    "measure",
    "focus",
]
