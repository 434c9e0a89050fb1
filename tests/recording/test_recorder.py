"""Writing: what is kept, whose file it is, what happens when the disk says no."""

import itertools
import os
import signal
import sqlite3
import subprocess
import sys
import textwrap

import pytest

from gradscope.paths import recordings_dir
from gradscope.protocol import unpack_layers
from gradscope.protocol.bodies import unpack_block
from gradscope.recording import Recorder, default_path, open_recording
from gradscope.recording.schema import SCHEMA_VERSION

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("run", "name"),
    [
        ("train.py-3f2a", "train.py-3f2a.gradscope"),
        ("../../etc/passwd", "-..-etc-passwd.gradscope"),
        (".hidden", "hidden.gradscope"),
        ("größe 1", "gr--e-1.gradscope"),
        ("", "run.gradscope"),
        ("x" * 300, "x" * 120 + ".gradscope"),
    ],
)
def test_any_name_of_a_run_gives_a_file_in_the_recordings_directory(places, run, name):
    assert default_path(run) == recordings_dir() / name


def test_what_was_added_is_read_back_whole_and_ordered_by_step(tmp_path, make):
    sent = [make.step(2), make.step(0), make.step(1), make.step(1, rank=1)]
    with Recorder(tmp_path / "a.gradscope", make.hello()) as recorder:
        make.record(recorder, make.manifest(), *sent, make.scalars(0, 3), make.event(1))
        make.record(recorder, make.interventions(1, 2))
    with open_recording(tmp_path / "a.gradscope") as recording:
        assert list(recording.steps()) == [sent[1], sent[2], sent[3], sent[0]]
        assert list(recording.scalars()) == [make.scalars(0, 3)]
        assert list(recording.events()) == [make.event(1)]
        assert list(recording.interventions()) == [make.interventions(1, 2)]
        manifest = recording.manifest()
        assert manifest is not None
        assert unpack_layers(manifest) == make.layers
        assert unpack_block(next(recording.steps())).column("sum").tolist() == [0.0, 0.0]
    assert recorder.failure is None
    assert recorder.counters == {
        "recorded": 8, "dropped": 0, "commits": 1, "packed": 4, "thinned": 0, "retried": 0,
    }  # fmt: skip


def test_values_that_a_script_logs_after_a_step_do_not_replace_those_of_the_step(tmp_path, make):
    early, late = make.scalars(4, 1), make.scalars(4, 2)
    with Recorder(tmp_path / "a.gradscope", make.hello()) as recorder:
        make.record(recorder, make.manifest(), early, late)
    with open_recording(tmp_path / "a.gradscope") as recording:
        assert list(recording.scalars()) == [early, late]


def test_a_body_of_many_parts_is_read_back_whole(tmp_path, make):
    large = make.step(5, rows=70_000)
    with Recorder(tmp_path / "a.gradscope", make.hello()) as recorder:
        make.record(recorder, large)
    with open_recording(tmp_path / "a.gradscope") as recording:
        assert list(recording.steps()) == [large]


def test_the_end_of_a_run_is_written_with_its_reason(tmp_path, make):
    recorder = Recorder(tmp_path / "a.gradscope", make.hello())
    make.record(recorder, make.step(3), make.step(9), make.scalars(2, 12))
    recorder.close(reason="the process ended")
    with open_recording(tmp_path / "a.gradscope") as recording:
        info = recording.info
    assert (info.run, info.script, info.host, info.pid) == ("gpt", "train.py", "box", 41)
    assert (info.steps, info.first_step, info.last_step) == (2, 2, 13)
    assert info.reason == "the process ended"
    assert info.ended_s is not None
    assert info.size_bytes == (tmp_path / "a.gradscope").stat().st_size


def test_closing_twice_keeps_the_first_reason_and_what_comes_later_is_counted(tmp_path, make):
    recorder = Recorder(tmp_path / "a.gradscope", make.hello())
    recorder.close(reason="first")
    recorder.close(reason="second")
    make.record(recorder, make.step(0))
    assert recorder.counters["dropped"] == 1
    with open_recording(tmp_path / "a.gradscope") as recording:
        assert recording.info.reason == "first"


def test_a_step_that_is_sent_twice_is_recorded_once_with_the_last_values(tmp_path, make):
    with Recorder(tmp_path / "a.gradscope", make.hello()) as recorder:
        make.record(
            recorder, make.step(7, rows=2), make.step(7, rows=1), make.manifest(), make.manifest()
        )
    with open_recording(tmp_path / "a.gradscope") as recording:
        assert [step.rows for step in recording.steps()] == [1]


