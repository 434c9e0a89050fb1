"""Waiting for a condition, with a deadline."""

import time
from collections.abc import Callable
from typing import TypeVar

__all__ = ["DEADLINE_S", "wait_for"]

T = TypeVar("T")


DEADLINE_S = 60.0
"""For what takes a second at most on a machine that does nothing else."""


def wait_for(condition: Callable[[], T], what: object = "", timeout_s: float = DEADLINE_S) -> T:
    """Return the first value of a condition that is true; fail after `timeout_s` seconds."""
    deadline_s = time.monotonic() + timeout_s
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline_s, f"waited {timeout_s} s for: {what}"
        time.sleep(0.01)
