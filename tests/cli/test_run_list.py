"""`gradscope ls`: what is joined, and what is printed."""

import json
import sqlite3
import subprocess
import sys

import pytest
from msgspec.structs import replace

from gradscope.cli.commands.run_list import match_recordings
from gradscope.protocol import Hello, RunInfo
from gradscope.recording import Recorder, default_path, list_recordings


def _recorded(run: str, started_s: float, *, has_died: bool = False) -> None:
    hello = Hello(
        role="agent",
        peer=run,
        run=run,
        host="box",
        pid=7,
        script="/home/ann/train.py",
        started_s=started_s,
    )
    Recorder(default_path(run), hello).close(reason="the process ended")
    if has_died:
        connection = sqlite3.connect(default_path(run))
        with connection:
            connection.execute("UPDATE run SET ended_s = NULL, reason = ''")
        connection.close()


def _info(run: str, *, rank: int = 0, is_live: bool = True, step: int | None = 3) -> RunInfo:
    return RunInfo(
        run=run, rank=rank, world_size=2, host="box", pid=7, user="ann", script="train.py",
        started_s=50.0, is_live=is_live, step=step, last_message_s=0.0,
        recording=str(default_path(run)),
    )  # fmt: skip


def test_without_runs_it_says_how_to_get_one(places, gradscope):
    ran = gradscope("ls")
    assert (ran.returncode, ran.stdout) == (0, "no runs yet: start one with `gradscope demo`\n")
    assert json.loads(gradscope("ls", "--json").stdout) == {
        "version": 1,
        "hub": None,
        "runs": [],
    }


def test_recordings_are_listed_newest_first_with_how_they_ended(places, gradscope):
    _recorded("first", 1000.0)
    _recorded("second", 2000.0, has_died=True)
    default_path("torn").write_text("nothing of the kind")
    lines = [line.split() for line in gradscope("ls").stdout.splitlines()]
    assert [line[:2] for line in lines] == [
        ["RUN", "STATE"], ["second", "died"], ["first", "ended:"], ["torn", "unreadable"],
    ]  # fmt: skip
    runs = json.loads(gradscope("ls", "--json").stdout)["runs"]
    assert [run["reason"] for run in runs][1] == "the process ended"
    assert "is not a recording of gradscope" in runs[2]["reason"]


def test_a_live_run_and_its_recording_are_one_line(places):
    _recorded("gpt", 50.0, has_died=True)
    _recorded("old", 10.0)
    ranks = [
        _info("gpt", step=3),
        _info("gpt", rank=1, step=4),
        _info("other", is_live=False, step=None),
    ]
    listed = match_recordings(ranks, list_recordings())
    assert [(one.run, one.state, one.step) for one in listed] == [
        ("gpt", "live", 4), ("other", "ended", None), ("old", "ended", None),
    ]  # fmt: skip
    assert listed[0].recording is not None
    assert listed[0].ranks == tuple(ranks[:2])


def test_a_run_whose_recording_the_hub_does_not_name_yet_is_one_line_too(places):
    _recorded("gpt", 50.0)
    _recorded("unrecorded", 40.0)  # an earlier run of this name
    runs = [replace(_info(run), recording="") for run in ("gpt", "unrecorded")]
    listed = match_recordings(runs, list_recordings())
    assert [(one.run, bool(one.ranks), one.recording is not None) for one in listed] == [
        ("gpt", True, True), ("unrecorded", True, False), ("unrecorded", False, True),
    ]  # fmt: skip


def test_a_reader_that_goes_away_is_not_an_error(places):
    _recorded("x" * 60, 1000.0)
    pipe = f"'{sys.executable}' -m gradscope ls --json | head -c 1"
    ran = subprocess.run(["bash", "-c", pipe], capture_output=True, text=True, timeout=30, check=True)
    assert (ran.stdout, ran.stderr) == ("{", "")


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_names_that_the_terminal_cannot_show_are_no_error(places, gradscope, monkeypatch, encoding):
    monkeypatch.setenv("PYTHONIOENCODING", encoding)
    _recorded("größe-Δ", 1000.0)
    ran = gradscope("ls")
    assert ran.returncode == 0
    assert "gr" in ran.stdout
    assert "?" in ran.stdout


def test_recordings_are_pinned_unpinned_and_removed_with_their_sizes_shown(places, gradscope):
    for name, started_s in [("first", 1000.0), ("second", 2000.0)]:
        _recorded(name, started_s)
    ran = gradscope("pin", "first", "--json")
    assert (ran.returncode, json.loads(ran.stdout)["recordings"][0]["is_pinned"]) == (0, True)
    lines = gradscope("ls", "--size").stdout.splitlines()
    assert [("pinned" in line.split(), "KiB" in line) for line in lines[1:3]] == [
        (False, True), (True, True),
    ]  # fmt: skip
    assert lines[-1].startswith("all recordings: ")
    sizes = json.loads(gradscope("ls", "--size", "--json").stdout)["recordings"]
    assert 0 < sizes["size_bytes"] < sizes["limit_bytes"]
    refused = gradscope("rm", "first")
    assert refused.returncode == 4
    assert "gradscope unpin first" in refused.stderr
    assert gradscope("unpin", "first").stdout.startswith("first: not pinned")
    removed = json.loads(gradscope("rm", "first", str(default_path("second")), "--json").stdout)
    assert [each["run"] for each in removed["removed"]] == ["first", "second"]
    assert not default_path("first").exists()
    missing = gradscope("rm", "first")
    assert missing.returncode == 3
    assert "there is no recording" in missing.stderr
