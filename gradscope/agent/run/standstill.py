"""`Standstill`: what the training thread executes while no step ends, read by the publisher thread.

The training thread does nothing for it. Its stack is read only if no step has ended for some seconds, at most once in
two seconds.
"""

import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Final

import torch
from torch import nn

from gradscope.protocol import Heartbeat

__all__ = ["Standstill"]

_LOOK_S: Final = 1.0
"""Heartbeats are 2 s apart, and only they ask for the steps: a thread that stands still is found by the second one."""
_LENGTH: Final = 200
_TORCH: Final = str(Path(torch.__file__).parent)
_OWN: Final = str(Path(__file__).parents[2])
_PAUSE: Final = str(Path(_OWN, "agent", "monitors", "pause.py"))
_CALLS: Final = {nn.Module._wrapped_call_impl.__code__, nn.Module._call_impl.__code__}  # noqa: SLF001 - their frames are read, nothing is called
_READ: Final = nn.Module._wrapped_call_impl.__code__  # noqa: SLF001 - as above


class Standstill:
    """Follows the steps of the thread that has created it.

    steps: returns the number of steps that have ended. model: returns the model, or None if it is gone.
    """

    def __init__(self, steps: Callable[[], int], model: Callable[[], nn.Module | None]) -> None:
        self._steps, self._model = steps, model
        self._thread = threading.get_ident()
        self._first = self._count = steps()
        self._since_s: float | None = None

    def heartbeat(self, counters: dict[str, int]) -> Heartbeat:
        """Return a heartbeat with these counters, the newest step, its age, and if that is long where the thread is."""
        now_s, count = time.monotonic(), self._steps()
        if count != self._count or self._since_s is None:
            self._count, self._since_s = count, now_s
        still_s = now_s - self._since_s
        if count == self._first:  # a first step may take long, and so may what comes before it
            return Heartbeat(counters=counters)
        if still_s < _LOOK_S:
            return Heartbeat(step=count - 1, still_s=still_s, counters=counters)
        place, layer = self._look()
        return Heartbeat(step=count - 1, still_s=still_s, place=place, layer=layer, counters=counters)

    def _look(self) -> tuple[str, str]:
        """Return what the thread executes, and the innermost layer whose forward it is in; empty if unknown."""
        frames = _stack_of(self._thread)
        if not frames:
            return "", ""
        if any(frame.f_code.co_filename == _PAUSE for frame in frames):
            return "paused by gradscope", ""
        return _place_in(frames)[:_LENGTH], self._layer_in(frames)[:_LENGTH]

    def _layer_in(self, frames: list[FrameType]) -> str:
        """Return the name of the innermost layer.

        Only the local variables of `Module.__call__` are read: they live as long as its frame does, so reading them
        keeps nothing alive that would be freed earlier otherwise.
        """
        model = self._model()
        modules = [frame.f_locals.get("self") for frame in frames if frame.f_code is _READ]
        if model is None or not modules:
            return ""
        try:
            names = {id(module): name for name, module in model.named_modules()}
        except RuntimeError:  # the thread has gone on, and changes the model
            return ""
        found = next((module for module in modules if id(module) in names), None)
        return "" if found is None else names[id(found)] or type(found).__name__


def _stack_of(thread: int) -> list[FrameType]:
    """Return the frames of a thread, the innermost one first."""
    frame = sys._current_frames().get(thread)  # noqa: SLF001 - documented, and the only way
    frames = []
    while frame is not None:
        frames.append(frame)
        frame = frame.f_back
    return frames


def _place_in(frames: list[FrameType]) -> str:
    """Return the innermost line of the script's own code, and the function of a library that it is in."""
    own = next((frame for frame in frames if not _is_of_library(frame.f_code.co_filename)), frames[0])
    code = own.f_code
    text = f"{Path(code.co_filename).name}:{own.f_lineno} in {code.co_name}"
    inner = next((f for f in frames if not f.f_code.co_filename.startswith(_OWN)), own)
    if inner is own or inner.f_code in _CALLS:
        return text
    return f"{text}, in {inner.f_code.co_name} of {Path(inner.f_code.co_filename).name}"


def _is_of_library(path: str) -> bool:
    return path.startswith((_TORCH, _OWN, sys.base_prefix, "<frozen")) or "site-packages" in path
