"""Rounded statistics: within the stated bound, equal for equal rows, and exact where that is promised."""

import dataclasses
import sqlite3
from contextlib import closing
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradscope.columns import Block
from gradscope.errors import ProtocolError
from gradscope.protocol import Hello, Layer, Manifest, Step, encode, pack_layers
from gradscope.protocol.bodies import pack_block, unpack_block
from gradscope.recording import Recorder, open_recording
from gradscope.recording.chunk_codec import Entry, PackedColumn, encode_columns, join_bodies
from gradscope.recording.chunks import EXACT_BYTES, join_oldest
from gradscope.recording.rounding import PRECISION, round_statistics

KINDS = ("out", "param", "param.weight", "param.bias")
COUNTS = ("calls", "count", "nan", "posinf", "neginf")


def row_of(elements: np.ndarray) -> dict[str, float]:
    """The columns of one tensor, from its elements."""
    finite = elements[np.isfinite(elements)].astype(np.float64)
    return {
        "calls": 1,
        "count": elements.size,
        "nan": int(np.isnan(elements).sum()),
        "posinf": int((elements == np.inf).sum()),
        "neginf": int((elements == -np.inf).sum()),
        "sum": float(finite.sum()),
        "sumsq": sum(float(x) * float(x) for x in finite),  # inf without a warning
        "min": float(finite.min(initial=np.inf)),
        "max": float(finite.max(initial=-np.inf)),
    }


def block_of(tensors: list[np.ndarray], kinds: list[int] | None = None, layers: int = 1) -> Block:
    rows = [row_of(each) for each in tensors]
    values = {
        name: np.array([row[name] for row in rows], np.uint64 if name in COUNTS else np.float64)
        for name in rows[0]
    }
    count = len(rows)
    return Block(
        KINDS,
        np.arange(count, dtype=np.uint32) // (count // layers),
        np.array(kinds or [0] * count, np.uint32),
        np.zeros(count, np.uint8),
        values,
    )


def step_of(number: int, block: Block, rank: int = 0) -> Step:
    columns, zero, body = pack_block(block)
    return Step(
        run="gpt", rank=rank, seq=number, step=number, time_s=float(number), manifest_revision=1,
        kinds=KINDS, rows=len(block), columns=columns, zero=zero, body=body,
    )  # fmt: skip


def packed_and_unpacked(steps: list[Step]) -> list[Block]:
    heads = [msgspec.structs.replace(step, body=b"") for step in steps]
    entries = [Entry(head, encode(step)[0], step.body) for head, step in zip(heads, steps, strict=True)]
    bodies = join_bodies(heads, encode_columns(entries, is_rounded=True))
    return [
        unpack_block(msgspec.structs.replace(head, body=body))
        for head, body in zip(heads, bodies, strict=True)
    ]


def assert_within_the_bound(block: Block, rounded: Block) -> None:
    for name in COUNTS:
        np.testing.assert_array_equal(rounded.column(name), block.column(name))
    deviation = np.nan_to_num(block.derive("std"))
    slack = 1e-9  # of float64, where the mean is 10^4 times as large
    for name in ("std", "norm", "rms", "min", "max"):
        derived = name in ("std", "norm", "rms")
        before, after = ((b.derive if derived else b.column)(name) for b in (block, rounded))
        is_finite = np.isfinite(before)
        np.testing.assert_array_equal(np.isfinite(after), is_finite)
        error = np.abs(after[is_finite] - before[is_finite])
        assert (error <= (PRECISION + slack) * np.abs(before)[is_finite]).all(), name
    error = np.nan_to_num(np.abs(rounded.derive("mean") - block.derive("mean")))
    assert (error <= (PRECISION * 1.002 + slack) * deviation).all()


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 2**32 - 1), st.integers(1, 5), st.integers(1, 12))
def test_numbers_are_within_the_bound_and_counts_exact(seed, steps, rows):
    random = np.random.default_rng(seed)
    blocks = []
    for _ in range(steps):
        tensors = []
        for _ in range(rows):
            scale = 10.0 ** random.uniform(-30, 30)
            mean = scale * random.choice([0.0, 1.0, 100.0, 1e4])
            tensor = random.standard_normal(random.integers(1, 50)) * scale + mean
            tensor[random.random(tensor.size) < random.choice([0, 0, 0.3])] = random.choice(
                [np.nan, np.inf, -np.inf, 0]
            )
            tensors.append(tensor)
        blocks.append(block_of(tensors))
    found = packed_and_unpacked([step_of(number, block) for number, block in enumerate(blocks)])
    for block, rounded in zip(blocks, found, strict=True):
        assert_within_the_bound(block, rounded)
        expected = round_statistics(block.values)
        for name, numbers in expected.items():
            np.testing.assert_array_equal(rounded.column(name), numbers)
            np.testing.assert_array_equal(round_statistics(expected)[name], numbers)


