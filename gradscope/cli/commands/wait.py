"""`gradscope wait`: waits for an event in a run.

The exit code is 0 if the event has happened, and 1 if the run ended before it or the wait timed out.
"""

import math
import time
from collections.abc import Callable

from gradscope.cli.connection import connect_to
from gradscope.cli.exit_codes import DONE, WRONG
from gradscope.cli.output import say
from gradscope.client import Client
from gradscope.errors import UsageError
from gradscope.protocol import Event, Message, Scalars, Step

__all__ = ["wait_for"]

_POLL_S = 0.25
_LAST_S = 1.5
"""How long messages of an ended run may still arrive, in seconds."""

Check = Callable[[Message], str | None]


def wait_for(run: str, until: str, *, timeout_s: float | None) -> int:
    """Wait, print the result, and return the exit code. Raises UsageError for an unknown `until`."""
    check = _check_for(until)
    with connect_to(run, want="observe") as client:
        client.watch(client.run or run, max_rate_hz=1000.0)
        found = _wait(client, check, is_for_end=until == "done", timeout_s=timeout_s)
    if found is None:
        over = (
            "the run has ended"
            if timeout_s is None
            else f"the run has ended, or {timeout_s:g} s are over"
        )
        say(f"{until}: not seen, {over}")
        return WRONG
    say(found)
    return DONE


def _wait(client: Client, check: Check, *, is_for_end: bool, timeout_s: float | None) -> str | None:
    deadline_s = math.inf if timeout_s is None else time.monotonic() + timeout_s
    ended_s = math.inf
    while time.monotonic() < deadline_s:
        for message in client.receive(_POLL_S):
            found = check(message)
            if found is not None:
                return found
        is_live = any(info.is_live for info in client.runs() if info.run == client.run)
        ended_s = math.inf if is_live else min(ended_s, time.monotonic())
        if time.monotonic() - ended_s > _LAST_S:
            return "done: the run has ended" if is_for_end else None
    return None


def _check_for(until: str) -> Check:
    name, _, value = until.partition("=")
    if name == "step" and value.isascii() and value.isdecimal():
        return lambda message: _reached(message, int(value))
    if name == "alert":
        return lambda message: _alert(message, value)
    if until == "nan":
        return lambda message: _alert(message, "nonfinite")
    if until == "done":
        return lambda _message: None
    raise UsageError(
        f"expected --until alert, alert=RULE, nan, step=N or done, got {until!r}; for example: --until step=500"
    )


def _reached(message: Message, step: int) -> str | None:
    newest = None
    if isinstance(message, Scalars) and message.steps:
        newest = message.steps[-1]
    elif isinstance(message, Step):
        newest = message.step
    return f"step {newest} has ended" if newest is not None and newest >= step else None


def _alert(message: Message, rule: str) -> str | None:
    if not isinstance(message, Event) or message.alert is None:
        return None
    if rule and message.alert.rule != rule:
        return None
    return f"step {message.step}, {message.alert.rule}: {message.text}"
