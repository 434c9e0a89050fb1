"""A recorder that is killed at any moment: the file opens, and has every step that was acknowledged as recorded."""

import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from gradscope.errors import RecordingError
from gradscope.protocol.bodies import unpack_block
from gradscope.recording import Recorder, open_recording, round_statistics

_WRITER = """
    import os, resource, sys
    from pathlib import Path
    import numpy as np
    from gradscope.columns import Block
    from gradscope.protocol import Hello, Step, encode
    from gradscope.protocol.bodies import pack_block
    from gradscope.recording import Recorder, recorder

    path, first, limit = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    recorder._COMMIT_S = 0.005
    recorder.EXACT_BYTES = 20_000  # so that most chunks have rounded statistics
    if len(sys.argv) > 4:  # as a disk that fills up: no file may grow beyond this
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[4]), int(sys.argv[4])))
    hello = Hello(role="agent", peer="p", run="gpt", host="box", pid=1, started_s=1.0)
    writer = Recorder(path, hello, limit_bytes=limit)
    said = -1
    for number in range(first, first + 100_000):
        tensors = np.random.default_rng(number).standard_normal((20, 8))
        block = Block(
            ("out",), np.arange(20, dtype=np.uint32), np.zeros(20, np.uint32), np.zeros(20, np.uint8),
            {
                "count": np.full(20, 8, np.uint64), "sum": tensors.sum(1), "sumsq": (tensors**2).sum(1),
                "min": tensors.min(1), "max": tensors.max(1),
            },
        )
        columns, zero, body = pack_block(block)
        step = Step(
            run="gpt", rank=0, seq=number, step=number, time_s=1.0, manifest_revision=1, kinds=("out",),
            rows=20, columns=columns, zero=zero, body=body,
        )
        writer.add(step, encode(step))
        while number - max(writer.recorded_step, first) > 200 and not writer.failure:
            pass
        if writer.recorded_step > said:
            said = writer.recorded_step
            os.write(1, b"%d\\n" % said)
        if writer.failure:
            os.write(2, writer.failure.encode())
            sys.exit(1)
"""


def killed_writer(path, first: int, limit: int, after_s: float) -> int:
    """Run a recorder and kill it `after_s` after its first commit. Return the newest step it acknowledged."""
    writer = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(_WRITER), str(path), str(first), str(limit)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert writer.stdout is not None
    assert writer.stderr is not None
    with writer.stdout, writer.stderr:
        newest = writer.stdout.readline()
        time.sleep(after_s)
        os.kill(writer.pid, signal.SIGKILL)
        rest = writer.stdout.read().decode().split("\n")
        assert writer.stderr.read() == b""
    writer.wait(30)
    complete = [int(newest), *map(int, rest[:-1])]
    return complete[-1]


def check_file(path, acknowledged: int, limit: int) -> None:
    with open_recording(path) as recording:
        numbers = recording.step_numbers()
        steps = list(recording.steps())
        assert recording.check() == []
        removed = recording.info.removed
        rounded = set(recording.rounded_step_numbers())
    assert [step.step for step in steps] == numbers == sorted(set(numbers))
    assert numbers[0] == 0
    if limit >= 2**28:
        assert numbers[: acknowledged + 1] == list(range(acknowledged + 1))
    else:
        assert len(numbers) + removed >= acknowledged + 1
        assert numbers[-1] >= acknowledged - 1  # of two neighbours, the older one stays
    for step in steps:
        tensors = np.random.default_rng(step.step).standard_normal((20, 8))
        values = {
            "count": np.full(20, 8, np.uint64), "sum": tensors.sum(1), "sumsq": (tensors**2).sum(1),
            "min": tensors.min(1), "max": tensors.max(1),
        }  # fmt: skip
        values = round_statistics(values) if step.step in rounded else values
        block = unpack_block(step)
        for name, expected in values.items():
            np.testing.assert_array_equal(block.column(name), expected)


def run_rounds(directory, rounds: int, seed: int) -> None:
    chance = random.Random(seed)
    path, limit = directory / "a.gradscope", 2**28
    for each in range(rounds):
        if each % 10 == 5:  # a small file, in which chunks are joined all the time
            limit = 200_000
        if each % 10 == 0:
            limit = 2**28
            path = directory / f"{each}.gradscope"
            first = 0
        acknowledged = killed_writer(path, first, limit, chance.random() * 0.25)
        check_file(path, acknowledged if limit >= 2**28 else 0, limit)
        with open_recording(path) as recording:
            first = recording.step_numbers()[-1] + 1


