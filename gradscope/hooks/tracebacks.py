"""Returns the frames that an exception passed through."""

from types import FrameType

__all__ = ["frames_of"]


def frames_of(error: BaseException) -> list[FrameType]:
    """Return the frames of an exception's traceback, innermost first."""
    frames = []
    trace = error.__traceback__
    while trace is not None:
        frames.append(trace.tb_frame)
        trace = trace.tb_next
    return frames[::-1]
