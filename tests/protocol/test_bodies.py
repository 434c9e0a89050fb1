"""The columns of a step: exact, narrow, and nothing invented."""

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from gradscope.columns import COLUMNS, CORE_COLUMNS, Block
from gradscope.errors import ProtocolError, UsageError
from gradscope.protocol import (
    BODY_LIMIT_BYTES,
    PART_LIMIT_BYTES,
    PART_LIMIT_COUNT,
    Step,
    decode,
    encode,
)
from gradscope.protocol.bodies import pack_block, unpack_block
from support.examples import examples

_COUNTS = [c.name for c in COLUMNS if c.is_count]
_FLOATS = [c.name for c in COLUMNS if not c.is_count]


def _step_of(block: Block, **changes: object) -> Step:
    columns, zero, body = pack_block(block)
    fields = {
        "run": "r",
        "rank": 0,
        "seq": 0,
        "step": 5,
        "time_s": 0.0,
        "manifest_revision": 0,
        "kinds": block.kinds,
        "rows": len(block),
        "columns": columns,
        "zero": zero,
        "body": body,
    }
    return Step(**(fields | changes))


def _sent(block: Block) -> Block:
    """Send a block through bytes."""
    return unpack_block(decode(encode(_step_of(block))))


def _assert_same(came: Block, sent: Block) -> None:
    assert came.kinds == sent.kinds
    np.testing.assert_array_equal(came.layer, sent.layer)
    np.testing.assert_array_equal(came.kind, sent.kind)
    np.testing.assert_array_equal(came.flags, sent.flags)
    assert set(came.values) == set(sent.values)
    for name, array in sent.values.items():
        np.testing.assert_array_equal(came.values[name], array, err_msg=name, strict=False)


def test_digests_are_sent_whole_after_a_block_without_digests_has_none():
    layer = np.arange(2, dtype=np.uint32)
    common = (
        ("out",),
        layer,
        np.zeros(2, np.uint32),
        np.zeros(2, np.uint8),
        {"count": np.ones(2, np.uint64)},
    )
    assert _sent(Block(*common)).digest is None
    for digests in ([2**64 - 1, 0], [0, 0]):
        sent = Block(*common, digest=np.array(digests, np.uint64))
        came = _sent(sent)
        assert came.digest.tolist() == digests
    columns, _, body = pack_block(Block(*common, digest=np.array([0x0102030405060708, 9], np.uint64)))
    assert columns[0] == ("digest", "u8")
    assert body[:16].hex() == "08070605040302010900000000000000"


@st.composite
def _blocks(draw: st.DrawFn) -> Block:
    rows = draw(st.integers(0, 12))
    kinds = tuple(draw(st.lists(st.text(max_size=5), min_size=1, max_size=4, unique=True)))
    values: dict[str, np.ndarray] = {}
    for name in draw(st.sets(st.sampled_from([*_COUNTS, *_FLOATS]))):
        dtype = np.uint64 if name in _COUNTS else draw(st.sampled_from([np.float32, np.float64]))
        values[name] = draw(npst.arrays(dtype, rows))
    return Block(
        kinds,
        draw(npst.arrays(np.uint32, rows)),
        draw(npst.arrays(np.uint32, rows, elements=st.integers(0, len(kinds) - 1))),
        draw(npst.arrays(np.uint8, rows)),
        values,
    )


@given(_blocks())
@examples(300)
def test_a_block_comes_back_as_it_was(block: Block):
    _assert_same(_sent(block), block)


@pytest.mark.parametrize(
    ("greatest", "code"),
    [
        (0xFF, "u1"),
        (0x100, "u2"),
        (0xFFFF, "u2"),
        (0x10000, "u4"),
        (0xFFFFFFFF, "u4"),
        (2**32, "u8"),
        (2**64 - 1, "u8"),
    ],
)
def test_a_count_travels_in_the_narrowest_type_that_holds_it(block, greatest: int, code: str):
    block.values["count"][:] = [1, greatest, 2]
    assert dict(_step_of(block).columns)["count"] == code
    assert _sent(block).values["count"].tolist() == [1, greatest, 2]