def test_the_next_hub_continues_the_file_of_the_same_processes(tmp_path, make):
    path = tmp_path / "a.gradscope"
    for hello, number in [(make.hello(), 0), (make.hello(), 1), (make.hello(rank=1, pid=42), 2)]:
        with Recorder(path, hello) as recorder:
            recorder.add(make.hello(rank=1, pid=42), [])
            make.record(recorder, make.step(number))
        assert recorder.path == path
    with open_recording(path) as recording:
        assert [step.step for step in recording.steps()] == [0, 1, 2]


@pytest.mark.parametrize(
    "other",
    [{"pid": 99}, {"started_s": 2000.0}, {"run": "another"}, {"rank": 1, "pid": 99}],
    ids=["another process", "the same pid later", "another run", "a rank of a run that had ended"],
)
def test_another_run_of_the_same_name_gets_a_file_of_its_own(tmp_path, make, other):
    path = tmp_path / "a.gradscope"
    with Recorder(path, make.hello()) as recorder:
        make.record(recorder, make.step(0))
    with Recorder(path, make.hello(**other)) as recorder:
        make.record(recorder, make.step(5))
    assert recorder.path == tmp_path / "a.2.gradscope"
    with open_recording(path) as first, open_recording(recorder.path) as second:
        assert [step.step for step in first.steps()] == [0]
        assert [step.step for step in second.steps()] == [5]


@pytest.mark.parametrize("damage", ["of another version", "damaged"])
def test_a_run_gets_a_new_file_if_one_of_its_name_cannot_be_continued(tmp_path, make, damage):
    path = tmp_path / "a.gradscope"
    Recorder(path, make.hello()).close(reason="")
    if damage == "damaged":
        with path.open("r+b") as file:
            file.seek(100)  # the table of contents of the first page
            file.write(b"\xff" * 60)
    else:
        with sqlite3.connect(path) as connection:
            connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
        connection.close()
    before = path.read_bytes()
    with Recorder(path, make.hello()) as recorder:
        make.record(recorder, make.step(5))
    assert recorder.path == tmp_path / "a.2.gradscope"
    with open_recording(recorder.path) as recording:
        assert [step.step for step in recording.steps()] == [5]
    assert path.read_bytes() == before


def test_above_its_limit_the_older_half_is_thinned_and_both_ends_stay(tmp_path, make, wait_until):
    limit = 200_000
    recorder = Recorder(tmp_path / "a.gradscope", make.hello(), limit_bytes=limit)
    for first in range(0, 3000, 1000):
        done = recorder.counters["recorded"]
        make.record(recorder, make.manifest())
        for number in range(first, first + 1000):
            make.record(recorder, make.step(number), make.step(number, rank=1))
        wait_until(lambda done=done: recorder.counters["recorded"] >= done + 2001)
    recorder.close(reason="")
    assert recorder.failure is None
    assert recorder.counters["thinned"] > 0
    with open_recording(tmp_path / "a.gradscope") as recording:
        places = [(step.step, step.rank) for step in recording.steps()]
        assert recording.manifest() is not None
    steps = sorted({step for step, _ in places})
    assert places == [(step, rank) for step in steps for rank in (0, 1)], "ranks stay together"
    assert steps[0] == 0
    assert steps[-1] == 2999
    gaps = [b - a for a, b in itertools.pairwise(steps)]
    assert gaps == sorted(gaps, reverse=True), "coarser the older"
    assert (tmp_path / "a.gradscope").stat().st_size <= limit


def test_what_cannot_be_thinned_below_the_limit_ends_the_recording(tmp_path, make, wait_until):
    recorder = Recorder(tmp_path / "a.gradscope", make.hello(), limit_bytes=1000)
    make.record(recorder, make.manifest())
    wait_until(lambda: recorder.failure is not None)
    assert "the limit is 1000" in str(recorder.failure)
    recorder.close(reason="")
    with open_recording(tmp_path / "a.gradscope") as recording:
        assert recording.info.reason.startswith("recording stopped:")


