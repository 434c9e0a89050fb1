"""Ranks as threads of one process, over a store in memory: what is agreed on comes at the same step."""

import random
import threading
import time
from functools import partial
from types import SimpleNamespace

import pytest
import torch.distributed as dist

from gradscope.agent.commands.consensus import Consensus
from gradscope.agent.commands.queue import CommandQueue, PendingCommand
from gradscope.agent.run.faults import Faults
from gradscope.errors import UsageError
from support.waiting import DEADLINE_S, wait_for


class Rank:
    """One rank: it takes steps of its own length, and obeys changes that are words.

    `hold` and `go` close and open a barrier; any other word is written down with the step.
    """

    def __init__(self, rank, world_size, store, step_s):
        self.faults = Faults(lambda code, text: None)
        run = SimpleNamespace(faults=self.faults, plan_again=lambda: None)
        self.queue = CommandQueue(run, SimpleNamespace(apply_interventions_now=lambda: None))
        self.consensus = Consensus(
            rank,
            world_size,
            connect=lambda: dist.PrefixStore("ranks", store),
            put=self.queue.put,
            faults=self.faults,
        )
        self.consensus.register("word", self.prepare)
        self.queue.set_consensus(self.consensus)
        self.obeyed, self.held, self.told, self.refused = [], [], {}, {}
        self.refuses = ""
        self.step = 0
        self._is_closed = False
        self._step_s = step_s
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._train)

    def start(self):
        self._thread.start()

    def prepare(self, word):
        if word == self.refuses:
            raise UsageError(f"{word} cannot be")
        return lambda boundary: self._obey(word, boundary)

    def submit(self, word):
        """Propose a word to all ranks."""
        done = partial(self._note, self.told, word)
        change = PendingCommand(
            self.prepare(word), done, refuse=partial(self._note, self.refused, word)
        )
        self.consensus.submit("word", word, change)

    def is_answered(self, word):
        return word in self.told or word in self.refused

    def end(self):
        self._stopping.set()
        self.queue.recheck_hold()
        self._thread.join(DEADLINE_S)
        self.queue.close()

    @staticmethod
    def _note(notes, word, told, *_):
        notes[word] = told

    def _obey(self, word, boundary):
        self._is_closed = {"hold": True, "go": False}.get(word, self._is_closed)
        self.obeyed.append((boundary.step, word, boundary.label))
        boundary.done(boundary.step)

    def _train(self):
        while not self._stopping.is_set():
            self.queue.at_boundary(self.step)
            if self._is_closed:
                self.held.append(self.step)
                self.queue.hold(self.step, lambda: not self._is_closed or self._stopping.is_set())
            time.sleep(self._step_s)
            self.step += 1


