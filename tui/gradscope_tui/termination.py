"""Runs the app until it ends, also by a signal."""

import asyncio
import os
import signal
import threading
from types import FrameType
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from textual.app import App

__all__ = ["run_until_end"]

_ENDINGS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

_INTERRUPTED: Final = 130

_END_S: Final = 3.0
"""The longest time for which the app may close. Textual blocks if its terminal was closed or reads nothing."""


def run_until_end(app: "App[int]") -> int:
    """Run the app and return its exit code. SIGINT, SIGTERM and SIGHUP end it with 130, as Ctrl+C does.

    The event loop ends the app between two callbacks. A handler that raises would stop Textual anywhere, so
    that its threads stay and the terminal keeps the mode of the app.
    """
    before = {number: signal.getsignal(number) for number in _ENDINGS}
    handled = [n for n in _ENDINGS if before[n] is not signal.SIG_IGN]  # nohup ignores SIGHUP
    try:
        asyncio.run(_run(app, handled))
    finally:
        for number in handled:
            signal.signal(number, before[number])
    return app.return_code or 0


async def _run(app: "App[int]", numbers: list[signal.Signals]) -> None:
    loop = asyncio.get_running_loop()
    last_resort = threading.Timer(_END_S, os._exit, [_INTERRUPTED])
    last_resort.daemon = True

    def end(_number: int, _frame: FrameType | None) -> None:
        loop.call_soon_threadsafe(_exit, app)
        if last_resort.ident is None:
            last_resort.start()

    for number in numbers:
        signal.signal(number, end)  # `loop.add_signal_handler` would not run while the loop is blocked
    try:
        await app.run_async()
    finally:
        last_resort.cancel()


def _exit(app: "App[int]") -> None:
    app.exit(_INTERRUPTED, return_code=_INTERRUPTED)
