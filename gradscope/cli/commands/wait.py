"""`gradscope wait`: waits for an event in a run.

The exit code is 0 if the event has happened; for `done`, if the run has ended without a failure. It is 1
if the time was over or the run ended before the event, and 5 if the run failed: by an exception, by an
exit code other than 0, or because its process was killed.
"""

import math
import sys
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from gradscope.cli.connection import connect_to
from gradscope.cli.exit_codes import DONE, FAILED, WRONG
from gradscope.cli.output import print_result
from gradscope.client import Client, end_of
from gradscope.errors import NothingToConnectError, UsageError
from gradscope.protocol import Event, Message, RunInfo, Scalars, Step
from gradscope.recording import list_recordings

__all__ = ["wait_for"]

_POLL_S = 0.25
_LAST_S = 1.5
"""How long messages of an ended run may still arrive, in seconds."""


class _Found(NamedTuple):
    """The line to print, and the exit code."""

    text: str
    exit_code: int


Check = Callable[[Message], str | None]


def wait_for(
    run: str, until: str, *, timeout_s: float | None, as_json: bool = False, notifies: bool = False
) -> int:
    """Wait, print the result, and return the exit code. Raises UsageError for an unknown `until`.

    notifies: ring the bell of the terminal to which stderr goes, so that the result stays as it is.
    """
    check = _check_of_event(until)
    with _connect(run) as client:
        client.watch(client.run or run, max_rate_hz=1000.0, ranks="merged")
        found = _wait_for_event(client, check, until, timeout_s)
    document = {
        "run": run,
        "until": until,
        "has_happened": found.exit_code == DONE,
        "has_failed": found.exit_code == FAILED,
        "text": found.text,
    }
    print_result(document, as_json, found.text)
    if notifies and sys.stderr.isatty():
        sys.stderr.write("\a")
        sys.stderr.flush()
    return found.exit_code


def _connect(run: str) -> Client:
    try:
        return connect_to(run, want="observe")
    except NothingToConnectError as error:
        ended = next((info for info in list_recordings() if info.run == run and info.reason), None)
        if ended is None:
            raise
        raise NothingToConnectError(
            f"{error}. The newest recording of {run!r} says that it ended: {ended.reason}"
        ) from None


def _wait_for_event(client: Client, check: Check, until: str, timeout_s: float | None) -> _Found:
    deadline_s = math.inf if timeout_s is None else time.monotonic() + timeout_s
    ended_s = math.inf
    while time.monotonic() < deadline_s:
        for message in client.receive(_POLL_S):
            found = check(message)
            if found is not None:
                return _Found(found, DONE)
        ranks = [info for info in client.runs() if info.run == client.run]
        is_live = any(info.is_live for info in ranks)
        ended_s = math.inf if is_live else min(ended_s, time.monotonic())
        if time.monotonic() - ended_s > _LAST_S:
            return _at_end(until, ranks)
    return _Found(f"{until}: not seen in {timeout_s or 0:g} s", WRONG)


def _at_end(until: str, ranks: Sequence[RunInfo]) -> _Found:
    if not ranks:
        return _Found(f"{until}: not seen, and the hub does not know the run any more", WRONG)
    end = end_of(ranks)
    is_done = until == "done" and not end.has_failed
    text = f"{until}: {'' if is_done else 'not seen, '}the run has ended: {end.reason}"
    return _Found(text, FAILED if end.has_failed else DONE if is_done else WRONG)


def _check_of_event(until: str) -> Check:
    name, _, value = until.partition("=")
    if name == "step" and value.isascii() and value.isdecimal():
        return lambda message: _step_reached(message, int(value))
    if name == "alert":
        return lambda message: _alert_text(message, value)
    if until == "nan":
        return lambda message: _alert_text(message, "nonfinite")
    if until == "done":
        return lambda _message: None
    raise UsageError(
        f"expected --until alert, alert=RULE, nan, step=N or done, got {until!r}; for example: --until step=500"
    )


def _step_reached(message: Message, step: int) -> str | None:
    newest = None
    if isinstance(message, Scalars) and message.steps:
        newest = message.steps[-1]
    elif isinstance(message, Step):
        newest = message.step
    return f"step {newest} has ended" if newest is not None and newest >= step else None


def _alert_text(message: Message, rule: str) -> str | None:
    if not isinstance(message, Event) or message.alert is None:
        return None
    if rule and message.alert.rule != rule:
        return None
    return f"step {message.step}, {message.alert.rule}: {message.text}"