@pytest.mark.parametrize(
    ("value", "code"),
    [
        (0.5, "f4"),
        (np.inf, "f4"),
        (-np.inf, "f4"),
        (np.nan, "f4"),
        (3.4028234663852886e38, "f4"),
        (1.401298464324817e-45, "f4"),
        (0.1, "f8"),
        (1e39, "f8"),
        (-1e300, "f8"),
        (1e-46, "f8"),
        (2.0**24 + 1, "f8"),
    ],
)
def test_min_is_sent_as_float32_exactly_if_float32_holds_it(block, value: float, code: str):
    block.values["min"][:] = [1.0, value, np.nan]
    assert dict(_step_of(block).columns)["min"] == code
    np.testing.assert_array_equal(_sent(block).values["min"], [1.0, value, np.nan])


def test_sums_are_sent_as_float64_also_if_float32_would_hold_them(block):
    block.values["sum"][:] = [1.0, 2.0, 3.0]
    block.values["sumsq"][:] = [1.0, 4.0, 9.0]
    assert {dict(_step_of(block).columns)[name] for name in ("sum", "sumsq")} == {"f8"}


def test_a_column_that_is_all_zero_stays_at_home_and_comes_back_as_zeros(block):
    step = _step_of(block)
    assert "nan" in step.zero
    assert "nan" not in dict(step.columns)
    came = unpack_block(step).values["nan"]
    assert came.tolist() == [0, 0, 0]
    assert came.dtype == np.uint64


def test_a_column_that_was_not_measured_stays_absent_and_is_not_zero(block):
    came = _sent(block)
    assert "zero" not in came.values
    assert np.isnan(came.column("zero")).all()
    assert (came.column("nan") == 0).all()


def test_one_nan_keeps_a_column_from_passing_for_all_zero(block):
    block.values["sum"][:] = [0.0, np.nan, 0.0]
    np.testing.assert_array_equal(_sent(block).values["sum"], [0.0, np.nan, 0.0])


def test_a_block_without_columns_keeps_its_rows():
    bare = Block(
        ("out",), np.array([3, 4], np.uint32), np.zeros(2, np.uint32), np.array([4, 4], np.uint8), {}
    )
    _assert_same(_sent(bare), bare)


def test_a_block_without_rows_comes_back_without_rows():
    none = np.zeros(0, np.uint32)
    empty = Block(("out",), none, none, none.astype(np.uint8), dict.fromkeys(_COUNTS, none))
    came = _sent(empty)
    assert len(came) == 0
    assert set(came.values) == set(_COUNTS)


def test_whole_counts_may_be_given_as_signed_or_float(block):
    for dtype in (np.int64, np.float64):
        values = dict(block.values) | {"count": block.values["count"].astype(dtype)}
        came = _sent(Block(block.kinds, block.layer, block.kind, block.flags, values))
        assert came.values["count"].tolist() == [4, 300, 300]


@pytest.mark.parametrize("count", [-1.0, 0.5, np.nan, np.inf])
def test_a_count_that_is_not_a_whole_number_is_a_usage_error(block, count: float):
    values = dict(block.values) | {"nan": np.array([0.0, count, 1.0])}
    with pytest.raises(UsageError, match="'nan' to hold integers of at least 0"):
        pack_block(Block(block.kinds, block.layer, block.kind, block.flags, values))


