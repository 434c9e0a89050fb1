import time

import pytest

from gradscope.intervene import ACTIONS, End, InterventionRequest, Ledger, Schedule
from gradscope.intervene import ledger as ledger_module


@pytest.fixture
def ledger():
    return Ledger()


def install(ledger, layers=("fc",), end=None, done=None, site="output", **schedule):
    wanted = InterventionRequest(
        ACTIONS["scale"], {"factor": 2.0}, layers, site, "test", end or End(), Schedule(**schedule)
    )
    return ledger.install(wanted, done or (lambda entry, step: None))


def test_a_request_is_pending_until_it_is_settled_and_tells_the_step(ledger):
    told = []
    entry = install(ledger, done=lambda entry, step: told.append((entry.id, step)))
    assert (entry.active_since, ledger.by_layer("output"), told) == (None, {}, [])
    assert ledger.settle(7)
    assert (entry.active_since, told, ledger.revision) == (7, [("scale-1", 7)], 1)
    assert list(ledger.by_layer("output")) == ["fc"]


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
    assert ledger.by_layer("output")
    ledger.settle(3)
    assert (ledger.by_layer("output"), told, entry.is_removed) == ({}, [3], True)
    assert not ledger.remove(entry.id, told.append)


def test_a_request_withdrawn_before_it_took_effect_never_acts(ledger):
    entry = install(ledger)
    ledger.remove(entry.id, lambda step: None)
    ledger.settle(1)
    assert ledger.by_layer("output") == {}


def test_remove_all_removes_all_interventions_in_one_step(ledger):
    entries = [install(ledger, layers=(name,)) for name in "abc"]
    ledger.settle(0)
    ledger.remove_all(lambda step: None)
    ledger.settle(1)
    assert [entry.is_removed for entry in entries] == [True] * 3


def test_interventions_on_a_layer_are_listed_in_the_order_of_installation(ledger):
    first, second = install(ledger), install(ledger, layers=("fc", "head"))
    ledger.settle(0)
    assert ledger.by_layer("output") == {
        "fc": (first.intervention, second.intervention),
        "head": (second.intervention,),
    }


def test_an_end_after_steps_counts_from_the_first_in_force(ledger):
    install(ledger, end=End(steps=3))
    ledger.settle(10)
    assert [ledger.settle(step) for step in (11, 12, 13)] == [False, False, True]
    assert ledger.by_layer("output") == {}


def test_an_end_after_seconds_comes_by_the_clock(ledger):
    install(ledger, end=End(seconds=0.05))
    ledger.settle(0)
    assert not ledger.settle(1)
    deadline = time.monotonic() + 5
    while not ledger.settle(2):
        assert time.monotonic() < deadline
    assert ledger.by_layer("output") == {}


def test_it_ends_when_its_viewer_has_vanished_and_stays_while_it_lives(ledger, monkeypatch):
    monkeypatch.setattr(ledger_module, "VANISHED_AFTER_S", 0.05)
    install(ledger, end=End(viewer="v1"))
    ledger.settle(0)
    deadline = time.monotonic() + 0.2
    while time.monotonic() < deadline:
        ledger.note_viewers(["v1", "v2"])
        assert not ledger.settle(1)
    deadline = time.monotonic() + 5
    while not ledger.settle(2):
        ledger.note_viewers(["v2"])
        assert time.monotonic() < deadline


def test_the_text_of_an_end_names_its_condition():
    assert str(End()) == ""
    assert str(End(steps=5)) == "for 5 steps"
    assert str(End(viewer="v")) == "while its viewer is connected"


def test_active_interventions_are_listed_by_site_in_their_steps(ledger):
    at_output = install(ledger, start_step=4, every_steps=3)
    at_input = install(ledger, site="input")
    acting = {}
    for step in range(2, 12):
        ledger.settle(step)
        acting[step] = ledger.by_layer("output").get("fc", ())
        assert ledger.by_layer("input") == {"fc": (at_input.intervention,)}
    assert [step for step, chain in acting.items() if chain] == [4, 7, 10]
    assert acting[4] == (at_output.intervention,)
    assert at_output.active_since == 4
    assert ledger.revision == 1


def test_a_beginning_that_has_passed_is_now(ledger):
    entry = install(ledger, start_step=3)
    ledger.settle(5)
    assert entry.active_since == 5


def test_it_ends_by_itself_before_its_last_step(ledger):
    entry = install(ledger, end_step=6)
    assert [ledger.settle(step) for step in (4, 5, 6)] == [True, False, True]
    assert entry.is_removed


def test_settling_returns_whether_other_interventions_are_active_than_before(ledger):
    install(ledger, every_steps=2)
    assert [ledger.settle(step) for step in range(5)] == [True, True, True, True, True]


def test_the_history_tells_who_did_what_from_which_step(ledger):
    entry = install(ledger, end=End(steps=2))
    other = install(ledger)
    for step in range(3):
        ledger.settle(step)
    ledger.remove(other.id, lambda step: None, by="ada")
    ledger.settle(3)
    audited = [(audit.step, audit.what, audit.id, audit.by) for audit in ledger.history.entries()]
    assert audited == [
        (0, "set", entry.id, "test"),
        (0, "set", other.id, "test"),
        (2, "ended", entry.id, ""),
        (3, "removed", other.id, "ada"),
    ]
    assert "scale(factor=2) on fc at output" in str(ledger.history.entries()[0])


def test_a_failing_intervention_is_removed_at_the_next_step_boundary(ledger):
    entry = install(ledger)
    ledger.settle(0)
    entry.intervention.fail("it broke")
    entry.intervention.fail("again")
    ledger.settle(1)
    assert entry.is_removed
    whats = [(audit.what, audit.origin) for audit in ledger.history.entries()]
    assert whats == [("set", ""), ("failed", "it broke"), ("removed", "")]