@pytest.fixture
def process_group():
    """What an agreement asks for: that torch.distributed is in use."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.fixture
def ranks(process_group):
    """Three ranks of different pace."""
    store = dist.HashStore()
    ranks = [Rank(i, 3, store, step_s) for i, step_s in enumerate((0.001, 0.002, 0.0005))]
    for rank in ranks:
        rank.start()
    yield ranks
    for rank in ranks:
        rank.end()
    assert [rank.faults.counts for rank in ranks] == [{}, {}, {}]


def all_obeyed(ranks, count):
    return all(len(rank.obeyed) == count for rank in ranks)


@pytest.mark.parametrize("proposer", [0, 1])
def test_a_rank_on_which_no_step_ends_rejects_commands_with_its_reason(process_group, proposer):
    store = dist.HashStore()
    ranks = [Rank(i, 2, store, 0.0) for i in range(2)]
    for rank in ranks:
        rank.queue.at_boundary(0)
    ranks[0].queue.no_step_ends("no optimizer has stepped")
    ranks[proposer].submit("word")
    wait_for(lambda: ranks[proposer].is_answered("word"))
    assert ranks[proposer].refused["word"].endswith("no optimizer has stepped")
    ranks[0].queue.at_boundary(1)
    ranks[proposer].submit("later")
    for rank in ranks:
        rank.start()
    wait_for(lambda: all_obeyed(ranks, 1))
    for rank in ranks:
        rank.end()


def test_changes_of_several_proposers_are_made_at_the_same_steps_in_the_same_order(ranks):
    chance = random.Random(1)
    words = [f"word-{i}" for i in range(60)]
    for word in words:
        ranks[chance.randrange(3)].submit(word)
        time.sleep(chance.uniform(0, 0.01))
    wait_for(lambda: all(any(r.is_answered(w) for r in ranks) for w in words), "all answers")
    wait_for(lambda: all_obeyed(ranks, len(words)), "all ranks")
    assert ranks[0].obeyed == ranks[1].obeyed == ranks[2].obeyed
    assert {word: step for step, word, _ in ranks[0].obeyed} == {
        word: step for rank in ranks for word, step in rank.told.items()
    }
    assert len({label for _, _, label in ranks[0].obeyed}) == len(words)


def test_all_ranks_pause_before_the_same_step_and_obey_commands_there(ranks):
    ranks[0].submit("hold")
    wait_for(lambda: all(rank.held for rank in ranks), "a hold")
    (held,) = {rank.held[0] for rank in ranks}
    for i in range(5):
        ranks[i % 3].submit(f"word-{i}")
    wait_for(lambda: all_obeyed(ranks, 6), "the meanwhile requested changes")
    assert {step for step, _, _ in ranks[2].obeyed} == {held}
    ranks[1].submit("go")
    wait_for(lambda: all(rank.step > held for rank in ranks), "the end of the hold")
    assert ranks[0].obeyed == ranks[1].obeyed == ranks[2].obeyed


def test_pauses_and_proposals_in_any_order_reach_all_ranks_in_one_order(ranks):
    chance = random.Random(2)
    count = 40
    for i in range(count):
        word = f"word-{i}" if i % 3 else ("hold" if i % 2 else "go")
        ranks[chance.randrange(3)].submit(word)
        time.sleep(chance.choice([0, 0.003, 0.02]))
    ranks[0].submit("go")
    wait_for(lambda: all_obeyed(ranks, count + 1), "all ranks")
    assert ranks[0].obeyed == ranks[1].obeyed == ranks[2].obeyed
    assert ranks[0].held == ranks[1].held == ranks[2].held


def test_what_one_rank_refuses_is_made_on_none_and_the_reason_names_it(ranks):
    ranks[2].refuses = "word-1"
    ranks[0].submit("word-1")
    ranks[0].submit("word-2")
    wait_for(lambda: all_obeyed(ranks, 1), "the other one")
    assert ranks[0].refused == {"word-1": "rank 2: word-1 cannot be"}
    assert {word for rank in ranks for _, word, _ in rank.obeyed} == {"word-2"}


def test_after_one_rank_has_left_nothing_is_changed_any_more(ranks):
    ranks[1].end()
    ranks[0].submit("word-1")
    wait_for(lambda: ranks[0].is_answered("word-1"), "the answer")
    assert "rank 1 has detached" in ranks[0].refused["word-1"]
    assert ranks[0].obeyed == ranks[2].obeyed == []


def test_a_rank_that_never_came_is_named_and_the_others_do_not_wait_for_it(process_group):
    store = dist.HashStore()
    alone = Rank(0, 2, store, 0.001)
    alone.start()
    try:
        alone.submit("word-1")
        before = alone.step
        wait_for(lambda: alone.is_answered("word-1"), "the answer")
        assert "rank 1 did not answer in 2 s" in alone.refused["word-1"]
        assert alone.step > before + 100
    finally:
        alone.end()


def test_without_a_process_group_a_change_is_refused_at_once():
    alone = Rank(0, 2, None, 0.001)
    alone.submit("word-1")
    assert "torch.distributed is not initialised" in alone.refused["word-1"]
    alone.queue.close()
