"""The line of the ranks: a block for each, and the one that stands out."""

from gradscope.protocol import RankState, RankStates
from gradscope_tui.view.cell import text_of
from gradscope_tui.view.rank_strip import rank_cells, rank_lines


def states(*times_s, **of_last):
    ranks = [RankState(rank=rank, before_backward_s=each) for rank, each in enumerate(times_s[:-1])]
    ranks.append(RankState(rank=len(ranks), before_backward_s=times_s[-1], **of_last))
    return RankStates(run="r", time_s=1.0, count=len(ranks), ranks=tuple(ranks))


def test_the_slow_rank_has_the_highest_block_and_is_marked_and_named():
    cells = rank_cells(states(0.1, 0.11, 0.09, 0.4), 100)
    assert text_of(cells).startswith(" ranks ▂▂▂▇  rank 3: 400 ms until its backward")
    assert len(text_of(cells)) == 100
    assert [cell.text for cell in cells if cell.role == "bad"] == ["▇"]


def test_of_equal_ranks_none_is_marked():
    cells = rank_cells(states(0.1, 0.1), 60)
    assert "2 ranks, none stands out" in text_of(cells)
    assert not any(cell.role == "bad" for cell in cells)


def test_more_ranks_than_cells_share_blocks_and_a_marked_one_stays_visible():
    cells = rank_cells(states(*[0.1] * 500, 0.9), 80)
    assert len(text_of(cells)) == 80
    assert text_of(cells).rstrip().count("▇") == 1
    assert "rank 500" in text_of(cells)


def test_a_rank_without_a_time_is_shown_as_unknown_and_one_that_has_ended_as_gone():
    cells = rank_cells(states(0.1, None, is_live=False), 80)
    assert text_of(cells).startswith(" ranks ▇✕  ended: 1")
    assert text_of(rank_cells(states(0.1, None), 80)).startswith(" ranks ▇·")


def test_a_run_of_one_rank_has_no_line():
    assert rank_cells(states(0.1), 80) == ()
    assert rank_cells(None, 80) == ()
    assert rank_lines(None, 80) == []


def test_the_text_lists_each_rank_that_stands_out_with_a_rank_that_stands_still_first():
    still = {"still_s": 9.0, "step": 4, "layer": "fc", "place": "t.py:1 in f"}
    head, first, second = rank_lines(states(0.1, 0.1, 0.9, 0.1, **still), 120)
    assert "(and 1 other rank)" in text_of(head)
    assert (
        text_of(first) == "   rank 3: no step for 9 s, in layer fc (t.py:1 in f); its last step was 4"
    )
    assert text_of(second).startswith("   rank 2: 900 ms")
