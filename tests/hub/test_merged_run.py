"""Viewers of merged ranks: the hub sends what viewers would make of the messages of all ranks."""

import math
import time
from collections import Counter

import numpy as np
import pytest

from gradscope.client import connect
from gradscope.columns import Table, merge_ranks
from gradscope.hub.ranks.merged_run import MergedRun
from gradscope.hub.viewer_delivery import ViewerDelivery
from gradscope.protocol import (
    Backfill,
    Credit,
    Event,
    Hello,
    Interventions,
    Manifest,
    Runs,
    Scalars,
    Skipped,
    Step,
    Subscribe,
    decode,
    encode,
    unpack_layers,
)
from gradscope.protocol.bodies import unpack_block
from support.rank_steps import block_of_rank, manifest_of_rank, step_of_rank
from support.waiting import DEADLINE_S, wait_for

NAMES = ("first", "last")
NOW_S = 100.0


def merged_run(*names_of_ranks):
    run = MergedRun()
    for rank, names in enumerate(names_of_ranks):
        run.add_manifest(rank, 1, encode(manifest_of_rank(rank, names)))
    return run


def put(run, step, *ranks, now_s=NOW_S):
    for rank in ranks:
        run.put(rank, step, encode(step_of_rank(rank, step)), now_s)


def expected(step, *ranks, names=NAMES):
    return merge_ranks([(names, block_of_rank(rank, step)) for rank in ranks])


def assert_is_merged(step, number, *ranks):
    assert (step.step, step.ranks, step.rank) == (number, ranks, 0)
    block, (_, whole) = unpack_block(step), expected(number, *ranks)
    for name, column in whole.values.items():
        assert np.array_equal(block.column(name), column.astype(np.float64)), name
    assert np.array_equal(block.layer, whole.layer)


def test_a_step_is_merged_when_all_ranks_have_reported_it():
    run = merged_run(NAMES, NAMES, NAMES)
    put(run, 0, 0, 1)
    assert run.newest == 0
    put(run, 0, 2)
    assert run.newest == 1
    assert_is_merged(decode(run.take(NOW_S)), 0, 0, 1, 2)


def test_a_step_is_merged_once_for_all_viewers_and_merging_takes_a_quarter_of_the_time():
    run = merged_run(NAMES, NAMES)
    put(run, 0, 0, 1)
    first = run.take(NOW_S)
    assert run.take(NOW_S) is first
    assert run.ready_s() == 0.0
    put(run, 1, 0, 1)
    assert NOW_S < run.ready_s() < NOW_S + 1.0


def test_a_silent_rank_is_waited_for_a_quarter_of_a_second_and_then_left_out():
    run = merged_run(NAMES, NAMES, NAMES)
    put(run, 0, 0, 1, 2)
    put(run, 1, 0, 2)
    run.poll(NOW_S + 0.2)
    assert run.newest == 1
    assert run.due_s() == NOW_S + 0.25
    run.poll(NOW_S + 0.25)
    assert_is_merged(decode(run.take(NOW_S)), 1, 0, 2)
    put(run, 2, 0, 2)  # not waited for any more
    assert_is_merged(decode(run.take(NOW_S)), 2, 0, 2)
    put(run, 3, 1)  # it is back
    put(run, 3, 0, 2)
    assert_is_merged(decode(run.take(NOW_S)), 3, 0, 1, 2)


def test_ranks_with_other_layers_get_one_manifest_with_the_layers_of_all():
    run = merged_run(("a", "b"), ("b", "c"))
    put(run, 0, 0, 1)
    manifest, step = decode(run.manifest()), decode(run.take(NOW_S))
    names = tuple(layer.name for layer in unpack_layers(manifest))
    assert names == ("a", "b", "c")
    assert manifest.revision == step.manifest_revision
    table = Table(0, names, unpack_block(step))
    found = Table(
        0, *merge_ranks([(("a", "b"), block_of_rank(0, 0)), (("b", "c"), block_of_rank(1, 0))])
    )
    assert table.to_dict() == found.to_dict()


def test_ranks_with_the_same_layers_have_the_manifest_of_the_lowest_rank():
    run = merged_run(NAMES, NAMES)
    assert decode(run.manifest()) == manifest_of_rank(0)


def test_the_steps_of_the_only_rank_stay_as_they_are():
    run = merged_run(NAMES)
    parts = encode(step_of_rank(0, 4))
    run.put(0, 4, parts, NOW_S)
    assert run.take(NOW_S) is parts


def test_a_step_of_a_faulty_rank_is_counted_and_not_sent():
    run = merged_run(NAMES, NAMES)
    put(run, 0, 0)
    run.put(1, 0, encode(step_of_rank(1, 0, revision=9)), NOW_S)
    assert run.take(NOW_S) is None
    assert run.unreadable == 1


def test_past_steps_are_merged_and_an_incomplete_newest_one_is_left_to_the_live_ones():
    run = merged_run(NAMES, NAMES)
    histories = {
        0: [encode(step_of_rank(0, step)) for step in range(4)],
        1: [encode(step_of_rank(1, step)) for step in range(3)],
    }
    run.start({rank: steps[-2:] for rank, steps in histories.items()})
    count, past = run.past(histories, live=(0, 1))
    steps = [decode(parts) for parts in past]
    assert count == 4
    assert [step.step for step in steps] == [0, 1, 2]
    for step in steps:
        assert_is_merged(step, step.step, 0, 1)
    put(run, 3, 1)
    assert_is_merged(decode(run.take(NOW_S)), 3, 0, 1)
    _, past = run.past(histories, live=())
    assert [decode(parts).ranks for parts in past] == [(0, 1)] * 3 + [(0,)]


