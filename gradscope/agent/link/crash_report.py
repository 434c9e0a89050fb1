"""Reports an exception that ends a run: the layer or custom Function, the cause and a remedy.

The exception propagates unchanged, with its own traceback.
"""

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, FrameType, TracebackType
from typing import Any, Final

from torch import nn
from torch.autograd import Function

from gradscope.agent.link.process_end import SysHook
from gradscope.hooks import frames_of

__all__ = ["CrashReporter", "ExceptionReport", "describe_exception"]

_TEXT_LIMIT: Final = 600
_FUNCTION_IN_MESSAGE: Final = re.compile(r"\b[Ff]unction (\w+?)(?:Backward)+ returned")
_TORCH: Final = str(Path(nn.__file__).parents[1])
_OURS: Final = str(Path(__file__).parents[1])


class CrashReporter(SysHook):
    """Calls `report(error)` for an exception that ends the process, between `install` and `remove`.

    The previous `sys.excepthook` is called first, so the traceback is printed as usual.
    """

    def __init__(self, report: Callable[[BaseException], None]) -> None:
        super().__init__("excepthook")
        self._report = report
        self._pid = os.getpid()

    def __call__(
        self, kind: type[BaseException], error: BaseException, trace: TracebackType | None
    ) -> None:
        """Call the previous hook, then report."""
        is_installed = self._is_installed  # the previous hook may end the scope
        try:
            self._previous(kind, error, trace)
        finally:
            if is_installed and os.getpid() == self._pid:  # a forked child has no link
                self._report(error)


@dataclass(frozen=True, slots=True)
class ExceptionReport:
    """The report of an exception. `code` is "exception", or "exception.NAME" for a known error message."""

    code: str
    text: str

    @property
    def is_known(self) -> bool:
        """Whether the error message is in the table of known messages."""
        return self.code != "exception"


def describe_exception(error: BaseException, model: nn.Module | None) -> ExceptionReport:
    """Return the report of an exception: its layer or custom Function, its cause and a remedy.

    If the exception was raised from another exception with a known message, the report is about that
    exception.
    """
    from gradscope.doctor.report.messages import recognise  # noqa: PLC0415 - loads the doctor: seldom wanted

    chain = list(_chain(error))
    root = next((each for each in chain if recognise(str(each))), error)
    known = recognise(str(root))
    frames = [frame for each in (root, error) for frame in frames_of(each)]
    places = [_function(frames, str(root)), _layer(frames, model), _line(frames)]
    where = ", ".join(place for place in places if place)
    said = " ".join(f"{type(root).__name__}: {root}".split())
    text = _shortened(said) + (f" ({where})." if where else ".")
    if known is None:
        return ExceptionReport("exception", text)
    slug = re.sub(r"\W+", "-", known.name.lower())
    return ExceptionReport(f"exception.{slug}", f"{text} Cause: {known.cause}. Cure: {known.cure}.")


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an exception and the exceptions from which it was raised, without duplicates."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _function(frames: list[FrameType], message: str) -> str:
    """Return the custom Function that raised: autograd calls it from an `apply` that knows its class."""
    for frame in frames:
        if frame.f_code.co_name != "apply" or not _is_in(frame.f_code, _TORCH):
            continue
        called: Any = frame.f_locals.get("cls")  # Any: whatever a frame holds
        if isinstance(called, type) and issubclass(called, Function):
            return f"in {called.__name__}.forward"
        owner = getattr(type(frame.f_locals.get("self")), "_forward_cls", None)
        if owner is not None:
            return f"in {owner.__name__}.backward"
    named = _FUNCTION_IN_MESSAGE.search(message)
    return f"in {named[1]}.backward" if named else ""


def _layer(frames: list[FrameType], model: nn.Module | None) -> str:
    names = {id(module): name for name, module in model.named_modules()} if model is not None else {}
    for frame in frames:
        holder = frame.f_locals.get("self")
        if isinstance(holder, nn.Module) and id(holder) in names:
            name, kind = names[id(holder)], type(holder).__name__
            return f"in layer {name} ({kind})" if name else f"in the model ({kind})"
    return ""


def _line(frames: list[FrameType]) -> str:
    """Return the innermost line outside torch and gradscope."""
    for frame in frames:
        if not _is_in(frame.f_code, _TORCH) and not _is_in(frame.f_code, _OURS):
            return f"at {Path(frame.f_code.co_filename).name}:{frame.f_lineno}"
    return ""


def _is_in(code: CodeType, folder: str) -> bool:
    return code.co_filename.startswith(folder + os.sep)


def _shortened(text: str) -> str:
    return text.rstrip(".") if len(text) <= _TEXT_LIMIT else text[:_TEXT_LIMIT] + "…"
