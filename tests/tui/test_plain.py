"""The plain table, from a real hub and a real client."""

import pytest

from gradscope.client import connect
from gradscope.errors import NothingToConnectError
from gradscope_tui.plain import render_once
from support.waiting import wait_for


def connected(run):
    def attempt():
        try:
            return connect(run)
        except NothingToConnectError:
            return None

    return wait_for(attempt, f"run {run}")


def test_the_table_is_printed_once_and_again(agent):
    agent("plain-1", rate=50)
    with connected("plain-1") as client:
        first = render_once(client, color=False, width=100)
        assert first.startswith(" ✔ healthy so far: nothing found ")
        status = next(place for place, line in enumerate(first.splitlines()) if " step " in line[:20])
        assert first.splitlines()[status].strip().startswith("plain-1   step ")
        assert len(first.splitlines()) == status + 2 + 46
        assert max(len(line) for line in first.splitlines()) <= 100
        assert "\x1b" not in first
        client.reverse("tokens")
        second = render_once(client, color=True, width=80)
        assert "◆ reverse ×−1 on tokens, active since step" in second  # noqa: RUF001
        assert "\x1b[" in second


def test_without_a_run_the_error_says_what_to_do(agent):
    agent("plain-2")
    with connected("plain-2") as client:
        client.run = None
        assert "plain-2" in render_once(client, color=False, width=80)
        agent("plain-3")
        wait_for(lambda: len(client.runs()) == 2, "two runs")
        client.run = None
        with pytest.raises(NothingToConnectError, match="2 runs are live, name one of them"):
            render_once(client, color=False, width=80)