def test_a_viewer_gets_the_newest_merged_step_as_credit_allows_and_the_count_of_the_others():
    run, sent, counts = merged_run(NAMES, NAMES), [], Counter()
    delivery = ViewerDelivery(lambda parts: sent.append(decode(parts)) or True, counts)
    delivery.subscribe(Subscribe(run="r", max_rate_hz=1000.0, is_merged=True), iter(()), run)
    for step in range(5):
        put(run, step, 0, 1)
    assert delivery.flush(NOW_S) == math.inf
    assert sent == []
    delivery.add_credit(1)
    delivery.flush(NOW_S)
    skipped, step = sent
    assert skipped == Skipped(run="r", rank=0, count=4, step=3)
    assert_is_merged(step, 4, 0, 1)
    put(run, 5, 0, 1)
    delivery.flush(NOW_S + 1)
    assert counts == Counter(offered_steps=6, skipped_steps=4, sent_steps=1)
    delivery.close()
    assert counts == Counter(offered_steps=6, skipped_steps=5, sent_steps=1)


# Through a hub.

RANKS = 3


@pytest.fixture
def agents(hub, bring_up):
    """The links of three ranks, which have sent a manifest and steps 0 to 4."""
    links = []
    for rank in range(RANKS):
        hello = Hello(role="agent", peer=f"a{rank}", run="r", rank=rank, world_size=RANKS, record="")
        links.append(bring_up(hub.agents, hello))
        links[-1].send(manifest_of_rank(rank))
        links[-1].send(Interventions(run="r", rank=rank, revision=1, step=0))
    for step in range(5):
        send_step(links, step)
    return links


def send_step(links, step):
    for rank, link in enumerate(links):
        link.send(step_of_rank(rank, step))
        link.send(Scalars(run="r", rank=rank, steps=(step,), times_s=(1.0,), values={"loss": (1.0,)}))


def receive(viewer, agents, is_enough):
    """Receive until enough has arrived, and keep the links of the agents alive."""
    deadline_s, messages = time.monotonic() + DEADLINE_S, []
    while not is_enough(messages):
        assert time.monotonic() < deadline_s, messages
        messages += viewer.receive(0.02)
        for agent in agents:
            agent.receive(0.0)
    return messages


def test_the_hub_sends_merged_steps_past_and_live_and_of_the_rest_only_one_rank(hub, bring_up, agents):
    viewer = bring_up(hub.viewers, Hello(role="viewer", peer="v"))

    def have_all(messages):
        viewer.send(Runs())
        runs = [each for message in messages if isinstance(message, Runs) for each in message.runs]
        return len({info.rank for info in runs if info.step == 4}) >= RANKS

    receive(viewer, agents, have_all)
    viewer.send(Subscribe(run="r", max_rate_hz=1000.0, is_merged=True))
    viewer.send(Credit(count=100))
    messages = receive(viewer, agents, lambda found: any(
        isinstance(each, Backfill) and each.state == "end" for each in found
    ))  # fmt: skip
    event = Event(run="r", rank=2, step=5, time_s=1.0, level="info", code="c", text="t")
    agents[2].send(event)
    send_step(agents, 5)
    messages += receive(viewer, agents, lambda found: any(isinstance(m, Step) for m in found))
    steps = [message for message in messages if isinstance(message, Step)]
    assert [step.step for step in steps] == list(range(6))
    for step in steps:
        assert_is_merged(step, step.step, 0, 1, 2)
    assert event in messages
    for kind in (Manifest, Interventions, Scalars):
        assert {message.rank for message in messages if isinstance(message, kind)} == {0}, kind


def test_a_viewer_of_one_rank_gets_its_exact_messages_and_no_others(hub, bring_up, agents):
    viewer = bring_up(hub.viewers, Hello(role="viewer", peer="v"))
    viewer.send(Subscribe(run="r", max_rate_hz=1000.0, rank=1))
    viewer.send(Credit(count=100))
    messages = receive(
        viewer, agents, lambda found: any(isinstance(m, Step) and m.step == 4 for m in found)
    )
    assert [m for m in messages if isinstance(m, Step)] == [step_of_rank(1, step) for step in range(5)]
    for kind in (Manifest, Interventions, Scalars):
        assert {message.rank for message in messages if isinstance(message, kind)} == {1}, kind


def test_a_client_has_tables_of_all_ranks_and_of_one(agents):
    with connect("r", want="observe") as client:

        def latest(**which):
            for agent in agents:
                agent.receive(0.0)
            return client.latest(0.2, **which)

        wait_for(lambda: latest().step == 4, "the newest step")
        merged = latest()
        assert (merged.ranks, merged.missing) == ((0, 1, 2), ())
        assert merged.to_dict() == Table(4, *expected(4, 0, 1, 2)).to_dict()
        one = latest(rank=2)
        assert one.to_dict() == Table(4, NAMES, block_of_rank(2, 4)).to_dict()
        assert latest().to_dict() == merged.to_dict()
        assert client.manifest(rank=1).rank == 1
