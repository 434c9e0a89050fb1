"""`RunStore`: which messages of a run it stores and which it ignores."""

import numpy as np
import pytest
from msgspec import structs
from synthetic_run import KINDS, SyntheticRun, gpt_layers

from gradscope.protocol import Backfill, Layer, Manifest, Runs, Skipped, pack_layers
from gradscope_tui.store.run import RunStore
from gradscope_tui.store.session import Session, end_of

RUN = SyntheticRun(layers=gpt_layers(blocks=1))


class Clock:
    def __init__(self, now=1000.0):
        self.now = now

    def __call__(self):
        return self.now


@pytest.fixture
def store():
    store = RunStore(RUN.run, clock=Clock(), wall=Clock(RUN.start_s))
    store.feed(RUN.manifest())
    return store


def grad_norm(block, node):
    return np.sqrt(
        block.values["sumsq"][(block.layer == node) & (block.kind == KINDS.index("grad"))][0]
    )


def feed(store, *messages):
    for message in messages:
        store.feed(message)


def test_the_newest_step_is_shown_and_the_past_is_kept(store):
    feed(store, *(RUN.step(n) for n in range(5)))
    assert store.step == 4
    assert store.ring.steps().tolist() == [0, 1, 2, 3, 4]
    assert store.frame().measured.step == 4
    head = store.tree.find("head")
    norms = [store.frame().trend[i, head] for i in range(5)]
    expected = [grad_norm(RUN.block(n), head) for n in range(5)]
    assert norms == pytest.approx(expected, rel=1e-6)


def test_a_backfill_after_a_reconnect_shows_no_step_twice_and_fills_the_holes(store):
    feed(store, *(RUN.step(n) for n in (0, 2, 5)))
    feed(store, Backfill(run=RUN.run, state="begin", count=7))
    feed(store, *(RUN.step(n) for n in range(7)), Backfill(run=RUN.run, state="end", count=7))
    assert store.ring.steps().tolist() == list(range(7))
    assert store.counters["again"] == 3
    assert store.frame().measured.step == 6


def test_a_late_step_does_not_replace_the_newest(store):
    feed(store, RUN.step(9), RUN.step(3))
    assert store.frame().measured.step == 9
    assert store.newest.step == 9


def test_a_restarted_run_drops_the_old_data_and_logs_it(store):
    feed(store, *(RUN.step(n) for n in range(50)), RUN.scalars(*range(50)))
    later = RUN.start_s + 1_000
    feed(store, RUN.step(0, seq=0, time_s=later), RUN.step(1, seq=1, time_s=later + 1))
    assert store.ring.steps().tolist() == [0, 1]
    assert store.step == 1
    assert "restarted at step 0" in list(store.journal)[-1].text


def test_scalars_alone_show_that_a_run_restarted(store):
    feed(store, RUN.scalars(*range(50)))
    again = SyntheticRun(layers=RUN.layers, start_s=RUN.start_s + 1_000, seed=1)
    feed(store, again.scalars(0, 1, 2))
    steps, losses = store.scalars.series("loss", 100)
    assert steps.tolist() == [0, 1, 2]
    assert losses == pytest.approx([again.loss(n) for n in range(3)], rel=1e-6)


def test_a_changed_model_keeps_the_past_of_layers_that_are_still_there(store):
    feed(store, *(RUN.step(n) for n in range(3)))
    before = store.ring.series("grad_norm", store.tree.find("head"))
    layers = (Layer("", "GPT", is_watched=False), Layer("new", "Linear"), *RUN.layers[1:])
    manifest = Manifest(
        run=RUN.run, rank=0, revision=2, model="GPT", layer_count=len(layers), body=pack_layers(layers)
    )
    feed(store, manifest)
    assert store.ring.series("grad_norm", store.tree.find("head")).tolist() == before.tolist()
    assert np.isnan(store.ring.series("grad_norm", store.tree.find("new"))).all()
    assert "the model changed" in list(store.journal)[-1].text


def test_a_step_of_another_revision_is_counted_and_not_shown(store):
    feed(store, RUN.step(1, revision=9))
    assert store.newest is None
    assert store.counters["other_revision"] == 1


