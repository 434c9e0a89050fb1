"""A rank that no longer steps is named within ten seconds, with its layer; the ranks that wait for it are not."""

import time
from pathlib import Path

import pytest

from gradscope.client import connect
from gradscope.protocol.standing_out import standing_out
from support.ranks import started_ranks
from support.waiting import DEADLINE_S, wait_for

pytestmark = [pytest.mark.processes, pytest.mark.usefixtures("ended_hubs")]

SCRIPT = Path(__file__).with_name("hanging_rank.py")
NAMED_IN_S = 10.0


def test_a_rank_that_hangs_is_named_with_its_layer_and_line(places):
    hung, until = places / "hung", places / "until"
    with started_ranks(str(SCRIPT), str(hung), str(until), count=3) as ranks:
        wait_for(lambda: hung.exists() and hung.read_text(), "the hang")
        with connect("job", want="observe") as client:
            found = {}

            def is_named():
                states = client.rank_states(DEADLINE_S).get("job")
                for rank, reasons in standing_out(states.ranks if states else ()).items():
                    if reasons[0].startswith("no step"):  # under load, any rank may be slow
                        found[rank] = reasons[0]
                return found

            wait_for(is_named, "the name of the rank that hangs")
            took_s = time.time() - float(hung.read_text())
        until.touch()
        ranks.finish(DEADLINE_S)
    ((rank, reason),) = found.items()
    assert rank == 1
    assert "in layer module.1 (hanging_rank.py:" in reason
    assert "in forward" in reason
    assert took_s < NAMED_IN_S
