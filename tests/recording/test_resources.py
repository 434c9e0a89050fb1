"""Readings of memory and time on disk."""

from gradscope.columns import MemoryRow, TimeRow
from gradscope.protocol import Memory, Times
from gradscope.protocol.bodies import pack_memory, pack_times, unpack_memory
from gradscope.recording import Recorder, open_recording


def memory(step: int, saved_bytes: int = 0) -> Memory:
    row = MemoryRow(saved_bytes, 4, 4, 8, 0)
    columns, zero, body = pack_memory(dict.fromkeys(range(3), row), 3)
    return Memory(
        run="gpt", rank=0, step=step, time_s=0.0, manifest_revision=1, rows=3, columns=columns,
        zero=zero, balance={"saved": saved_bytes, "total": 99}, body=body,
    )  # fmt: skip


def times(step: int) -> Times:
    columns, zero, body = pack_times({i: TimeRow(0.5, 0.25, 1) for i in range(3)}, 3)
    return Times(
        run="gpt", rank=0, step=step, time_s=0.0, manifest_revision=1, rows=3, columns=columns,
        zero=zero, phases_s={"forward": 0.5}, body=body,
    )  # fmt: skip


def test_readings_are_read_back_whole_and_ordered_by_step(tmp_path, make):
    with Recorder(tmp_path / "a.gradscope", make.hello()) as recorder:
        make.record(recorder, make.manifest(), memory(9, 7), times(9), memory(2), times(2))
    with open_recording(tmp_path / "a.gradscope") as recording:
        assert list(recording.memory()) == [memory(2), memory(9, 7)]
        assert list(recording.times()) == [times(2), times(9)]
        table = unpack_memory(list(recording.memory())[1], [layer.name for layer in make.layers])
    assert table["fc1"].saved_bytes == 7


def test_a_step_that_is_measured_twice_is_recorded_once_with_the_last_values(tmp_path, make):
    with Recorder(tmp_path / "a.gradscope", make.hello()) as recorder:
        make.record(recorder, memory(5, 1), memory(5, 2))
    with open_recording(tmp_path / "a.gradscope") as recording:
        assert list(recording.memory()) == [memory(5, 2)]