def _large(rows: int, kinds: int) -> Block:
    random = np.random.default_rng(0)
    counts = {
        name: random.integers(0, 2**31, rows).astype(np.uint64)
        for name in _COUNTS
        if name in CORE_COLUMNS
    }
    floats = {name: random.normal(size=rows).astype(np.float32).astype(np.float64) for name in _FLOATS}
    floats |= {name: random.normal(size=rows) for name in ("sum", "sumsq")}
    layer = np.repeat(np.arange(rows // kinds, dtype=np.uint32), kinds)
    kind = np.tile(np.arange(kinds, dtype=np.uint32), rows // kinds)
    names = tuple(f"kind{i}" for i in range(kinds))
    return Block(names, layer, kind, random.integers(0, 16, rows).astype(np.uint8), counts | floats)


def test_ten_thousand_layers_of_five_kinds_fit_and_cost_less_than_64_bytes_a_row():
    block = _large(50_000, 5)
    parts = encode(_step_of(block))
    assert len(parts) <= PART_LIMIT_COUNT
    assert max(map(len, parts)) <= PART_LIMIT_BYTES
    assert sum(map(len, parts)) / len(block) < 64
    _assert_same(unpack_block(decode(parts)), block)


def test_a_body_grows_by_whole_rows_until_the_limit():
    bytes_a_row = len(_step_of(_large(5_000, 5)).body) / 5_000
    assert BODY_LIMIT_BYTES / bytes_a_row > 250_000


def _refusal(step: Step) -> str:
    with pytest.raises(ProtocolError) as caught:
        unpack_block(decode(encode(step)))
    assert type(caught.value) is ProtocolError
    return str(caught.value)


_L, _K, _F = ("layer", "u1"), ("kind", "u1"), ("flags", "u1")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"columns": (_L, _K, _F), "body": b"\0" * 8}, "needs bytes 6 to 9, the body has 8"),
        ({"columns": (_L, _K, _F), "body": b"\0" * 10}, "expected 9 bytes, the body has 10"),
        ({"columns": (_L, _K, _L), "body": b"\0" * 9}, "names the column 'layer' twice"),
        (
            {"columns": (_L, _K), "zero": ("flags", "nan", "nan"), "body": b"\0" * 6},
            "names the column 'nan' twice",
        ),
        (
            {"columns": (_L, _K), "zero": ("kind", "flags"), "body": b"\0" * 6},
            "names the column 'kind' twice",
        ),
        (
            {"columns": (_L,), "zero": ("kind", "flags"), "body": b"\0" * 3},
            "lacks the columns ['kind']",
        ),
        (
            {"columns": (_K,), "zero": ("layer", "flags"), "body": b"\0" * 3},
            "lacks the columns ['layer']",
        ),
        (
            {"columns": (), "zero": ("layer", "kind", "flags"), "rows": 10**12},
            "lacks the columns ['layer', 'kind']",
        ),
        ({"columns": (_L, _K), "body": b"\0" * 6}, "lacks the column 'flags'"),
        ({"columns": (_L, _K, ("mood", "u1")), "body": b"\0" * 9}, "unknown column 'mood'"),
        ({"columns": (_L, _K), "zero": ("flags", "mood"), "body": b"\0" * 6}, "unknown column 'mood'"),
        (
            {"columns": (_L, _K, ("flags", "u2")), "body": b"\0" * 12},
            "'flags' cannot have the type 'u2'",
        ),
        (
            {"columns": (("layer", "u8"), _K, _F), "body": b"\0" * 30},
            "'layer' cannot have the type 'u8'",
        ),
        ({"columns": (("layer", "O"), _K, _F), "body": b"\0" * 30}, "'layer' cannot have the type 'O'"),
        (
            {"columns": (_L, _K, _F, ("sum", "u8")), "body": b"\0" * 33},
            "'sum' cannot have the type 'u8'",
        ),
        (
            {"columns": (_L, _K, _F, ("nan", "f8")), "body": b"\0" * 33},
            "'nan' cannot have the type 'f8'",
        ),
        (
            {"columns": (_L, _K, _F, ("nan", "V9")), "body": b"\0" * 33},
            "'nan' cannot have the type 'V9'",
        ),
        ({"columns": (_L, _K, _F), "body": b"\0\0\0\0\0\2\0\0\0"}, "has a row of kind 2, of 2"),
        ({"columns": (_L, _K, _F), "rows": 2**62, "body": b"\0" * 9}, "the body has 9"),
        ({"columns": (_L, _K, _F), "rows": 0, "body": b"\0" * 9}, "expected 0 bytes, the body has 9"),
    ],
)
def test_a_step_whose_body_does_not_fit_its_head_is_refused(step, changes: dict, words: str):
    plain = {"columns": (), "zero": (), "rows": 3, "body": b""}
    assert words in _refusal(msgspec.structs.replace(step, **(plain | changes)))


def test_a_receiver_takes_any_type_of_a_row_and_not_only_the_narrowest(step):
    wide = msgspec.structs.replace(
        step,
        rows=1,
        zero=("flags",),
        columns=(("count", "u8"), ("sum", "f4"), ("layer", "u4"), ("kind", "u2")),
        body=(7).to_bytes(8, "little") + b"\0\0\x80\x3f" + b"\1\0\0\0" + b"\1\0",
    )
    came = unpack_block(decode(encode(wide)))
    assert (came.values["count"][0], came.values["sum"][0], came.layer[0], came.kind[0]) == (
        7,
        1.0,
        1,
        1,
    )