def test_a_killed_recorder_loses_no_step_that_it_has_acknowledged(tmp_path):
    run_rounds(tmp_path, 3, seed=1)


@pytest.mark.exhaustive
@pytest.mark.timeout(1800)
def test_a_recorder_killed_at_100_moments_loses_no_step_that_it_has_acknowledged(tmp_path):
    run_rounds(tmp_path, 100, seed=2)


@pytest.mark.parametrize("full_bytes", [500_000, 800_000, 1_200_000, 2_000_000])
def test_a_full_disk_at_any_moment_loses_no_step_that_was_acknowledged(tmp_path, full_bytes):
    path = tmp_path / "a.gradscope"
    ran = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(_WRITER), str(path), "0", str(2**28), str(full_bytes)],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert "stopped" in ran.stderr
    assert "full" in ran.stderr or "I/O" in ran.stderr, ran.stderr
    check_file(path, int(ran.stdout.split()[-1]), 2**28)


def fill_while_it_writes(disk: Path, after_s: float) -> None:
    """Run a recorder on a small file system, fill this `after_s` after the first commit, and check the file."""
    path = disk / "a.gradscope"
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(_WRITER), str(path), "0", str(2**28)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as writer:
        assert writer.stdout is not None
        writer.stdout.readline()
        time.sleep(after_s)
        with suppress(OSError), (disk / "other").open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
        said, errors = writer.communicate(timeout=60)
    assert "stopped" in errors
    check_file(path, int((said.split() or ["0"])[-1]), 2**28)
    for file in disk.iterdir():
        file.unlink()


@pytest.mark.exhaustive
@pytest.mark.timeout(1800)
@pytest.mark.skipif(os.getuid() != 0, reason="only root can mount a small file system")
def test_a_disk_that_is_filled_at_100_moments_loses_no_step_that_was_acknowledged(tmp_path):
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(tmp_path)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("cannot mount a small file system")
    chance = random.Random(5)
    try:
        for _ in range(100):
            fill_while_it_writes(tmp_path, chance.random() * 0.3)
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


@pytest.fixture
def sound(tmp_path, make):
    """The bytes of a recording with chunks, newest steps, events and scalars; the steps, and a place for copies."""
    path = tmp_path / "sound.gradscope"
    messages = [make.step(number, rows=50) for number in range(400)]
    events = [make.event(number, "x" * 500) for number in range(40)]
    with Recorder(path, make.hello()) as recorder:
        make.record(recorder, make.manifest(), *messages, *events, make.scalars(0, 400))
    return path.read_bytes(), messages, tmp_path / "damaged.gradscope"


def read_all(path):
    """Return the steps that a damaged file still has, and what it says is lost; None if it cannot be opened."""
    try:
        with open_recording(path) as recording:
            steps = list(recording.steps())
            lost = recording.check()
    except RecordingError as error:
        said = str(error)
        steps = lost = None
    if steps is None:
        assert str(path) in said
    return steps, lost


def check_damaged(path, messages) -> bool:
    """Check that a damaged file gives true steps, and says so if some are missing. Return whether it opened."""
    steps, lost = read_all(path)
    if steps is None:
        return False
    sent = {step.step: step for step in messages}
    for step in steps:
        assert step == sent[step.step], "a number has changed without notice"
    if len(steps) < len(messages):
        assert lost, "steps are missing without notice"
    return True


def test_a_file_with_random_bytes_gives_no_false_number(sound):
    whole, messages, path = sound
    chance = random.Random(3)
    opened = 0
    for _ in range(60):
        damaged = bytearray(whole)
        for _ in range(chance.choice([1, 3, 30])):
            damaged[chance.randrange(4096, len(damaged))] = chance.randrange(256)
        path.write_bytes(damaged)
        opened += check_damaged(path, messages)
    assert opened > 30


def test_a_file_truncated_at_any_page_is_read_as_far_as_it_is_sound(sound):
    whole, messages, path = sound
    for size in range(0, len(whole), 4096):
        path.write_bytes(whole[:size])
        os.utime(path, (1000.0, 1000.0))
        check_damaged(path, messages)


def test_a_file_with_a_page_of_zeros_is_read_as_far_as_it_is_sound(sound):
    whole, messages, path = sound
    opened = 0
    for place in range(0, len(whole), 4096):
        path.write_bytes(whole[:place] + bytes(4096) + whole[place + 4096 :])
        opened += check_damaged(path, messages)
    assert opened > len(whole) // 4096 // 2