@pytest.mark.parametrize(
    "tensor",
    [
        np.array([1.5]),
        np.full(7, 0.1),
        np.zeros(4),
        np.array([np.nan, 0.3, 0.123456789]),
        np.full(3, np.inf),
        np.array([1.0, 1.0 + 2.0**-30]),
        np.array([1e-310, 3e-310]),
        np.array([1e200, -1.7e308]),
    ],
)
def test_a_row_that_has_no_deviation_or_is_not_finite_is_exact(tensor):
    block = block_of([tensor, np.array([1.0, 2.0, 4.0])])
    (rounded,) = packed_and_unpacked([step_of(0, block)])
    for name in block.values:
        assert rounded.column(name)[0] == block.column(name)[0]


def test_the_row_of_all_parameters_is_the_merged_row_of_its_parameters():
    random = np.random.default_rng(0)
    steps = []
    for number in range(9):
        weight, bias = random.standard_normal(1000), random.standard_normal(10)
        block = block_of([np.concatenate([weight, bias]), weight, bias], [1, 2, 3])
        for name in ("sum", "sumsq"):
            block.values[name][0] = block.values[name][1] + block.values[name][2]
        if number == 4:
            block.values["sum"][0] += 1.0  # not what is merged
        steps.append(step_of(number, block))
    for kept in (steps[:4], steps):
        for step, rounded in zip(kept, packed_and_unpacked(kept), strict=True):
            assert_within_the_bound(unpack_block(step), rounded)
    merged = packed_and_unpacked(steps[:4])[0]
    assert merged.column("sumsq")[0] == merged.column("sumsq")[1:].sum()


def many_steps(count: int, rows: int = 40) -> list[Step]:
    random = np.random.default_rng(0)
    first = random.standard_normal((rows, 40))
    found = []
    for number in range(count):
        tensors = first + 0.1 * random.standard_normal((rows, 40))
        values = {
            "calls": np.ones(rows, np.uint64),
            "count": np.full(rows, 40, np.uint64),
            **{name: np.zeros(rows, np.uint64) for name in ("nan", "posinf", "neginf")},
            "sum": tensors.sum(1),
            "sumsq": np.square(tensors).sum(1),
            "min": tensors.min(1),
            "max": tensors.max(1),
        }
        layers = np.arange(rows, dtype=np.uint32)
        none = np.zeros(rows, np.uint32)
        block = Block(KINDS, layers, none, none.astype(np.uint8), values)
        found.append(step_of(number, block))
    return found


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """A recording in which the steps from 64 to 255 are rounded, and what was sent."""
    sent = many_steps(300)
    path = tmp_path_factory.mktemp("large") / "a.gradscope"
    write(path, sent)
    return path, sent


