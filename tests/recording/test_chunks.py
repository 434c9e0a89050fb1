"""Chunks: what is packed comes back bit for bit, one column is read alone, and thinning keeps what matters."""

import dataclasses
import itertools

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradscope.columns import Block, Flags
from gradscope.errors import ProtocolError, UnknownLayerError, UsageError
from gradscope.protocol import Step, encode
from gradscope.protocol.bodies import pack_block, unpack_block
from gradscope.recording import Recorder, open_recording
from gradscope.recording.chunk_codec import (
    Entry,
    decode_heads,
    encode_columns,
    encode_heads,
    join_bodies,
)

KINDS = ("out", "grad")


def random_block(seed: int, rows: int, *, has_histogram: bool = False, is_nan: bool = False) -> Block:
    random = np.random.default_rng(seed)
    values = {
        "count": np.full(rows, 10 ** (seed % 6), np.uint64),
        "nan": np.full(rows, int(is_nan), np.uint64),
        "posinf": np.zeros(rows, np.uint64),
        "neginf": np.zeros(rows, np.uint64),
        "sum": random.standard_normal(rows),
        "sumsq": np.exp(random.standard_normal(rows) * 100),
        "min": random.standard_normal(rows).astype(np.float32 if seed % 2 else np.float64),
        "max": np.where(random.random(rows) < 0.2, -np.inf, 1.0),
    }
    histogram = None
    if has_histogram:
        histogram = np.zeros((rows, 128), np.uint64)
        histogram[:, 10:20] = random.integers(0, 2 ** (1 + seed % 40), (rows, 10))
    return Block(
        KINDS,
        np.arange(rows, dtype=np.uint32) // 2,
        (np.arange(rows) % 2).astype(np.uint32),
        np.zeros(rows, np.uint8),
        values,
        histogram,
    )


def step_of(number: int, block: Block, rank: int = 0) -> Step:
    columns, zero, body = pack_block(block)
    return Step(
        run="gpt", rank=rank, seq=number, step=number, time_s=float(number), manifest_revision=1,
        kinds=KINDS, rows=len(block), columns=columns, zero=zero, body=body,
    )  # fmt: skip


def entries_of(steps: list[Step]) -> list[Entry]:
    return [Entry(decode_only(step), encode(step)[0], step.body) for step in steps]


def decode_only(step: Step) -> Step:
    return msgspec.structs.replace(step, body=b"")


@settings(deadline=None, max_examples=40)
@given(
    st.lists(
        st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 9), st.booleans()), min_size=1, max_size=9
    )
)
def test_every_body_comes_back_bit_for_bit(drawn):
    steps = [
        step_of(number, random_block(seed, rows, has_histogram=has_histogram))
        for number, (seed, rows, has_histogram) in enumerate(drawn)
    ]
    entries = entries_of(steps)
    heads, decoded = decode_heads(encode_heads(entries))
    assert heads == [entry.head for entry in entries]
    assert join_bodies(decoded, encode_columns(entries)) == [step.body for step in steps]


def test_a_body_that_does_not_fit_its_head_does_not_harm_the_others(tmp_path, make):
    whole = step_of(0, random_block(1, 4))
    odd = [
        msgspec.structs.replace(whole, body=whole.body[:-3], step=1),
        msgspec.structs.replace(whole, body=b"", step=2),
        msgspec.structs.replace(whole, columns=(("sum", "no type"), ("max", "O")), step=3),
    ]
    with Recorder(tmp_path / "a.gradscope", make.hello()) as recorder:
        make.record(recorder, whole, *odd)
    assert recorder.failure is None
    with open_recording(tmp_path / "a.gradscope") as recording:
        assert list(recording.steps()) == [whole]


