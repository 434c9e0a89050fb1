"""The publisher's queue is bounded in messages and in bytes."""

from collections.abc import Callable

import pytest

from gradscope.agent.link.publisher import Publisher
from gradscope.agent.run.identity import make_hello
from gradscope.protocol import Event, Message

STEP_BYTES = 5_000_000
"""About the size of a step of 6,000 layers."""


@pytest.fixture
def publisher() -> Publisher:
    """Return a publisher that is never started: its queue stays as it is."""
    return Publisher(None, make_hello("run", None))


def some(text: str) -> Callable[[], Message]:
    return lambda: Event(run="run", rank=0, step=0, time_s=0.0, level="info", code="test", text=text)


def waiting(publisher: Publisher) -> list[str]:
    return [make().text for make, _ in publisher._queue]


def test_the_queue_of_large_steps_is_bounded_by_16_megabytes(publisher):
    for i in range(10):
        publisher.put(some(str(i)), STEP_BYTES)
    assert waiting(publisher) == ["7", "8", "9"]
    assert publisher.dropped == 7


def test_the_queue_holds_at_least_two_steps_of_any_size(publisher):
    for i in range(4):
        publisher.put(some(str(i)), 10**9)
    assert waiting(publisher) == ["2", "3"]
    assert publisher.dropped == 2


@pytest.mark.parametrize("size_bytes", [0, 1, 20_000])
def test_small_messages_are_bounded_by_their_number(publisher, size_bytes):
    for i in range(300):
        publisher.put(some(str(i)), size_bytes)
    assert waiting(publisher) == [str(i) for i in range(44, 300)]
    assert publisher.dropped == 44


def test_a_large_step_is_dropped_before_a_small_message_that_waits(publisher):
    publisher.put(some("an answer"))
    for i in range(300):
        publisher.put(some(str(i)), STEP_BYTES)
        publisher.put(some("small")) if i < 200 else None
    assert waiting(publisher)[0] == "an answer"
    assert waiting(publisher).count("small") == 200
    assert [text for text in waiting(publisher) if text.isdigit()] == ["297", "298", "299"]
    assert publisher.counters()["queued"] == 501
    assert publisher.dropped == 297
