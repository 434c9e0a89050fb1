"""What a run ran with, in its recording: the message of the agent, and the git commit of the script's folder."""

import os
import subprocess
import time

import pytest

from gradscope.protocol import Environment
from gradscope.recording import Recorder, open_recording
from gradscope.recording.git_state import GitReading, GitState, start_reading

GIT = ("git", "-c", "user.name=ann", "-c", "user.email=ann@box", "-c", "commit.gpgsign=false")


def git(folder, *arguments):
    ran = subprocess.run([*GIT, *arguments], cwd=folder, capture_output=True, text=True, check=True)
    return ran.stdout.strip()


def environment(folder, rank=0, **fields):
    return Environment(
        run="gpt", rank=rank, host="box", versions={"torch": "2"}, devices=("cpu",), command=("train.py",),
        script=str(folder / "train.py"), directory="/", settings={"num_threads": "1"}, **fields,
    )  # fmt: skip


def recorded(tmp_path, make, *messages):
    path = tmp_path / "a.gradscope"
    with Recorder(path, make.hello()) as recorder:
        make.record(recorder, *messages, make.step(0))
    with open_recording(path) as recording:
        return recording.environment()


@pytest.fixture
def repository(tmp_path):
    folder = tmp_path / "code"
    folder.mkdir()
    git(folder, "init", "-q")
    (folder / "train.py").write_text("lr = 0.1\n")
    git(folder, "add", ".")
    git(folder, "commit", "-q", "-m", "first")
    return folder


def test_the_environment_of_each_rank_is_read_back_with_the_commit(tmp_path, make, repository):
    path = tmp_path / "a.gradscope"
    with Recorder(path, make.hello()) as recorder:
        first = environment(repository, variables={"RANK": "0"})
        second = environment(repository, rank=1, variables={"RANK": "1"})
        make.record(recorder, first, second, environment(repository, variables={"RANK": "later"}))
    with open_recording(path) as recording:
        zero, one, none = (recording.environment(rank) for rank in range(3))
    assert zero == {
        "host": "box", "system": "", "versions": {"torch": "2"}, "devices": ["cpu"],
        "command": ["train.py"], "script": str(repository / "train.py"), "directory": "/",
        "variables": {"RANK": "0"}, "settings": {"num_threads": "1"},
        "git": {"commit": git(repository, "rev-parse", "HEAD"), "is_dirty": False},
    }  # fmt: skip
    assert one["variables"] == {"RANK": "1"}
    assert none == {}


def test_a_changed_file_is_dirty_and_reading_changes_nothing_in_the_repository(
    tmp_path, make, repository
):
    os.utime(repository / "train.py", (1.0, 1.0))  # git would refresh its index
    before = (repository / ".git" / "index").read_bytes()
    assert recorded(tmp_path, make, environment(repository))["git"]["is_dirty"] is False
    (repository / "train.py").write_text("lr = 0.2\n")
    (tmp_path / "a.gradscope").unlink()
    assert recorded(tmp_path, make, environment(repository))["git"]["is_dirty"] is True
    assert (repository / ".git" / "index").read_bytes() == before


def test_without_a_repository_a_folder_or_git_the_commit_is_not_known(
    tmp_path, make, repository, monkeypatch
):
    unknown = {"commit": None, "is_dirty": None}
    for number, folder in enumerate((tmp_path, tmp_path / "gone")):
        place = tmp_path / str(number)
        place.mkdir()
        monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
        assert recorded(place, make, environment(folder))["git"] == unknown
    monkeypatch.setenv("PATH", str(tmp_path))
    assert start_reading(str(repository)) is None
    assert recorded(tmp_path, make, environment(repository))["git"] == unknown


def test_a_slow_git_is_not_waited_for_and_is_stopped(tmp_path):
    output = (tmp_path / "output").open("w+b")
    process = subprocess.Popen(["sleep", "60"])
    reading = GitReading(process, output)
    began_s = time.monotonic()
    assert reading.result() is None
    assert reading.result(last_wait_s=0.0) == GitState()
    assert time.monotonic() - began_s < 30
    assert process.returncode is not None
    assert output.closed


def test_a_run_that_has_not_sent_its_environment_has_none(tmp_path, make):
    assert recorded(tmp_path, make) == {}
