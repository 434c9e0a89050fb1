"""The queue between a client's thread and its reader."""

from gradscope.client import inbox as inbox_module
from gradscope.client.inbox import Inbox
from gradscope.protocol import Event, Runs, Step


def event(number):
    return Event(run="r", rank=0, step=number, time_s=0.0, level="info", code="test", text="x")


def step(number):
    return Step(
        run="r", rank=0, seq=number, step=number, time_s=0.0, manifest_revision=0,
        kinds=(), rows=0, columns=(), body=b"",
    )  # fmt: skip


def test_items_come_in_order_and_in_pieces():
    inbox = Inbox()
    inbox.put([event(n) for n in range(50)])
    assert [m.step for m in inbox.take(10)] == list(range(10))
    assert [m.step for m in inbox.take()] == list(range(10, 50))
    assert inbox.take() == []


def test_the_reader_is_notified_once_until_it_has_taken_everything():
    notified = []
    inbox = Inbox(lambda: notified.append(1))
    inbox.put([event(0), event(1)])
    inbox.put([event(2)])
    assert len(notified) == 1
    inbox.take(2)
    inbox.put([event(3)])
    assert len(notified) == 1
    inbox.take()
    inbox.put([event(4)])
    assert len(notified) == 2


def test_a_full_inbox_drops_the_oldest_and_counts_them(monkeypatch):
    monkeypatch.setattr(inbox_module, "LIMIT", 20)
    inbox = Inbox()
    inbox.put([step(n) for n in range(30)])
    assert (inbox.dropped, inbox.held_steps) == (10, 20)
    assert [m.step for m in inbox.take()] == list(range(10, 30))
    assert inbox.held_steps == 0


def test_clearing_keeps_what_belongs_to_no_run():
    inbox = Inbox()
    inbox.put([Runs(runs=()), event(0), step(0), {0: step(0)}])
    inbox.clear()
    assert [type(m) for m in inbox.take()] == [Runs]
    assert inbox.held_steps == 0
