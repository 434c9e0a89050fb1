"""Runs with several ranks: their rows merged, or the rows of one rank."""

import numpy as np
import pytest

from gradscope.columns import Block, RankAssembly
from gradscope.protocol import Event, Layer, Manifest, RunInfo, Runs, Step, pack_layers
from gradscope.protocol.bodies import pack_block
from gradscope_tui.store.session import Session

RANKS = 2


def info(rank, *, world_size=RANKS, is_live=True):
    return RunInfo(
        run="job",
        rank=rank,
        world_size=world_size,
        host="here",
        pid=1,
        user="me",
        script="train",
        started_s=0.0,
        is_live=is_live,
        step=None,
        last_message_s=0.0,
    )


def manifest(rank):
    layers = [Layer("", "Sequential", is_watched=False), Layer("fc", "Linear")]
    return Manifest(
        run="job", rank=rank, revision=0, model="Sequential", layer_count=2, body=pack_layers(layers)
    )


def step(rank, number, norm, bins=None):
    """A step whose only row is a gradient of one element."""
    one = np.ones(1)
    zero = {name: np.zeros(1, np.uint64) for name in ("nan", "posinf", "neginf")}
    values = {"calls": one.astype(np.uint64), "count": one.astype(np.uint64), **zero}
    values |= {"sum": norm * one, "sumsq": norm**2 * one, "min": norm * one, "max": norm * one}
    of_fc = np.array([1], np.uint32)
    block = Block(("grad",), of_fc, np.zeros(1, np.uint32), np.zeros(1, np.uint8), values, bins)
    columns, zero_names, body = pack_block(block)
    return Step(
        run="job",
        rank=rank,
        seq=number,
        step=number,
        time_s=float(number),
        manifest_revision=0,
        kinds=("grad",),
        rows=1,
        columns=columns,
        zero=zero_names,
        body=body,
    )


@pytest.fixture
def session():
    session = Session()
    session.feed(Runs(runs=tuple(info(rank) for rank in range(RANKS))))
    session.watch("job")
    for rank in range(RANKS):
        session.feed(manifest(rank))
    return session


def norms(store):
    """The gradient's norm in each step that is shown."""
    fc = [layer.name for layer in store.tree.layers].index("fc")
    steps = [int(each) for each in store.ring.steps()]
    return dict(zip(steps, store.ring.series("grad_norm", fc).tolist(), strict=True))


class Stream:
    """Feeds a session as a client does: each step, then the steps that all live ranks have reported."""

    def __init__(self, session, live=range(RANKS)):
        self.session, self.live = session, live
        self._assembly = RankAssembly()

    def put(self, message):
        self.session.feed(message)
        for steps in self._assembly.add(message, self.live):
            self.session.feed(steps)


@pytest.fixture
def stream(session):
    return Stream(session)


def feed(stream, numbers):
    for number in numbers:
        stream.put(step(0, number, 3.0))
        stream.put(step(1, number, 4.0))


def test_a_step_is_shown_merged_when_both_ranks_have_reported_it(session, stream):
    feed(stream, (0, 5))
    stream.put(step(0, 10, 3.0))
    assert norms(session.watched) == {0: 5.0, 5: 5.0}
    assert session.watched.ranks.in_words() == "2 ranks merged"


def test_each_choice_shows_its_past_and_new_steps(session, stream):
    store = session.watched
    feed(stream, (0, 5))
    assert store.choose_rank() == "rank 0 of 2"
    feed(stream, (10,))
    assert norms(store) == {0: 3.0, 5: 3.0, 10: 3.0}
    assert store.choose_rank() == "rank 1 of 2"
    assert norms(store) == {0: 4.0, 5: 4.0, 10: 4.0}
    assert store.choose_rank() == "2 ranks merged"
    feed(stream, (15,))
    assert norms(store) == {0: 5.0, 5: 5.0, 10: 5.0, 15: 5.0}


def test_the_exponents_of_all_ranks_are_shown_together_and_those_of_one_alone(session, stream):
    store = session.watched
    for number in (0, 5):
        for rank in range(RANKS):
            bins = np.zeros((1, 128), np.uint64)
            bins[0, 40 + rank] = 1
            stream.put(step(rank, number, 3.0, bins))
    fc = [layer.name for layer in store.tree.layers].index("fc")
    whole = store.histograms.shares(fc, "grad", 10, 10)
    assert whole.steps.tolist() == [0, 5]
    assert whole.binades[1, 39:43].tolist() == [0.0, 0.5, 0.5, 0.0]
    store.choose_rank()
    of_first = store.histograms.shares(fc, "grad", 10, 10)
    assert of_first.binades[1, 39:43].tolist() == [0.0, 1.0, 0.0, 0.0]


def test_a_rank_that_has_ended_is_named_as_missing(session, stream):
    feed(stream, (0,))
    session.feed(Runs(runs=(info(0), info(1, is_live=False))))
    stream.live = (0,)
    stream.put(step(0, 5, 3.0))
    assert norms(session.watched) == {0: 5.0, 5: 3.0}
    assert session.watched.ranks.in_words() == "2 ranks merged, without 1"


def test_an_event_of_another_rank_is_in_the_log_with_its_rank(session):
    session.feed(
        Event(run="job", rank=1, step=3, time_s=0.0, level="warning", code="x", text="too hot")
    )
    assert [entry.text for entry in session.watched.journal] == ["rank 1: too hot"]


def test_a_run_of_one_rank_has_no_choice():
    session = Session()
    session.feed(Runs(runs=(info(0, world_size=1),)))
    store = session.watch("job")
    session.feed(manifest(0))
    Stream(session, live=(0,)).put(step(0, 1, 3.0))
    assert store.choose_rank() == ""
    assert norms(store) == {1: 3.0}
