"""Processes that train by turns, so that a machine whose speed changes is equally fast for all of them.

It must be processes, because some of gradscope's hooks are called by all modules of a process.
"""

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any, TypeAlias

import torch

__all__ = ["Trainee", "take_turns"]

_Step: TypeAlias = Callable[[], None]


class Trainee:
    """A process that trains when it is asked to, from construction to `end`.

    make: called in the process with `arguments`; returns a context that gives the function that trains one step. It
        must be a function of a module.
    """

    def __init__(
        self,
        make: Callable[..., AbstractContextManager[_Step]],
        *arguments: Any,  # Any: those of make
    ) -> None:
        context = get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, make, arguments), daemon=True)
        self._process.start()
        theirs.close()
        self._pipe.recv()

    def train(self, steps: int) -> tuple[float, float]:
        """Train; return the time by the clock and the processor time of the thread, in seconds per step."""
        self._pipe.send(steps)
        clock_s, thread_s = self._pipe.recv()
        return clock_s / steps, thread_s / steps

    def end(self) -> None:
        """End the process."""
        self._pipe.send(0)
        self._process.join()


def take_turns(
    trainees: Sequence[Trainee], steps: int, seconds: float, most: int | None = None
) -> list[list[tuple[float, float]]]:
    """Train by turns of `steps` steps for a number of seconds, at most `most` turns.

    Return, for each trainee, what `train` has returned in each turn.
    """
    times: list[list[tuple[float, float]]] = [[] for _ in trainees]
    until_s = time.perf_counter() + seconds
    while time.perf_counter() < until_s and (most is None or len(times[0]) < most):
        for trainee, of_one in zip(trainees, times, strict=True):
            of_one.append(trainee.train(steps))
    return times


def _serve(
    pipe: Connection, make: Callable[..., AbstractContextManager[_Step]], arguments: tuple[Any, ...]
) -> None:
    torch.set_num_threads(1)
    with make(*arguments) as step:
        step()
        pipe.send(None)
        while steps := pipe.recv():
            began_s, began_thread_s = time.perf_counter(), time.thread_time()
            for _ in range(steps):
                step()
            pipe.send((time.perf_counter() - began_s, time.thread_time() - began_thread_s))