def test_undecodable_messages_are_counted_and_ignored(store):
    feed(store, structs.replace(RUN.step(1), body=b"no"), RUN.step(2))
    assert store.counters["garbage"] == 1
    assert store.frame().measured.step == 2


def test_other_ranks_and_other_runs_are_ignored(store):
    other = SyntheticRun(run="another", layers=RUN.layers)
    feed(store, other.step(3), structs.replace(RUN.step(1), rank=1))
    assert store.newest is None


def test_withheld_and_dropped_steps_are_counted(store):
    feed(store, Skipped(run=RUN.run, rank=0, count=7, step=9), RUN.step(10, dropped=3))
    assert store.counters["withheld"] == 7
    assert store.counters["dropped"] == 3


def test_an_event_is_logged_once_although_it_is_sent_again(store):
    feed(store, RUN.event(3, "hello"), RUN.event(3, "hello"), RUN.event(4, "hello"))
    assert [(e.step, e.text) for e in store.journal] == [(3, "hello"), (4, "hello")]


def test_live_data_is_dated_by_arrival_and_a_backfill_by_its_sender(store):
    clock, wall = store._clock, store._wall
    wall.now = RUN.start_s + 100.0
    feed(store, Backfill(run=RUN.run, state="begin", count=1), RUN.step(10))
    assert store.age_s() == pytest.approx(100.0 - 1.0)
    feed(store, Backfill(run=RUN.run, state="end", count=1), RUN.step(11))
    assert store.age_s() == pytest.approx(0.0)
    clock.now += 3.0
    assert store.age_s() == pytest.approx(3.0)


def test_steps_per_second_are_those_of_the_newest_seconds():
    store = RunStore(RUN.run)
    fast = SyntheticRun(layers=RUN.layers, step_s=0.1)
    feed(store, *(fast.scalars(n) for n in range(100)))
    assert store.scalars.steps_per_second() == pytest.approx(10.0)


def test_numbers_too_large_for_float32_and_missing_ones_are_accepted(store):
    values = {"loss": (1e300, None, float("nan"))}
    feed(store, structs.replace(RUN.scalars(1, 2, 3), values=values))
    steps, losses = store.scalars.series("loss", 10)
    assert steps.tolist() == [1, 3]
    assert losses[0] == np.inf
    assert np.isnan(losses[1])


def test_the_number_of_scalar_names_is_bounded(store):
    for n in range(300):
        feed(store, structs.replace(RUN.scalars(n), values={f"x{n}": (1.0,)}))
    assert len(store.scalars.names) <= 64


def test_a_session_lists_live_runs_first_and_the_youngest_first():
    session = Session()
    runs = [
        SyntheticRun(run="old", start_s=1.0),
        SyntheticRun(run="young", start_s=2.0),
        SyntheticRun(run="ended", start_s=3.0),
    ]
    session.feed(Runs(runs=tuple(run.info(is_live=run.run != "ended") for run in runs)))
    assert session.names() == ("young", "old", "ended")
    assert session.live() == ("young", "old")


def test_a_run_has_ended_when_no_rank_is_live_and_the_first_failure_says_how():
    def rank(number, last_message_s, reason, **fields):
        info = structs.replace(SyntheticRun().info(is_live=False), rank=number, reason=reason)
        return structs.replace(info, last_message_s=last_message_s, **fields)

    detached = rank(0, 1.0, "detached")
    later, first = (rank(n, 5.0 - n, f"failed {n}", has_failed=True) for n in (1, 2))
    live = structs.replace(SyntheticRun().info(), rank=3)
    assert end_of([detached, later, first], "gpt-7f3a") is first
    assert end_of([detached], "gpt-7f3a") is detached
    assert end_of([detached, live], "gpt-7f3a") is None
    assert end_of([detached], "another") is None


def test_every_message_changes_the_version(store):
    session = Session()
    session.watch(RUN.run)
    versions = [session.version]
    for message in (
        RUN.manifest(),
        RUN.step(1),
        RUN.scalars(1),
        RUN.event(1, "x"),
        RUN.interventions(1, 1),
    ):
        session.feed(message)
        versions.append(session.version)
    session.watch("another")
    versions.append(session.version)
    assert len(set(versions)) == len(versions)
