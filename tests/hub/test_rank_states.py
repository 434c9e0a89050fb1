"""How the ranks of a run are doing, as a hub collects it and viewers receive it."""

import time

import pytest

from gradscope.client import connect
from gradscope.hub.ranks.states import RunRanks
from gradscope.hub.runs import Rank
from gradscope.protocol import Heartbeat, Hello, Scalars, Times
from support.rank_steps import manifest_of_rank, step_of_rank
from support.waiting import DEADLINE_S

NOW_S = 50.0


def known(count, *, live=None):
    live = range(count) if live is None else live
    return {
        rank: Rank(Hello(role="agent", peer="p", run="r", rank=rank), b"x" if rank in live else None)
        for rank in range(count)
    }


def scalars(rank, step, step_time_s):
    values = {"step_time_s": (step_time_s,)}
    return Scalars(run="r", rank=rank, steps=(step,), times_s=(0.0,), values=values)


def test_the_time_of_a_step_is_the_median_of_the_newest_and_that_before_backward_adds_its_phases():
    ranks = RunRanks()
    for step, time_s in enumerate((9.0, 0.1, 0.3, 0.2)):
        ranks.note(0, scalars(0, step, time_s), NOW_S)
    phases = {"data": 0.01, "forward": 0.02, "loss": 0.005, "backward": 0.5, "optimizer": 0.1}
    ranks.note(0, Times(run="r", rank=0, step=3, time_s=0.0, manifest_revision=1, rows=0, columns=(), phases_s=phases), NOW_S)  # fmt: skip  # noqa: E501
    (state,) = ranks.message("r", known(1), None, NOW_S + 2).ranks
    assert state.step == 3
    assert state.step_s == pytest.approx(0.25)
    assert state.before_backward_s == pytest.approx(0.035)
    assert state.still_s == pytest.approx(2.0)


def test_the_age_of_a_step_grows_although_nothing_is_heard_and_a_heartbeat_says_where_the_rank_is():
    ranks = RunRanks()
    ranks.note(0, Heartbeat(step=7, still_s=6.0, place="t.py:1 in f", layer="fc"), NOW_S)
    state, unheard = ranks.message("r", known(2, live=[0]), None, NOW_S + 3).ranks
    assert (state.step, state.still_s, state.place, state.layer) == (7, 9.0, "t.py:1 in f", "fc")
    assert (unheard.is_live, unheard.step, unheard.still_s, unheard.step_s) == (False, None, None, None)


def test_of_many_ranks_the_ones_with_a_reason_are_listed():
    ranks = RunRanks()
    for rank in range(1000):
        ranks.note(rank, scalars(rank, 1, 5.0 if rank == 900 else 0.1), NOW_S)
    message = ranks.message("r", known(1000), None, NOW_S)
    listed = [state.rank for state in message.ranks]
    assert message.count == 1000
    assert listed == [*range(255), 900]


def test_a_client_receives_the_states_of_all_ranks_with_their_numbers(hub, bring_up):
    agents = []
    for rank in range(3):
        hello = Hello(role="agent", peer=f"a{rank}", run="r", rank=rank, world_size=3, record="")
        agents.append(bring_up(hub.agents, hello))
        agents[-1].send(manifest_of_rank(rank))
    for rank, agent in enumerate(agents):
        agent.send(scalars(rank, 4, 0.1))
        agent.send(step_of_rank(rank, 4))
        agent.send(Heartbeat(step=4, still_s=0.5))
    deadline_s = time.monotonic() + DEADLINE_S
    with connect("r", want="observe") as client:
        while not (states := client.rank_states(DEADLINE_S).get("r")) or states.compared_step != 4:
            assert time.monotonic() < deadline_s, states
            for agent in agents:
                agent.receive(0.02)
    assert [state.rank for state in states.ranks] == [0, 1, 2]
    assert [state.step_s for state in states.ranks] == [0.1] * 3
    assert [set(state.norms) for state in states.ranks] == [{"out"}] * 3
    assert all(state.differs_by is not None for state in states.ranks)