def test_a_full_queue_drops_what_comes_and_counts_it(tmp_path, make):
    path = tmp_path / "a.gradscope"
    recorder = Recorder(path, make.hello())
    body = [bytes(2**20)] * 16
    for number in range(6):
        recorder.add(make.step(number), [b"head", *body])
    assert recorder.counters["dropped"] >= 1
    recorder.close(reason="")
    assert recorder.counters["recorded"] + recorder.counters["dropped"] == 6


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"Dear diary, " * 200, "not an SQLite database"), (None, "another program's SQLite database")],
    ids=["text", "a database"],
)
def test_a_file_that_is_not_a_recording_is_left_as_it_is(tmp_path, make, wait_until, content, words):
    path = tmp_path / "diary.txt"
    if content is None:
        with sqlite3.connect(path) as connection:
            connection.execute("CREATE TABLE diary (day TEXT)")
        connection.close()
    else:
        path.write_bytes(content)
    before = path.read_bytes()
    recorder = Recorder(path, make.hello())
    wait_until(lambda: recorder.failure is not None)
    make.record(recorder, make.step(0))
    recorder.close(reason="")
    assert words in str(recorder.failure)
    assert str(path) in str(recorder.failure)
    assert recorder.counters["dropped"] == 1
    assert path.read_bytes() == before


def test_a_directory_that_cannot_be_made_is_a_failure_and_no_exception(tmp_path, make, wait_until):
    (tmp_path / "file").write_text("in the way")
    recorder = Recorder(tmp_path / "file" / "a.gradscope", make.hello())
    wait_until(lambda: recorder.failure is not None)
    recorder.close(reason="")
    assert "File exists" in str(recorder.failure)


def test_a_full_disk_ends_the_recording_keeps_what_was_written_and_raises_nothing(tmp_path, make):
    path = tmp_path / "a.gradscope"
    script = f"""
        import resource, sys, time
        from pathlib import Path
        from gradscope.protocol import Hello, Event, encode
        from gradscope.recording import Recorder
        recorder = Recorder(Path({str(path)!r}), Hello(role="agent", peer="p", run="gpt"))
        def event(step, length):
            text = "x" * length
            e = Event(run="gpt", rank=0, step=step, time_s=0.0, level="info", code="c", text=text)
            recorder.add(e, encode(e))
        event(0, 10)
        while not recorder.counters["recorded"]:
            time.sleep(0.01)
        resource.setrlimit(resource.RLIMIT_FSIZE, (2**17, 2**17))
        for step in range(1, 11):
            event(step, 60_000)
        while recorder.failure is None:
            time.sleep(0.01)
        event(11, 10)
        recorder.close(reason="done")
        print(recorder.failure)
        print(recorder.counters["dropped"])
    """
    ran = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    failure, dropped = ran.stdout.splitlines()
    assert str(path) in failure
    assert "stopped" in failure
    assert int(dropped) == 11
    assert ran.stderr == ""
    with open_recording(path) as recording:
        assert [event.step for event in recording.events()] == [0]


def test_a_recorder_that_finds_its_file_locked_waits_and_loses_nothing(tmp_path, make, wait_until):
    path = tmp_path / "a.gradscope"
    recorder = Recorder(path, make.hello())
    make.record(recorder, make.step(0))
    wait_until(lambda: recorder.counters["recorded"] == 1)
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    make.record(recorder, make.step(1))
    wait_until(lambda: recorder.counters["retried"] == 1)
    holder.execute("ROLLBACK")
    holder.close()
    recorder.close(reason="")
    assert recorder.failure is None
    with open_recording(path) as recording:
        assert [step.step for step in recording.steps()] == [0, 1]


def test_a_killed_recorder_leaves_a_file_that_can_be_read(tmp_path):
    path = tmp_path / "a.gradscope"
    script = f"""
        import time
        from pathlib import Path
        from gradscope.protocol import Hello, Event, encode
        from gradscope.recording import Recorder
        recorder = Recorder(Path({str(path)!r}), Hello(role="agent", peer="p", run="gpt"))
        for step in range(100):
            e = Event(run="gpt", rank=0, step=step, time_s=0.0, level="info", code="c", text="x")
            recorder.add(e, encode(e))
        while recorder.counters["recorded"] < 100:
            time.sleep(0.01)
        print("written", flush=True)
        time.sleep(60)
    """
    writer = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)], stdout=subprocess.PIPE, text=True
    )
    assert writer.stdout is not None
    assert writer.stdout.readline() == "written\n"
    os.kill(writer.pid, signal.SIGKILL)
    writer.wait(10)
    writer.stdout.close()
    with open_recording(path) as recording:
        assert [event.step for event in recording.events()] == list(range(100))
        assert recording.info.ended_s is None