def write(path: Path, *parts: list[Step], exact_bytes: int = 30_000) -> None:
    """Record steps; each part by another recorder of the same process."""
    hello = Hello(role="agent", peer="p", run="gpt", pid=41, started_s=1.0)
    layers = tuple(Layer(name, "Linear") for name in ("fc0", "fc1"))
    manifest = Manifest(
        run="gpt", rank=0, revision=1, model="m", layer_count=2, body=pack_layers(layers)
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gradscope.recording.recorder.EXACT_BYTES", exact_bytes)
        for steps in parts:
            with Recorder(path, hello) as recorder:
                for message in (manifest, *steps):
                    recorder.add(message, encode(message))
            assert recorder.failure is None
            assert recorder.path == path


def test_the_first_and_the_newest_steps_are_exact(large):
    path, sent = large
    with open_recording(path) as recording:
        rounded = recording.rounded_step_numbers()
        found = list(recording.steps())
        assert recording.check() == []
    assert rounded == list(range(64, 256))
    assert [each.step for each in found] == list(range(300))
    for before, after in zip(sent, found, strict=True):
        if before.step in rounded:
            assert after.body != before.body
            assert_within_the_bound(unpack_block(before), unpack_block(after))
        else:
            assert after == before


@pytest.mark.parametrize("statistic", ["sum", "min", "max", "count", "norm", "std"])
def test_a_series_has_what_the_steps_have(large, statistic):
    path, _ = large
    with open_recording(path) as recording:
        steps, values = recording.series("fc1", "out", statistic)
        blocks = [unpack_block(step) for step in recording.steps()]
    derived = statistic in ("norm", "std")
    expected = [(each.derive if derived else each.column)(statistic)[1] for each in blocks]
    assert steps.tolist() == list(range(300))
    np.testing.assert_array_equal(values, expected)


def test_equal_runs_stay_equal_although_their_chunks_differ(large, tmp_path):
    path, sent = large
    other = tmp_path / "b.gradscope"
    write(other, sent[:37], sent[37:])
    with open_recording(path) as one, open_recording(other) as two:
        both = set(one.rounded_step_numbers()) & set(two.rounded_step_numbers())
        assert len(both) > 100
        for a, b in zip(one.steps(), two.steps(), strict=True):
            if a.step in both:
                assert a.body == b.body


def test_steps_with_digests_are_exact(tmp_path, large):
    _, sent = large
    digests = []
    for step in sent:
        block = unpack_block(step)
        digest = np.arange(1, len(block) + 1, dtype=np.uint64)
        digests.append(step_of(step.step, dataclasses.replace(block, digest=digest)))
    write(tmp_path / "a.gradscope", digests)
    with open_recording(tmp_path / "a.gradscope") as recording:
        assert recording.rounded_step_numbers() == []
        assert list(recording.steps()) == digests


def test_nothing_is_rounded_if_the_environment_says_so(tmp_path, large, monkeypatch):
    _, sent = large
    monkeypatch.setenv("GRADSCOPE_RECORDINGS_EXACT", "1")
    write(tmp_path / "a.gradscope", sent)
    with open_recording(tmp_path / "a.gradscope") as recording:
        assert recording.rounded_step_numbers() == []
        assert list(recording.steps()) == sent


def test_older_steps_are_removed_from_rounded_chunks_too(tmp_path):
    path, sent = tmp_path / "a.gradscope", many_steps(600)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gradscope.recording.recorder.EXACT_BYTES", 30_000)
        with Recorder(path, Hello(role="agent", peer="p", run="gpt"), limit_bytes=250_000) as recorder:
            for step in sent:
                recorder.add(step, encode(step))
    with open_recording(path) as recording:
        assert recording.info.removed > 100
        found = list(recording.steps())
    assert found[-16:] == sent[-16:]
    for step in found:
        assert_within_the_bound(unpack_block(sent[step.step]), unpack_block(step))


def test_rounded_steps_take_a_quarter_of_the_bytes(large):
    path, _ = large
    with closing(sqlite3.connect(path)) as connection:
        sizes = connection.execute(
            "SELECT sum(length(data)) FROM chunk_column GROUP BY chunk ORDER BY chunk"
        ).fetchall()
    assert sizes[1][0] < 0.3 * sizes[0][0]


def test_damage_of_a_rounded_column_is_noticed():
    steps = many_steps(20, 12)
    entries = [
        Entry(msgspec.structs.replace(step, body=b""), encode(step)[0], step.body) for step in steps
    ]
    columns = encode_columns(entries, is_rounded=True)
    heads = [entry.step for entry in entries]
    for place, column in enumerate(columns):
        data = bytearray(column.data)
        data[len(data) // 2] ^= 1
        damaged = PackedColumn(column.name, column.dtype, column.rows, bytes(data))
        with pytest.raises(ProtocolError):
            join_bodies(heads, [*columns[:place], damaged, *columns[place + 1 :]])
        with pytest.raises(ProtocolError):
            join_bodies(heads, columns[:place] + columns[place + 1 :])


def test_a_recording_of_the_version_before_is_read_and_continued(tmp_path):
    path, sent = tmp_path / "a.gradscope", many_steps(3, 6)
    write(path, sent[:2])
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 2")
    with open_recording(path) as recording:
        assert list(recording.steps()) == sent[:2]
        assert recording.rounded_step_numbers() == []
    write(path, sent[2:])
    with open_recording(path) as recording:
        assert list(recording.steps()) == sent
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (3,)


def test_the_first_8_mib_are_exact():
    assert EXACT_BYTES == 8 * 2**20


def test_rounded_steps_that_are_joined_are_still_known_as_rounded(tmp_path):
    path, sent = tmp_path / "a.gradscope", many_steps(300)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gradscope.recording.recorder.EXACT_BYTES", -1)
        with Recorder(path, Hello(role="agent", peer="p", run="gpt")) as recorder:
            for step in sent:
                recorder.add(step, encode(step))
    with closing(sqlite3.connect(path)) as connection:
        while join_oldest(connection, exact_bytes=2**30):
            pass
    with open_recording(path) as recording:
        rounded = recording.rounded_step_numbers()
        for step in recording.steps():
            is_exact = step.body == sent[step.step].body
            assert is_exact == (step.step not in rounded)
    assert 0 in rounded
