"""The space of all recordings: what is removed when there is too little, and what is never removed."""

import os
import socket
import sqlite3
import subprocess
import sys

import msgspec
import pytest

from gradscope.errors import CommandRefusedError, RecordingError, UsageError
from gradscope.recording import Recorder, default_path, list_recordings, open_recording
from gradscope.recording.disk_space import (
    LIMIT_VARIABLE,
    files_size_bytes,
    find_recording,
    is_live,
    make_room,
    pin_recording,
    remove_recording,
    total_limit_bytes,
)


@pytest.fixture
def dead_pid() -> int:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait(30)
    return ended.pid


def record_run(make, name, started_s, *, ends=True, **fields):
    """Record a run that began at a time, and return its path; without an end as if its hub was killed."""
    hello = msgspec.structs.replace(make.hello(name, started_s=started_s), **fields)
    path = default_path(name)
    with Recorder(path, hello) as recorder:
        make.record(recorder, make.manifest(name), *(make.step(n, name) for n in range(20)))
    if not ends:
        with sqlite3.connect(path) as connection:
            connection.execute("UPDATE run SET ended_s = NULL")
        connection.close()
    os.utime(path, (1000.0, 1000.0))
    return path


def test_the_oldest_ended_recordings_are_removed_until_there_is_room(places, make):
    paths = [record_run(make, name, time_s) for name, time_s in [("b", 2.0), ("a", 1.0), ("c", 3.0)]]
    sizes = [files_size_bytes(path) for path in paths]
    assert make_room(0, limit_bytes=sum(sizes)) == []
    assert make_room(1, limit_bytes=sum(sizes)) == [paths[1]]
    assert make_room(10**9, limit_bytes=0) == [paths[0], paths[2]]
    assert list_recordings() == []


def test_pinned_live_and_unreadable_recordings_and_other_files_are_kept(places, make, dead_pid):
    host = socket.gethostname()
    pinned = record_run(make, "pinned", 1.0)
    pin_recording(pinned, is_pinned=True)
    os.utime(pinned, (1000.0, 1000.0))
    live = record_run(make, "live", 2.0, ends=False, host=host, pid=os.getpid())
    died = record_run(make, "died", 3.0, ends=False, host=host, pid=dead_pid)
    elsewhere = record_run(make, "elsewhere", 4.0, ends=False, host="another")
    os.utime(elsewhere)
    other = default_path("torn")
    other.write_bytes(b"not a recording")
    note = other.with_name("note.txt")
    note.write_text("mine")
    assert make_room(10**9, limit_bytes=0) == [died]
    assert all(path.exists() for path in (pinned, live, elsewhere, other, note))


def test_a_new_recording_makes_room_for_itself(places, make, monkeypatch):
    old = record_run(make, "old", 1.0)
    monkeypatch.setenv(LIMIT_VARIABLE, "0.1")
    with Recorder(default_path("new"), make.hello("new")) as recorder:
        make.record(recorder, make.step(0, "new"))
    assert not old.exists()
    assert [info.run for info in list_recordings()] == ["new"]
    assert recorder.failure is None


def test_a_recording_in_another_directory_removes_nothing(places, make, monkeypatch, tmp_path):
    old = record_run(make, "old", 1.0)
    monkeypatch.setenv(LIMIT_VARIABLE, "0")
    Recorder(tmp_path / "own.gradscope", make.hello()).close(reason="")
    assert old.exists()


def test_the_limit_is_a_number_of_gb(monkeypatch, places):
    monkeypatch.delenv(LIMIT_VARIABLE, raising=False)
    assert 0 < total_limit_bytes() <= 10**10
    monkeypatch.setenv(LIMIT_VARIABLE, "2.5")
    assert total_limit_bytes() == 2_500_000_000
    for wrong in ("much", "-1", "nan", "inf"):
        monkeypatch.setenv(LIMIT_VARIABLE, wrong)
        with pytest.raises(UsageError, match=f"{LIMIT_VARIABLE} must be a number"):
            total_limit_bytes()


def test_a_wrong_limit_does_not_stop_a_recording(monkeypatch, places, make, capsys):
    monkeypatch.setenv(LIMIT_VARIABLE, "much")
    with Recorder(default_path("gpt"), make.hello()) as recorder:
        make.record(recorder, make.step(0))
    assert recorder.failure is None
    assert recorder.counters["recorded"] == 1
    assert "was not checked" in capsys.readouterr().err


def test_removing_refuses_what_is_pinned_or_live_and_names_what_is_missing(places, make, wait_until):
    record_run(make, "gpt", 1.0)
    pin_recording(default_path("gpt"), is_pinned=True)
    assert find_recording("gpt").is_pinned
    with pytest.raises(CommandRefusedError, match="gradscope unpin gpt"):
        remove_recording(find_recording("gpt"))
    pin_recording(default_path("gpt"), is_pinned=False)
    size = files_size_bytes(default_path("gpt"))
    assert remove_recording(find_recording("gpt")) == size
    assert list(default_path("gpt").parent.iterdir()) == []
    with pytest.raises(RecordingError, match="there is no recording"):
        find_recording("gpt")
    with Recorder(default_path("gpt"), make.hello()) as recorder:
        make.record(recorder, make.step(0))
        wait_until(lambda: recorder.counters["recorded"])
        assert is_live(find_recording("gpt"))
        with pytest.raises(CommandRefusedError, match="may still be recorded"):
            remove_recording(find_recording("gpt"))


def test_two_recordings_of_one_name_are_not_confused(places, make):
    record_run(make, "gpt", 1.0)
    with Recorder(default_path("gpt"), make.hello(started_s=2.0)) as recorder:
        make.record(recorder, make.step(0))
    assert recorder.path.name == "gpt.2.gradscope"
    with pytest.raises(UsageError, match=r"2 recordings .*gpt\.2\.gradscope"):
        find_recording("gpt")
    assert find_recording(str(recorder.path)).path == recorder.path
    with open_recording("gpt") as newest:
        assert newest.path == recorder.path
