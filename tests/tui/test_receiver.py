"""The receiving thread."""

import threading
import time

import pytest
from synthetic_run import SyntheticRun, SyntheticSource

from gradscope.errors import IncompatibleError, NothingToConnectError
from gradscope_tui import receiver as receiving
from gradscope_tui.receiver import Receiver

DEADLINE_S = 10.0


def wait(condition):
    until = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < until, "this took too long"
        time.sleep(0.005)


@pytest.fixture
def started():
    made = []

    def start(connect, tell=lambda: None):
        made.append(Receiver(connect, tell))
        made[-1].start()
        return made[-1]

    yield start
    for one in made:
        one.stop()


def test_it_tells_once_until_somebody_looks(started):
    told = []
    source = SyntheticSource(SyntheticRun())
    receiver = started(source, lambda: told.append(receiver.backlog))
    wait(lambda: receiver.backlog == 1)
    receiver.watch("gpt-7f3a")
    wait(lambda: receiver.backlog > 1)
    source.put(SyntheticRun().event(1, "a"))
    wait(lambda: receiver.backlog == 6)
    assert len(told) == 1
    assert len(receiver.take(100)) == 6
    source.put(SyntheticRun().event(1, "b"))
    wait(lambda: receiver.backlog == 1)
    assert len(told) == 2


def test_messages_come_in_order_and_in_pieces(started):
    run = SyntheticRun()
    source = SyntheticSource(run)
    source.put(*(run.event(n, "x") for n in range(50)))
    receiver = started(source)
    wait(lambda: receiver.backlog == 51)
    assert [m.step for m in receiver.take(11)[1:]] == list(range(10))
    assert [m.step for m in receiver.take(100)] == list(range(10, 50))


def test_it_tries_again_until_there_is_a_hub(started):
    source, tries = SyntheticSource(SyntheticRun()), []

    def connect():
        tries.append(time.monotonic())
        if len(tries) < 3:
            raise NothingToConnectError("no hub is running")
        return source

    receiver = started(connect)
    wait(lambda: receiver.problem == "no hub is running")
    wait(lambda: receiver.backlog == 1)
    assert receiver.problem == ""
    assert len(tries) == 3


def test_another_version_is_said_and_not_tried_again(started):
    tries = threading.Semaphore(5)

    def connect():
        tries.acquire()
        raise IncompatibleError("the hub speaks version 2, this is version 1")

    receiver = started(connect)
    wait(lambda: "version 2" in receiver.problem)
    wait(lambda: not receiver._thread.is_alive())
    assert tries._value == 4


def test_a_screen_that_falls_behind_is_not_flooded(started, monkeypatch):
    monkeypatch.setattr(receiving, "_BACKLOG", 20)
    run = SyntheticRun()
    source = SyntheticSource(run)
    receiver = started(source)
    wait(lambda: receiver.backlog == 1)
    source.put(*(run.event(n, "x") for n in range(30)))
    wait(lambda: receiver.backlog >= 20)
    source.put(*(run.event(n, "late") for n in range(30)))
    assert len(source._inbox) == 30
    receiver.take(100)
    wait(lambda: receiver.backlog == 30)


def test_stopping_closes_the_source_and_ends_the_thread():
    source = SyntheticSource(SyntheticRun())
    receiver = Receiver(source, lambda: None)
    receiver.start()
    wait(lambda: receiver.source is source)
    receiver.stop()
    assert source.link.phase == "lost"
    assert not receiver._thread.is_alive()


def test_one_that_never_started_can_be_stopped():
    receiver = Receiver(SyntheticSource(SyntheticRun()), lambda: None)
    receiver.stop()
    assert receiver.source is None
    assert receiver._thread.ident is None
