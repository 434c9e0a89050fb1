"""The steps of several ranks put together as they come, in whatever order they do."""

import itertools
import random

from gradscope.columns import RankAssembly, rank_assembly
from gradscope.protocol import Step


def step_of(rank, step):
    return Step(
        run="r",
        rank=rank,
        seq=step,
        step=step,
        time_s=0.0,
        manifest_revision=0,
        kinds=(),
        rows=0,
        columns=(),
    )


def told(gathered):
    return [(next(iter(each.values())).step, tuple(each)) for each in gathered]


def test_a_step_is_finished_when_all_ranks_have_reported_it():
    gathering = RankAssembly()
    assert told(gathering.add(step_of(1, 0), (0, 1))) == []
    assert told(gathering.add(step_of(0, 0), (0, 1))) == [(0, (0, 1))]


def test_in_any_order_of_arrival_each_step_comes_once_whole_and_in_order():
    chance = random.Random(0)
    for _ in range(50):
        queues = [[step_of(rank, step) for step in range(0, 40, 4)] for rank in range(3)]
        gathering, finished = RankAssembly(), []
        while any(queues):
            queue = chance.choice([queue for queue in queues if queue])
            finished += gathering.add(queue.pop(0), (0, 1, 2))
        assert told(finished) == [(step, (0, 1, 2)) for step in range(0, 40, 4)]


def test_a_rank_that_has_gone_on_without_a_step_is_not_awaited():
    gathering = RankAssembly()
    gathering.add(step_of(0, 4), (0, 1))
    assert told(gathering.add(step_of(1, 5), (0, 1))) == [(4, (0,))]


def test_a_rank_that_has_ended_is_not_awaited():
    gathering = RankAssembly()
    gathering.add(step_of(0, 4), (0, 1))
    assert told(gathering.add(step_of(0, 5), (0,))) == [(4, (0,)), (5, (0,))]


def test_a_restarted_run_is_gathered_from_its_start():
    gathering = RankAssembly()
    for rank, step in itertools.product(range(2), (100, 101)):
        gathering.add(step_of(rank, step), (0, 1))
    gathering.add(step_of(0, 0), (0, 1))
    assert told(gathering.add(step_of(1, 0), (0, 1))) == [(0, (0, 1))]


def test_incomplete_steps_are_bounded(monkeypatch):
    monkeypatch.setattr(rank_assembly, "_LIMIT", 200)
    gathering, finished = RankAssembly(), []
    for step in range(700):
        finished += gathering.add(step_of(0, step), (0, 1))
    assert told(finished) == [(step, (0,)) for step in range(500)]
