"""Which ranks stand out, judged from numbers that are written down here."""

# ruff: noqa: RUF001 - the sign of multiplication is meant

import pytest

from gradscope.protocol import RankState
from gradscope.protocol.standing_out import standing_out

WAITING = {"still_s": 8.0, "place": "t.py:9 in main, in all_reduce of c10d.py"}


def states(*of_ranks):
    return [RankState(rank=rank, step=9, **fields) for rank, fields in enumerate(of_ranks)]


@pytest.mark.parametrize(
    "of_ranks",
    [
        [{"before_backward_s": each} for each in (0.010, 0.012, 0.011, 0.014)],
        [{"before_backward_s": each} for each in (0.0001, 0.0001, 0.0009)],  # less than 5 ms apart
        [{"step_s": 0.1, "still_s": 4.0}] * 3,
        [{"step_s": 3.0, "still_s": 20.0}] * 2,  # its steps are slow
        [{"step_s": 0.1, "still_s": 99.0, "place": "paused by gradscope"}] * 2,
        [{"nonfinite": 7}, {"nonfinite": 7}, {"nonfinite": 8}],
        [{"differs_at": "fc out", "differs_by": each} for each in (0.5, 1.0, 3.9)],
        [{}, {}],
    ],
)
def test_ranks_that_are_alike_do_not_stand_out(of_ranks):
    assert standing_out(states(*of_ranks)) == {}


def test_a_slow_rank_stands_out_with_its_time_and_the_median():
    found = standing_out(states(*({"before_backward_s": each} for each in (0.01, 0.012, 0.05, 0.011))))
    assert found == {2: ("50 ms until its backward, 4.3 × the median of the ranks",)}


def test_of_ranks_that_wait_for_one_the_one_is_named_with_its_layer():
    stuck = {"still_s": 8.2, "place": "t.py:3 in forward", "layer": "blocks.1"}
    found = standing_out(states(WAITING, stuck, WAITING, WAITING))
    assert found == {
        1: ("no step for 8 s, in layer blocks.1 (t.py:3 in forward); its last step was 9",)
    }


def test_a_rank_that_stands_still_alone_is_named_and_an_unknown_place_is_said_to_be_unknown():
    found = standing_out(states({"still_s": 0.1}, {"still_s": 6.0}))
    assert found == {1: ("no step for 6 s, where it is now is not known; its last step was 9",)}


def test_nothing_is_said_of_ranks_that_all_stand_still_until_it_is_known_where_each_is():
    stuck = {"place": "t.py:3 in forward", "layer": "blocks.1"}
    of_ranks = [{**WAITING, "still_s": 6.0}, {**stuck, "still_s": 6.0}, {"still_s": 6.0}]
    assert standing_out(states(*of_ranks)) == {}
    later = standing_out(states(*({**each, "still_s": 8.5} for each in of_ranks)))
    assert sorted(later) == [0, 1, 2]


def test_if_every_rank_is_elsewhere_all_are_named():
    places = [{**WAITING, "place": f"t.py:{rank} in f"} for rank in range(3)]
    assert sorted(standing_out(states(*places))) == [0, 1, 2]


def test_ranks_with_other_numbers_stand_out():
    found = standing_out(
        states(
            {"nonfinite": 0, "differs_at": "fc out", "differs_by": 1.0},
            {"nonfinite": 1200, "differs_at": "fc out", "differs_by": 1.1},
            {"nonfinite": 0, "differs_at": "fc grad", "differs_by": 0.125},
        )
    )
    assert found == {
        1: ("1,200 elements are NaN or infinite, none in most ranks",),
        2: ("fc grad is 0.125 × the median of the ranks",),
    }
