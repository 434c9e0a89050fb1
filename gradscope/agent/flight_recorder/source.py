"""Source lines: of the frames that run an operation, and of an operation in the text of a function."""

import functools
import linecache
import os
import sys
import sysconfig
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, FrameType
from typing import Final

import torch

__all__ = ["SourceLine", "is_in_package", "is_users_code", "line_of_caller"]

_OWN: Final = str(Path(__file__).parents[2]) + os.sep
_TORCH: Final = str(Path(torch.__file__).parent) + os.sep
_PYTHON: Final = sysconfig.get_path("stdlib") + os.sep
_PACKAGES: Final = (os.sep + "site-packages" + os.sep, os.sep + "dist-packages" + os.sep)
_OWN_PROGRAMS: Final = tuple(_OWN + room + os.sep for room in ("demo", "functional", "nn"))
"""Rooms of gradscope that models call, so their lines are lines of the model."""


@dataclass(frozen=True, slots=True)
class SourceLine:
    """A line of a program. `text` is empty if the file cannot be read."""

    file: str
    number: int
    function: str
    text: str

    def __str__(self) -> str:
        """`model.py:42`."""
        return f"{Path(self.file).name}:{self.number}"

    @classmethod
    def of(cls, code: CodeType, number: int) -> "SourceLine":
        """Return a line of a function."""
        text = linecache.getline(code.co_filename, number).strip()
        return cls(code.co_filename, number, code.co_name, text)


def is_users_code(code: CodeType) -> bool:
    """Return whether a function is not of torch, gradscope or Python itself, and not generated."""
    return _is_users_file(code.co_filename)


@functools.lru_cache(1024)
def _is_users_file(file: str) -> bool:
    if file.startswith("<") and not file.startswith(("<stdin", "<ipython", "<string")):
        return False
    if file.startswith((_OWN, _TORCH)):
        return file.startswith(_OWN_PROGRAMS)
    return any(folder in file for folder in _PACKAGES) or not file.startswith(_PYTHON)


def is_in_package(code: CodeType) -> bool:
    """Return whether a function is of an installed package."""
    return any(folder in code.co_filename for folder in _PACKAGES)


def line_of_caller(depth: int, until: Sequence[CodeType] = ()) -> SourceLine | None:
    """Return the innermost line outside of torch and gradscope, from `depth` frames above the caller.

    until: functions at which the search ends without a result.
    """
    frame: FrameType | None = sys._getframe(depth + 1)  # noqa: SLF001 - inspect.stack() reads all files
    while frame is not None and frame.f_code not in until:
        if is_users_code(frame.f_code):
            return SourceLine.of(frame.f_code, frame.f_lineno)
        frame = frame.f_back
    return None