def test_damage_of_a_column_is_noticed():
    entries = entries_of([step_of(number, random_block(number, 6)) for number in range(5)])
    columns = encode_columns(entries)
    for place, column in enumerate(columns):
        data = bytearray(column.data)
        data[len(data) // 2] ^= 1
        damaged = [
            *columns[:place],
            dataclasses.replace(column, data=bytes(data)),
            *columns[place + 1 :],
        ]
        with pytest.raises(ProtocolError):
            join_bodies([entry.step for entry in entries], damaged)
        with pytest.raises(ProtocolError):
            join_bodies([entry.step for entry in entries], columns[:place] + columns[place + 1 :])


@pytest.fixture
def recorded(tmp_path, make):
    """A recording of 200 steps of two ranks, in chunks and with newest steps, and the steps that were sent."""
    path = tmp_path / "a.gradscope"
    sent = [
        step_of(number, random_block(2 * number + rank, 6 if number % 50 else 4), rank)
        for number in range(0, 400, 2)
        for rank in (0, 1)
    ]
    with Recorder(path, make.hello()) as recorder:
        make.record(recorder, make.manifest(), make.manifest(rank=1), *sent)
    with Recorder(path, make.hello()) as recorder:
        newest = [step_of(number, random_block(number, 6)) for number in (500, 502)]
        make.record(recorder, *newest)
    return path, sent + newest


def test_steps_in_chunks_are_read_in_order_and_as_they_were_sent(recorded):
    path, sent = recorded
    with open_recording(path) as recording:
        assert list(recording.steps()) == sent
        assert recording.step_numbers() == sorted({step.step for step in sent})
        assert recording.info.steps == 202
        assert recording.steps_near(None, 2) == sent[-2:]
        assert [step.step for step in recording.steps_near(101, 3)] == [96, 96, 98, 98, 100, 100]
        assert recording.steps_between(100, 103) == [step for step in sent if step.step in (100, 102)]
        assert recording.steps_between(1000, 2000) == []
        assert recording.lost == []


@pytest.mark.parametrize("statistic", ["sum", "min", "count", "nan", "norm", "std", "mean", "zero"])
def test_a_series_has_what_the_steps_have(recorded, statistic):
    path, sent = recorded
    with open_recording(path) as recording:
        steps, values = recording.series("fc1", "grad", statistic, rank=1)
        part, of_part = recording.series("fc1", "grad", statistic, 100, 120, rank=1)
    expected = {}
    for step in sent:
        block = unpack_block(step)
        row = np.flatnonzero((block.layer == 1) & (block.kind == 1))
        if step.rank == 1 and len(row):
            derived = statistic in ("norm", "std", "mean")
            expected[step.step] = (block.derive if derived else block.column)(statistic)[row[0]]
    assert steps.tolist() == list(expected)
    np.testing.assert_array_equal(values, list(expected.values()))
    assert part.tolist() == list(range(100, 120, 2))
    np.testing.assert_array_equal(of_part, [expected[step] for step in part.tolist()])


def test_a_series_follows_a_row_that_moves_and_a_column_that_changes_once(tmp_path, make):
    blocks = []
    for number in range(70):
        block = random_block(0 if number < 40 else 1, 6)
        is_moved = number % 7 == 3
        order = np.arange(6)[::-1] if is_moved else np.arange(6)
        values = {name: values[order] for name, values in block.values.items()}
        blocks.append(
            dataclasses.replace(block, layer=block.layer[order], kind=block.kind[order], values=values)
        )
    path = tmp_path / "a.gradscope"
    steps = [step_of(number, block) for number, block in enumerate(blocks)]
    with Recorder(path, make.hello()) as recorder:
        make.record(recorder, make.manifest(), *steps)
    rows = [np.flatnonzero((b.layer == 1) & (b.kind == 0))[0] for b in blocks]
    with open_recording(path) as recording:
        for name in ("sum", "min", "count"):
            found = recording.series("fc1", "out", name)[1]
            expected = [b.column(name)[row] for b, row in zip(blocks, rows, strict=True)]
            np.testing.assert_array_equal(found, expected)


def test_a_row_that_was_not_measured_is_nan_and_an_unknown_name_an_error(tmp_path, make):
    block = dataclasses.replace(random_block(1, 6), flags=np.full(6, Flags.NOT_MEASURED, np.uint8))
    path = tmp_path / "a.gradscope"
    with Recorder(path, make.hello()) as recorder:
        make.record(recorder, make.manifest(), step_of(3, block))
    with open_recording(path) as recording:
        steps, values = recording.series("fc1", "out", "norm")
        assert (steps.tolist(), np.isnan(values).tolist()) == ([3], [True])
        assert recording.series("fc1", "update", "norm")[0].tolist() == []
        with pytest.raises(UnknownLayerError, match="nearest: fc"):
            recording.series("fc12", "out", "norm")
        with pytest.raises(UsageError, match="unknown statistic 'nrom'"):
            recording.series("fc1", "out", "nrom")


def test_a_step_that_is_sent_again_after_it_was_packed_has_the_last_values(tmp_path, make):
    path = tmp_path / "a.gradscope"
    for value in (1, 2, 3):
        with Recorder(path, make.hello()) as recorder:
            make.record(recorder, *(step_of(number, random_block(value, 4)) for number in (5, 6)))
    with open_recording(path) as recording:
        assert list(recording.steps()) == [step_of(n, random_block(3, 4)) for n in (5, 6)]


def test_thinning_keeps_a_step_with_a_nan_or_a_warning_before_its_neighbour(
    tmp_path, make, wait_until, monkeypatch
):
    path = tmp_path / "a.gradscope"
    nans, warned = {101, 405, 703}, {51, 333}
    events = [msgspec.structs.replace(make.event(number), level="warning") for number in sorted(warned)]
    checked = [make.event(number) for number in range(1, 200, 2)]
    with Recorder(path, make.hello(), limit_bytes=400_000) as recorder:
        make.record(recorder, make.manifest(), *events, *checked)
        make.record(recorder, *(step_of(n, random_block(n, 20, is_nan=n in nans)) for n in range(1000)))
    assert recorder.failure is None
    with open_recording(path) as recording:
        kept = recording.step_numbers()
        assert recording.info.removed == 1000 - len(kept) > 300
        assert nans | warned | {0, 999} <= set(kept)
        found = {step.step for step in recording.steps() if unpack_block(step).column("nan").any()}
        assert found == nans
    gaps = [b - a for a, b in itertools.pairwise(kept)]
    assert gaps[-1] == 1
    assert path.stat().st_size < 450_000


def test_the_scalars_of_a_name_are_one_series(tmp_path, make):
    with Recorder(tmp_path / "a.gradscope", make.hello()) as recorder:
        make.record(recorder, make.scalars(0, 3), make.scalars(3, 3), make.scalars(0, 3, rank=1))
    with open_recording(tmp_path / "a.gradscope") as recording:
        assert recording.scalar_names() == ["loss"]
        steps, values = recording.scalar_series("loss", 2)
    assert steps.tolist() == [2, 3, 4, 5]
    np.testing.assert_array_equal(values, [1 / 3, 1 / 4, 1 / 5, 1 / 6])
