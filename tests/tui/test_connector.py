"""The thread that opens the source."""

import threading
import time

import pytest
from synthetic_run import SyntheticRun, SyntheticSource

from gradscope.errors import IncompatibleError, NothingToConnectError
from gradscope_tui.source import Connector
from support.waiting import wait_for


@pytest.fixture
def started():
    made = []

    def start(connect, notify=lambda: None):
        made.append(Connector(connect, notify))
        made[-1].start()
        return made[-1]

    yield start
    for one in made:
        one.stop()


def test_the_connector_notifies_when_there_is_a_source_and_when_items_arrive(started):
    notified = threading.Semaphore(0)
    source = SyntheticSource(SyntheticRun())
    connector = started(source, notified.release)
    wait_for(lambda: connector.source is source and notified._value == 2)
    source.put(SyntheticRun().event(1, "a"))
    wait_for(lambda: notified._value == 3)


def test_the_thread_ends_when_there_is_a_source(started):
    connector = started(SyntheticSource(SyntheticRun()))
    wait_for(lambda: not connector._thread.is_alive())
    assert connector.source is not None


def test_the_connector_tries_again_until_there_is_a_hub(started):
    source, tries = SyntheticSource(SyntheticRun()), []

    def connect(on_arrival):
        tries.append(time.monotonic())
        if len(tries) < 3:
            raise NothingToConnectError("no hub is running")
        return source(on_arrival)

    connector = started(connect)
    wait_for(lambda: connector.problem == "no hub is running")
    wait_for(lambda: connector.source is source)
    wait_for(lambda: connector.problem == "")
    assert len(tries) == 3


def test_another_version_is_reported_and_not_tried_again(started):
    tries = threading.Semaphore(5)

    def connect(on_arrival):
        tries.acquire()
        raise IncompatibleError("the hub speaks version 2, this is version 1")

    connector = started(connect)
    wait_for(lambda: "version 2" in connector.problem)
    wait_for(lambda: not connector._thread.is_alive())
    assert tries._value == 4


def test_stopping_closes_the_source_and_ends_the_thread():
    source = SyntheticSource(SyntheticRun())
    connector = Connector(source, lambda: None)
    connector.start()
    wait_for(lambda: connector.source is source)
    connector.stop()
    assert source.link.phase == "lost"
    assert not connector._thread.is_alive()


def test_a_connector_that_never_started_can_be_stopped():
    connector = Connector(SyntheticSource(SyntheticRun()), lambda: None)
    connector.stop()
    assert connector.source is None
    assert connector._thread.ident is None
