"""Readings of memory and time: what is measured comes back, and what does not fit is refused."""

import msgspec
import pytest

from gradscope import protocol
from gradscope.columns import MemoryRow, TimeRow
from gradscope.errors import ProtocolError, UsageError
from gradscope.protocol.bodies import pack_memory, pack_times, unpack_memory, unpack_times

LAYERS = ("", "fc")
KNOWN = {"saved_bytes": 0, "param_bytes": 0, "grad_bytes": 0, "optimizer_bytes": 0, "buffer_bytes": 0}


def memory(measured: dict[int, MemoryRow], **fields) -> protocol.Memory:
    columns, zero, body = pack_memory(measured, len(LAYERS))
    plain = {"run": "r", "rank": 0, "step": 3, "time_s": 1.0, "manifest_revision": 0}
    return protocol.Memory(
        **plain, **({"rows": 2, "columns": columns, "zero": zero, "body": body} | fields)
    )


def times(measured: dict[int, TimeRow], **fields) -> protocol.Times:
    columns, zero, body = pack_times(measured, len(LAYERS))
    plain = {"run": "r", "rank": 0, "step": 3, "time_s": 1.0, "manifest_revision": 0}
    return protocol.Times(
        **plain, **({"rows": 2, "columns": columns, "zero": zero, "body": body} | fields)
    )


def sent(message):
    return protocol.decode(protocol.encode(message))


def test_rows_come_back_as_they_were_measured():
    rows = {
        0: MemoryRow(**KNOWN | {"saved_bytes": 7}, entry_bytes=2**40, exit_bytes=5, peak_bytes=2**40),
        1: MemoryRow(**KNOWN | {"param_bytes": 300, "optimizer_bytes": 70_000}),
    }
    table = unpack_memory(sent(memory(rows, balance={"saved": 7, "total": 9}, notes=("n",))), LAYERS)
    assert (table.step, table.balance, table.notes) == (3, {"saved": 7, "total": 9}, ("n",))
    assert (table[""].saved_bytes, table[""].peak_bytes, table[""].exit_bytes) == (7, 2**40, 5)
    assert table[""].total.optimizer_bytes == 70_000
    assert (table["fc"].param_bytes, table["fc"].entry_bytes) == (300, None)


def test_what_was_not_measured_comes_back_as_none_and_a_zero_as_zero():
    rows = {i: MemoryRow(**KNOWN | {"saved_bytes": None}) for i in range(2)}
    message = memory(rows)
    assert "saved" not in {*dict(message.columns), *message.zero}
    row = unpack_memory(sent(message), LAYERS)["fc"]
    assert (row.saved_bytes, row.grad_bytes, row.total.saved_bytes) == (None, 0, None)


def test_seconds_keep_seven_digits_and_calls_are_whole():
    rows = {0: TimeRow(1.25e-5, None, 1), 1: TimeRow(0.1, None, 70_000)}
    table = unpack_times(sent(times(rows, clock="device", is_observed=True)), LAYERS)
    assert table["fc"].forward_s == pytest.approx(0.1, rel=1e-7)
    assert (table["fc"].calls, table["fc"].backward_s) == (70_000, None)
    assert table[""].total.forward_s == pytest.approx(0.1 + 1.25e-5, rel=1e-7)
    assert (table[""].total.calls, table.clock, table.is_observed) == (1, "device", True)


def test_columns_that_are_all_zero_are_not_sent():
    message = memory({i: MemoryRow(**KNOWN) for i in range(2)})
    assert (message.columns, message.body) == ((), b"")
    assert set(message.zero) == {"saved", "param", "grad", "optimizer", "buffer"}


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"columns": (("saved", "u4"),), "body": b"1234567"}, "needs bytes 0 to 8, the body has 7"),
        ({"columns": (("saved", "u1"),), "body": b"123"}, "expected 2 bytes, the body has 3"),
        ({"columns": (("saved", "f8"),), "body": bytes(16)}, "cannot have the type 'f8'"),
        ({"columns": (("weight", "u1"),), "body": b"12"}, "unknown column 'weight'"),
        ({"columns": (("saved", "u1"), ("saved", "u1")), "body": b"1234"}, "'saved' twice"),
        ({"columns": (("saved", "u1"),), "zero": ("saved",), "body": b"12"}, "'saved' twice"),
        ({"columns": (), "zero": ("weight",), "body": b""}, "unknown column 'weight'"),
        ({"columns": (), "rows": 2**40, "body": b""}, "the limit is 100000"),
    ],
)
def test_a_body_that_does_not_fit_its_head_is_refused(fields, words):
    message = memory({0: MemoryRow(**KNOWN)}, **fields)
    with pytest.raises(ProtocolError, match=words):
        unpack_memory(message, LAYERS)


def test_rows_of_other_layers_are_refused_with_what_to_do():
    message = memory({i: MemoryRow(**KNOWN | {"saved_bytes": 1}) for i in range(2)})
    with pytest.raises(UsageError, match="manifest_revision"):
        unpack_memory(message, ("",))


def test_a_negative_size_is_refused_at_once():
    with pytest.raises(UsageError, match="'saved' counts bytes or calls"):
        pack_memory({i: MemoryRow(**KNOWN | {"saved_bytes": -1}) for i in range(2)}, 2)


def test_an_unknown_clock_is_refused():
    head = msgspec.msgpack.decode(protocol.encode(times({0: TimeRow(1.0, 1.0, 1)}))[0])
    with pytest.raises(ProtocolError):
        protocol.decode([msgspec.msgpack.encode(head | {"clock": "sun"})])


def test_the_readings_of_twenty_thousand_layers_fit_into_the_link():
    names = tuple(f"layer{i}" for i in range(20_000))
    sizes = MemoryRow(**KNOWN | {"saved_bytes": 2**40, "param_bytes": 2**40 + 1, "grad_bytes": 2**41})
    columns, zero, body = pack_memory(dict.fromkeys(range(20_000), sizes), 20_000)
    message = memory({}, rows=20_000, columns=columns, zero=zero, body=body)
    assert len(body) > protocol.HEAD_LIMIT_BYTES
    assert unpack_memory(sent(message), names)["layer19999"].grad_bytes == 2**41
