"""The newest state of the watched run, from messages in the order in which a hub sends them."""

import pytest
from msgspec.structs import replace

from gradscope.client.state import RunState
from gradscope.protocol import (
    Backfill,
    Event,
    Interventions,
    Manifest,
    Memory,
    RunInfo,
    Runs,
    Scalars,
    Skipped,
    Step,
    pack_layers,
)

MANIFEST = Manifest(run="r", rank=0, revision=1, model="Net", body=pack_layers([]))
INTERVENTIONS = Interventions(run="r", rank=0, revision=1, step=0)


def step(number):
    return Step(
        run="r", rank=0, seq=number, step=number, time_s=float(number), manifest_revision=1,
        kinds=(), rows=0, columns=(), body=b"",
    )  # fmt: skip


def backfill(state, number):
    return Backfill(run="r", state=state, count=4, number=number)


OF_EARLIER_SUBSCRIPTION = [
    backfill("begin", 1),
    step(0),
    step(1),
    Scalars(run="r", rank=0, steps=(0,), times_s=(0.0,), values={"loss": (1.0,)}),
    Event(run="r", rank=0, step=0, time_s=0.0, level="info", code="c", text="x"),
    Memory(run="r", rank=0, step=0, time_s=0.0, manifest_revision=1, rows=0, columns=(), body=b""),
    Skipped(run="r", rank=0, count=1, step=2),
    backfill("end", 1),
    step(3),
]


@pytest.mark.parametrize("split", range(len(OF_EARLIER_SUBSCRIPTION) + 1))
def test_messages_of_an_earlier_subscription_to_the_same_run_hide_none_of_the_new_one(split):
    known = RunState()
    known.watch("r", 1)
    known.store_message(MANIFEST)
    for message in OF_EARLIER_SUBSCRIPTION[:split]:
        known.store_message(message)
    known.watch("r", 2)
    for message in OF_EARLIER_SUBSCRIPTION[split:]:
        assert known.store_message(message) == []
        assert not known.has_all_but_steps
        assert not known.is_synchronised
    assert known.memory(0) is None

    assert known.store_message(MANIFEST) == [MANIFEST]
    assert known.store_message(INTERVENTIONS) == [INTERVENTIONS]
    assert known.store_message(backfill("begin", 2)) == [backfill("begin", 2)]
    assert not known.has_all_but_steps
    for number in range(4):
        assert known.store_message(step(number)) == [step(number), {0: step(number)}]
        assert known.has_all_but_steps
    assert not known.is_synchronised
    known.store_message(backfill("end", 2))
    assert known.is_synchronised
    assert known.manifest(0) == MANIFEST


def info(pid, started_s):
    return RunInfo(
        "r", 0, 1, "h", pid, "u", "s", started_s, is_live=True, step=None, last_message_s=0.0
    )


def at(time_s, number):
    return replace(step(number), time_s=time_s)


def test_steps_of_a_restarted_run_are_stored_although_the_clock_was_set_back():
    known = RunState()
    known.watch("r")
    known.store_message(Runs(runs=(info(1, 1000.0),)))
    for number in range(3):
        assert known.store_message(at(1000.0 + number, number))
    known.store_message(Runs(runs=(info(2, 400.0),)))
    for number in range(3):
        assert known.store_message(at(400.0 + number, number)), number
        assert known.store_message(at(400.0 + number, number)) == []  # sent again


@pytest.mark.parametrize("jump_s", [-3600.0, 3600.0])
def test_a_jump_of_the_clock_neither_hides_nor_doubles_a_step(jump_s):
    known = RunState()
    known.watch("r")
    known.store_message(Runs(runs=(info(1, 1000.0),)))
    steps = [at(1000.0 + number + (jump_s if number >= 3 else 0.0), number) for number in range(6)]
    assert all(known.store_message(each) for each in steps)
    assert [known.store_message(each) for each in steps[-1:]] == [[]]


def test_without_a_number_all_messages_are_stored():
    known = RunState()
    known.watch("r")
    assert known.store_message(step(0)) == [step(0), {0: step(0)}]
