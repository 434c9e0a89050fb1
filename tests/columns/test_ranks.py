"""Rows of several ranks merged are the rows of all their data together."""

import dataclasses

import numpy as np
import pytest

from gradscope.columns import Block, Flags, Table, merge_ranks

CHANCE = np.random.default_rng(0)


def block_of(rows, kinds=("out", "param")):
    """A block with a row (layer, kind, data, flags) each, measured in float64."""
    flat = [np.asarray(data, np.float64) for _, _, data, _ in rows]
    finite = [data[np.isfinite(data)] for data in flat]
    values = {
        "calls": np.ones(len(rows), np.uint64),
        "count": np.array([data.size for data in flat], np.uint64),
        "nan": np.array([np.isnan(data).sum() for data in flat], np.uint64),
        "posinf": np.array([np.isposinf(data).sum() for data in flat], np.uint64),
        "neginf": np.array([np.isneginf(data).sum() for data in flat], np.uint64),
        "sum": np.array([data.sum() for data in finite]),
        "sumsq": np.array([np.square(data).sum() for data in finite]),
        "min": np.array([data.min(initial=np.inf) for data in finite]),
        "max": np.array([data.max(initial=-np.inf) for data in finite]),
    }
    return Block(
        kinds,
        np.array([layer for layer, *_ in rows], np.uint32),
        np.array([kinds.index(kind) for _, kind, *_ in rows], np.uint32),
        np.array([flags for *_, flags in rows], np.uint8),
        values,
    )


def merged(*parts):
    return Table(0, *merge_ranks(parts))


def check_is_of(stats, *data):
    whole = np.concatenate(data)
    finite = whole[np.isfinite(whole)]
    assert (stats.count, stats.finite, stats.calls) == (whole.size, finite.size, len(data))
    assert stats.mean == pytest.approx(finite.mean())
    assert stats.std == pytest.approx(finite.std())
    assert stats.norm == pytest.approx(np.linalg.norm(finite))
    assert (stats.min, stats.max) == (finite.min(), finite.max())


def test_each_ranks_own_data_adds_up_to_the_whole():
    data = [CHANCE.normal(rank, 1 + rank, 100 + rank) for rank in range(4)]
    data[2][3], data[3][5] = np.nan, np.inf
    parts = [(("a", "b"), block_of([(1, "out", each, 0)])) for each in data]
    rows = merged(*parts)
    check_is_of(rows["b"]["out"], *data)
    assert rows["b"]["out"].flags == Flags.EXACT


def test_one_replica_is_shown_and_a_flag_says_if_another_differs():
    own = CHANCE.normal(size=50)
    other = own.copy()
    for last, expected in ((own, Flags.EXACT), (other, Flags.DIFFERS)):
        other[7] = 9.0
        parts = [
            (("a",), block_of([(0, "param", own, 0)])),
            (("a",), block_of([(0, "param", own, Flags.REPLICA)])),
            (("a",), block_of([(0, "param", last, Flags.REPLICA)])),
        ]
        stats = merged(*parts)["a"]["param"]
        check_is_of(stats, own)
        assert stats.flags == expected


def test_without_the_first_rank_one_of_the_copies_is_taken():
    own = CHANCE.normal(size=50)
    part = (("a",), block_of([(0, "param", own, Flags.REPLICA)]))
    check_is_of(merged(part, part)["a"]["param"], own)


def test_two_copies_of_two_shards_are_two_shards():
    shards = [CHANCE.normal(size=30) for _ in range(2)]
    flags = (0, 0, Flags.REPLICA, Flags.REPLICA)
    parts = [(("a",), block_of([(0, "param", shards[rank % 2], flags[rank])])) for rank in range(4)]
    stats = merged(*parts)["a"]["param"]
    check_is_of(stats, *shards)
    assert Flags.DIFFERS not in stats.flags


def test_an_empty_shard_changes_nothing():
    data = CHANCE.normal(size=30)
    parts = [(("a",), block_of([(0, "param", each, 0)])) for each in (data, data[:0])]
    stats = merged(*parts)["a"]["param"]
    assert (stats.count, stats.min, stats.max) == (30, data.min(), data.max())


def test_layers_and_kinds_are_matched_by_name_where_ranks_have_others():
    data = [CHANCE.normal(size=10) for _ in range(4)]
    first = block_of([(0, "out", data[0], 0), (1, "param", data[1], 0)])
    second = block_of([(0, "param", data[2], 0), (1, "out", data[3], 0)], kinds=("param", "out"))
    rows = merged((("a", "b"), first), (("b", "c"), second))
    check_is_of(rows["a"]["out"], data[0])
    check_is_of(rows["b"]["param"], data[1], data[2])
    check_is_of(rows["c"]["out"], data[3])


def test_a_row_with_a_part_that_was_not_measured_is_not_measured():
    data = CHANCE.normal(size=10)
    parts = [(("a",), block_of([(0, "out", data, flags)])) for flags in (0, Flags.NOT_MEASURED)]
    assert not merged(*parts)["a"]["out"].is_measured


def test_a_column_that_one_rank_has_not_measured_is_left_out():
    first = block_of([(0, "out", [1.0, 0.0], 0)])
    with_zeros = dataclasses.replace(first, values={**first.values, "zero": np.array([1])})
    stats = merged((("a",), first), (("a",), with_zeros))["a"]["out"]
    assert stats.zero is None


def random_ranks(seed, *, count=5, rows=40):
    """Blocks of ranks with the same rows; some rows are copies, of which some differ, and some are not measured."""
    random = np.random.default_rng(seed)
    is_copy = random.random(rows) < 0.4
    first, parts = None, []
    for rank in range(count):
        data = [random.normal(size=9) * 10.0 ** random.integers(-9, 9) for _ in range(rows)]
        for row in range(rows):
            if first is not None and is_copy[row] and random.random() < 0.9:
                data[row] = first[row]
            if random.random() < 0.05:
                data[row][0] = np.nan
        first = first or data
        flags = np.where(is_copy & (rank > 0), int(Flags.REPLICA), 0)
        flags |= np.where(random.random(rows) < 0.02, int(Flags.NOT_MEASURED), 0)
        block = block_of([(i // 2, ("out", "param")[i % 2], data[i], flags[i]) for i in range(rows)])
        histogram = random.integers(0, 9, (rows, 128)).astype(np.uint64)
        digest = random.integers(0, 2**63, rows).astype(np.uint64)
        digest[random.random(rows) < 0.02] = 0
        parts.append(
            (
                tuple(f"layer{i}" for i in range(rows)),
                dataclasses.replace(block, histogram=histogram, digest=digest),
            )
        )
    return parts


@pytest.mark.parametrize("seed", range(20))
def test_ranks_with_the_same_rows_merge_bit_for_bit_as_ranks_with_any_rows(seed):
    parts = random_ranks(seed)
    names, block = merge_ranks(parts)
    # A rank without rows but with the layers in the same order takes the general way.
    others, expected = merge_ranks([*parts, (parts[0][0], parts[0][1].taken(slice(0)))])
    assert names == others
    for name in ("layer", "kind", "flags", "histogram", "digest"):
        assert np.array_equal(getattr(block, name), getattr(expected, name)), name
    assert block.values.keys() == expected.values.keys()
    for name, column in expected.values.items():
        assert block.values[name].tobytes() == column.tobytes(), name
    assert (block.flags & Flags.DIFFERS).any()
