"""Reading: live files, killed runs, and files that are none."""

import dataclasses
import os
import sqlite3
import time

import msgspec
import numpy as np
import pytest

from gradscope.errors import RecordingError
from gradscope.findings import finding
from gradscope.protocol import ChangeInfo
from gradscope.protocol.bodies import pack_block, unpack_block
from gradscope.recording import Recorder, default_path, list_recordings, open_recording, tables
from gradscope.recording.schema import SCHEMA_VERSION


@pytest.mark.parametrize("journal", ["wal", "delete"])
def test_a_recording_is_read_while_it_is_written(tmp_path, make, wait_until, monkeypatch, journal):
    monkeypatch.setattr("gradscope.recording.tables.journal_mode", lambda directory: journal)
    path = tmp_path / "a.gradscope"
    with Recorder(path, make.hello()) as recorder:
        make.record(recorder, *(make.step(number) for number in range(200)))
        wait_until(lambda: recorder.counters["recorded"] == 200)
        with open_recording(path) as recording:
            assert recording.info.ended_s is None
            steps = recording.steps()
            assert next(steps).step == 0
            make.record(recorder, *(make.step(number) for number in range(200, 300)))
            wait_until(lambda: recorder.counters["recorded"] == 300)
            assert [step.step for step in steps] == list(range(1, 300)), (
                "a reader sees what came meanwhile"
            )
            mode = sqlite3.connect(path)
            assert mode.execute("PRAGMA journal_mode").fetchone() == (journal,)
            mode.close()


def test_the_histogram_of_a_step_is_read_as_it_was_recorded(tmp_path, make):
    histogram = np.zeros((2, 128), np.uint64)
    histogram[0, [3, 40, 100]] = 1, 70_000, 2**40
    block = dataclasses.replace(make.block(1.0), histogram=histogram)
    columns, zero, body = pack_block(block)
    full = msgspec.structs.replace(make.step(1), columns=columns, zero=zero, body=body)
    path = tmp_path / "a.gradscope"
    with Recorder(path, make.hello()) as recorder:
        make.record(recorder, make.step(0), full)
    with open_recording(path) as recording:
        core, came = (unpack_block(step) for step in recording.steps())
    assert core.histogram is None
    np.testing.assert_array_equal(came.histogram, histogram)


def test_findings_and_changes_of_interventions_are_read_as_objects(tmp_path, make):
    first = finding("dead-units", "fc1 gives zeros", step=4, layers=("fc1",))
    again = dataclasses.replace(first, message="fc1 gives zeros in 8 steps")
    other = dataclasses.replace(first, layers=("fc2",))
    change = ChangeInfo("set", "i1", "clip(max_norm=1) on fc1", 5, "ann", "train.py:12")
    events = [
        msgspec.structs.replace(make.event(number), finding=each)
        for number, each in enumerate((first, other, again))
    ]
    changed = msgspec.structs.replace(
        make.event(4), code="intervention.set", time_s=17.5, change=change
    )
    path = tmp_path / "a.gradscope"
    with Recorder(path, make.hello()) as recorder:
        make.record(recorder, *events, changed)
    with open_recording(path) as recording:
        assert recording.findings() == [again, other]
        assert recording.intervention_changes() == [changed]


def test_the_list_has_the_newest_first_and_names_what_cannot_be_read(places, make):
    for run, started_s in [("old", 1.0), ("new", 2.0)]:
        with Recorder(default_path(run), make.hello(run, started_s=started_s)) as recorder:
            make.record(recorder, make.step(4, run))
    (default_path("torn")).write_bytes(b"not at all a database" * 100)
    infos = list_recordings()
    assert [info.run for info in infos] == ["new", "old", "torn"]
    assert [info.last_step for info in infos] == [4, 4, None]
    assert [bool(info.problem) for info in infos] == [False, False, True]


def test_a_directory_without_recordings_is_an_empty_list(places, tmp_path):
    assert list_recordings() == []
    assert list_recordings(tmp_path) == []


def test_a_missing_recording_names_its_neighbours(tmp_path, make):
    Recorder(tmp_path / "train-3f2a.gradscope", make.hello()).close(reason="")
    with pytest.raises(RecordingError, match=r"train-3f2b.*near it: train-3f2a\.gradscope"):
        open_recording(tmp_path / "train-3f2b.gradscope")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (f"PRAGMA user_version = {SCHEMA_VERSION + 1}", "upgrade this one"),
        ("PRAGMA application_id = 7", "another program's"),
        ("DELETE FROM run", "does not contain a run"),
    ],
)
def test_a_file_of_another_program_or_version_is_refused_with_a_remedy(tmp_path, make, change, words):
    path = tmp_path / "a.gradscope"
    Recorder(path, make.hello()).close(reason="")
    with sqlite3.connect(path) as connection:
        connection.execute(change)
    connection.close()
    with pytest.raises(RecordingError, match=words), open_recording(path) as recording:
        _ = recording.info


def test_an_empty_file_is_a_run_killed_before_it_began(tmp_path):
    path = tmp_path / "a.gradscope"
    path.touch()
    os.utime(path, (1.0, 1.0))  # the file of a run that started long ago
    with pytest.raises(RecordingError, match="killed before"):
        open_recording(path)


def test_a_recording_can_be_read_as_soon_as_its_file_exists(tmp_path, make, monkeypatch):
    check_schema = tables.check_schema

    def check_slowly(*arguments):
        time.sleep(0.2)  # the file exists, and is empty
        return check_schema(*arguments)

    monkeypatch.setattr(tables, "check_schema", check_slowly)
    for number in range(3):
        path = tmp_path / f"{number}.gradscope"
        with Recorder(path, make.hello("early")):
            while not path.exists():
                time.sleep(0)
            with open_recording(path) as recording:
                assert (recording.info.run, recording.info.ended_s) == ("early", None)


def test_bytes_that_are_no_message_are_damage_and_name_their_row(tmp_path, make):
    path = tmp_path / "a.gradscope"
    with Recorder(path, make.hello()) as recorder:
        make.record(recorder, make.event(1), make.event(2), make.event(3))
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE event SET head = x'c1' WHERE step = 1")
        connection.execute("UPDATE event SET crc = crc + 1 WHERE step = 3")
    connection.close()
    with open_recording(path) as recording:
        assert list(recording.events()) == [make.event(2)]
        assert [line.partition(":")[0] for line in recording.lost] == ["Event 1", "Event 3"]


def test_a_torn_file_is_an_error_that_says_what_to_do(tmp_path, make):
    path = tmp_path / "a.gradscope"
    with Recorder(path, make.hello()) as recorder:
        make.record(recorder, *(make.step(number, rows=100) for number in range(300)))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(RecordingError, match=r"copy it again"), open_recording(path) as recording:
        list(recording.steps())
