"""The verdicts on the pages of PyTorch's debug server: two ranks, real HTTP."""

import json
import re
import socket
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from support.ranks import started_ranks
from support.waiting import wait_for

for name in ("jinja2", "tabulate", "aiohttp"):
    pytest.importorskip(name, reason=f"{name} is not installed")

SCRIPT = Path(__file__).with_name("verdict_ranks.py")


def _get(port, page):
    try:
        with urllib.request.urlopen(f"http://localhost:{port}/{page}", timeout=60) as answer:
            return answer.read().decode()
    except (urllib.error.URLError, ConnectionError):
        return ""


@pytest.mark.processes
def test_the_page_shows_the_verdict_of_each_rank_and_the_training_is_the_same(tmp_path):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    with started_ranks(SCRIPT, port, tmp_path) as ranks:
        trained = [tmp_path / f"trained{rank}" for rank in range(2)]
        wait_for(lambda: all(map(Path.exists, trained)) or ranks.has_ended(), "the training")
        text = wait_for(lambda: _get(port, "gradscope_json"), "an answer")
        page = _get(port, "gradscope")
        (tmp_path / "end").touch()
        detached = [tmp_path / f"detached{rank}" for rank in range(2)]
        wait_for(lambda: all(map(Path.exists, detached)) or ranks.has_ended(), "the end of the scopes")
        after = _get(port, "gradscope")
        (tmp_path / "end2").touch()
        ranks.finish(60)
    found = json.loads(text)
    assert found["version"] == 1
    assert "<" not in text  # the server calls every page HTML
    assert [each["rank"] for each in found["ranks"]] == [0, 1]
    for rank in found["ranks"]:
        (run,) = rank["runs"]
        assert run["run"] == "<b>run"
        assert run["step"] == 5
        assert run["verdict"] in page
        assert rank["error"] == ""
    assert "Rank 1" in page
    assert 'href="/gradscope"' in page
    assert "Stack Traces" in page  # PyTorch's own pages are there, too
    assert after.count("no model is attached") == 2


@pytest.mark.processes
@pytest.mark.exhaustive
def test_the_script_of_the_page_runs(hub, tmp_path):
    page = Path(__file__).parents[2] / "docs" / "trainers" / "debug-server.md"
    (script,) = re.findall(
        r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    )
    (tmp_path / "train.py").write_text(script.replace("25999", "0"), encoding="utf-8")
    with started_ranks(tmp_path / "train.py") as ranks:
        assert "gradscope: watching" in ranks.finish(100)
