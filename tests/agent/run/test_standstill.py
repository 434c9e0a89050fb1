"""Where a training thread is while no step ends: read from outside, without a trace in the training."""

import gc
import threading
import weakref

import pytest
import torch
from torch import nn

from gradscope.agent.run import standstill
from gradscope.agent.run.standstill import Standstill
from support.waiting import DEADLINE_S


class Waiting(nn.Module):
    """Waits in its forward until it may go on."""

    def __init__(self):
        super().__init__()
        self.inside, self.may_end = threading.Event(), threading.Event()

    def forward(self, x):
        before = x * 2
        freed = weakref.ref(before)
        self.inside.set()
        assert self.may_end.wait(DEADLINE_S)
        x = before + 1
        del before
        gc.collect()
        self.was_freed = freed() is None
        return x


class Training(threading.Thread):
    """One forward of a model in a thread of its own, which follows the steps of that thread."""

    def __init__(self, model, run):
        super().__init__()
        self.steps, self.is_ready = 0, threading.Event()
        self._model, self._run_training = model, run

    def run(self):
        self.standstill = Standstill(lambda: self.steps, lambda: self._model)
        self.steps = 5
        self.is_ready.set()
        self._run_training()


@pytest.fixture
def now(monkeypatch):
    """A clock that the test sets."""

    class Clock:
        now_s = 100.0

        def monotonic(self):
            return self.now_s

    clock = Clock()
    monkeypatch.setattr(standstill, "time", clock)
    return clock


def test_the_innermost_layer_and_the_line_of_the_script_are_named_and_nothing_is_kept_alive(now):
    waiting = Waiting()
    model = nn.Sequential(nn.Linear(2, 2), nn.Sequential(waiting))
    training = Training(model, lambda: model(torch.ones(1, 2)))
    training.start()
    assert waiting.inside.wait(DEADLINE_S)
    assert training.standstill.heartbeat({}).place == ""  # the step has just begun
    now.now_s += 6.0
    heartbeat = training.standstill.heartbeat({})
    assert (heartbeat.step, heartbeat.still_s, heartbeat.layer) == (4, 6.0, "1.0")
    assert heartbeat.place.startswith("test_standstill.py:")
    assert "in forward" in heartbeat.place
    waiting.may_end.set()
    training.join()
    assert waiting.was_freed
    training.steps = 6
    later = training.standstill.heartbeat({})
    assert (later.step, later.still_s, later.place, later.layer) == (5, 0.0, "", "")


def test_outside_of_the_model_no_layer_is_named(now):
    may_end = threading.Event()
    training = Training(nn.Linear(2, 2), lambda: may_end.wait(DEADLINE_S))
    training.start()
    assert training.is_ready.wait(DEADLINE_S)
    training.standstill.heartbeat({})
    now.now_s += 6.0
    heartbeat = training.standstill.heartbeat({})
    may_end.set()
    training.join()
    assert heartbeat.layer == ""
    assert "test_standstill.py" in heartbeat.place
    assert "wait" in heartbeat.place


def test_before_the_first_step_nothing_is_reported(now):
    follower = Standstill(lambda: 0, lambda: None)
    now.now_s += 60.0
    heartbeat = follower.heartbeat({})
    assert (heartbeat.step, heartbeat.still_s, heartbeat.place) == (None, None, "")
