import time

import pytest

from gradscope.intervene import ACTIONS, End, Ledger
from gradscope.intervene import ledger as ledger_module


@pytest.fixture
def ledger():
    return Ledger()


def install(ledger, action="scale", arguments=None, layers=("fc",), end=None, done=None):
    return ledger.install(
        ACTIONS[action],
        arguments or {"factor": 2.0},
        layers,
        site="output",
        set_by="test",
        end=end or End(),
        done=done or (lambda entry, step: None),
    )


def test_a_request_is_pending_until_it_is_settled_and_tells_the_step(ledger):
    told = []
    entry = install(ledger, done=lambda entry, step: told.append((entry.id, step)))
    assert (entry.active_since, ledger.by_layer(), told) == (None, {}, [])
    assert ledger.settle(7)
    assert (entry.active_since, told, ledger.revision) == (7, [("scale-1", 7)], 1)
    assert list(ledger.by_layer()) == ["fc"]


def test_settling_without_requests_changes_nothing(ledger):
    assert not ledger.settle(0)
    install(ledger)
    ledger.settle(1)
    assert not ledger.settle(2)
    assert ledger.revision == 1


def test_removal_is_a_request_too(ledger):
    entry = install(ledger)
    ledger.settle(0)
    told = []
    assert ledger.remove(entry.id, told.append)
    assert ledger.by_layer()
    ledger.settle(3)
    assert (ledger.by_layer(), told, entry.is_removed) == ({}, [3], True)
    assert not ledger.remove(entry.id, told.append)


def test_a_request_withdrawn_before_it_took_effect_never_acts(ledger):
    entry = install(ledger)
    ledger.remove(entry.id, lambda step: None)
    ledger.settle(1)
    assert ledger.by_layer() == {}


def test_all_are_removed_at_once(ledger):
    entries = [install(ledger, layers=(name,)) for name in "abc"]
    ledger.settle(0)
    ledger.remove_all(lambda step: None)
    ledger.settle(1)
    assert [entry.is_removed for entry in entries] == [True] * 3


def test_the_first_set_stands_first_on_a_layer(ledger):
    first, second = install(ledger), install(ledger, layers=("fc", "head"))
    ledger.settle(0)
    assert ledger.by_layer() == {"fc": (first.applied, second.applied), "head": (second.applied,)}


def test_an_end_after_steps_counts_from_the_first_in_force(ledger):
    install(ledger, end=End(steps=3))
    ledger.settle(10)
    assert [ledger.settle(step) for step in (11, 12, 13)] == [False, False, True]
    assert ledger.by_layer() == {}


def test_an_end_after_seconds_comes_by_the_clock(ledger):
    install(ledger, end=End(seconds=0.05))
    ledger.settle(0)
    assert not ledger.settle(1)
    deadline = time.monotonic() + 5
    while not ledger.settle(2):
        assert time.monotonic() < deadline
    assert ledger.by_layer() == {}


def test_it_ends_when_its_viewer_has_vanished_and_stays_while_it_lives(ledger, monkeypatch):
    monkeypatch.setattr(ledger_module, "VANISHED_AFTER_S", 0.05)
    install(ledger, end=End(viewer="v1"))
    ledger.settle(0)
    deadline = time.monotonic() + 0.2
    while time.monotonic() < deadline:
        ledger.see_viewers(["v1", "v2"])
        assert not ledger.settle(1)
    deadline = time.monotonic() + 5
    while not ledger.settle(2):
        ledger.see_viewers(["v2"])
        assert time.monotonic() < deadline


def test_an_end_is_said_in_words():
    assert str(End()) == ""
    assert str(End(steps=5)) == "for 5 steps"
    assert str(End(viewer="v")) == "while its viewer lives"
