"""Whatever bytes come in, decoding gives a message or a ProtocolError: soon, and in little memory."""

import random
import struct
import subprocess
import sys
import textwrap
import time
from collections.abc import Sequence

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradscope.errors import ProtocolError
from gradscope.protocol import (
    HEAD_LIMIT_BYTES,
    PART_LIMIT_BYTES,
    PART_LIMIT_COUNT,
    Captured,
    Manifest,
    Memory,
    Message,
    Step,
    Times,
    decode,
    unpack_layers,
)
from gradscope.protocol.bodies import unpack_block
from support.examples import examples


def _survives(parts: Sequence[bytes]) -> bool:
    """Read all that can be read; return whether it was a message. Any other error fails the test."""
    try:
        message = decode(parts)
        if isinstance(message, Step):
            unpack_block(message)
        elif isinstance(message, Manifest):
            unpack_layers(message)
    except ProtocolError:
        return False
    return True


@given(st.lists(st.binary(max_size=200), max_size=4))
@examples(500)
def test_random_bytes_are_refused(parts: list[bytes]):
    assert not _survives(parts)


def test_every_single_byte_is_refused():
    assert not any(_survives([bytes([byte])]) for byte in range(256))


def test_a_head_that_ends_early_is_refused_at_any_length(
    golden: list[bytes], message: Message, refused
):
    for end in range(len(golden[0])):
        assert refused([golden[0][:end], *golden[1:]]).startswith(
            f"these {end} bytes are not a message: "
        )


def test_trailing_bytes_after_a_head_are_refused(golden: list[bytes], message: Message, refused):
    for tail in (b"\0", b"\xc0", golden[0]):
        assert "trailing" in refused([golden[0] + tail, *golden[1:]])


def test_a_message_given_byte_by_byte_as_parts_is_refused(
    golden: list[bytes], message: Message, refused
):
    refused([bytes([byte]) for byte in b"".join(golden)][:PART_LIMIT_COUNT])


def test_a_body_may_come_in_pieces_of_any_length(golden: list[bytes], message: Message):
    head, *body = golden
    pieces = [bytes([byte]) for byte in b"".join(body)][: PART_LIMIT_COUNT - 2]
    rest = b"".join(body)[len(pieces) :]
    assert decode([head, *pieces, rest] if body else [head]) == message


def test_a_body_that_ends_early_or_late_is_refused_when_it_is_read(all_golden):
    for name in ("step", "manifest"):
        head, body = all_golden[name]
        for wrong in (*(body[:end] for end in range(len(body))), body + b"\0"):
            assert not _survives([head, wrong])


def test_a_message_that_has_no_body_is_refused_with_one(golden: list[bytes], message: Message, refused):
    if not isinstance(message, Captured | Manifest | Memory | Step | Times):
        assert refused([*golden, b""]) == f"a {type(message).__name__} has no body, got 2 parts"


def test_no_parts_and_too_many_parts_are_refused_before_any_is_read(refused):
    assert refused([]) == "expected 1 to 64 parts, got 0"
    assert refused([b"\xc1"] * 65) == "expected 1 to 64 parts, got 65"


@pytest.mark.parametrize("place", [0, 1, 63])
def test_a_part_above_the_limit_is_refused_before_any_is_read(place: int, refused):
    parts = [b"\xc1"] * 64
    parts[place] = bytes(PART_LIMIT_BYTES + 1)
    assert refused(parts) == "a part has 262145 bytes, the limit is 262144"


_PLAIN = {"t": "bye", "reason": "x"}


@pytest.mark.parametrize(
    ("plain", "words"),
    [
        (None, "Expected `object`"),
        ([_PLAIN], "Expected `object`, got `array`"),
        ({}, "missing required field `t`"),
        ({"t": "good day"}, "Invalid value 'good day' - at `$.t`"),
        ({"t": 1}, "Expected `str`, got `int` - at `$.t`"),
        ({"t": "who"}, "missing required field `epoch`"),
        ({"t": "who", "epoch": None}, "Expected `str`, got `None` - at `$.epoch`"),
        ({"t": "who", "epoch": b"x"}, "Expected `str`, got `bytes` - at `$.epoch`"),
        ({"t": "credit", "count": "1"}, "Expected `int`, got `str` - at `$.count`"),
        ({"t": "backfill", "run": "r", "state": "middle", "count": 1}, "Invalid enum value 'middle'"),
        ({"t": "hb", "counters": {"a": -1}}, "Expected `int` >= 0"),
        ({"t": "hb", "counters": {1: 1}}, "Expected `str`, got `int`"),
        ({"t": "hb", "peers": {"a": 1}}, "Expected `array`, got `object` - at `$.peers`"),
        ({"t": "hb", "peers": ["a", 1]}, "at `$.peers[1]`"),
    ],
)
def test_a_refusal_says_what_was_expected_what_came_and_where(plain: object, words: str, refused):
    assert words in refused([msgspec.msgpack.encode(plain)])


def test_text_that_is_not_utf8_is_refused(refused):
    refused([msgspec.msgpack.encode(_PLAIN).replace(b"\xa1x", b"\xa1\xff")])


def test_an_extension_type_is_refused_in_every_field(refused):
    head = msgspec.msgpack.encode(_PLAIN)
    for extension in (b"\xd4\x05\x00", b"\xc7\x00\x05", b"\xd6\xff\x00\x00\x00\x00"):
        assert "got `ext`" in refused([head.replace(b"\xa1x", extension)])


_ARRAY, _MAP, _TEXT, _BINARY, _EXTENSION = (
    code + b"\xff\xff\xff\xff" for code in (b"\xdd", b"\xdf", b"\xdb", b"\xc6", b"\xc9")
)
_NESTED = struct.pack(">BI", 0xDD, 100_000) * 50_000

BOMBS = {
    "nested arrays": b"\x91" * HEAD_LIMIT_BYTES,
    "nested maps": b"\x81\xa1a" * (HEAD_LIMIT_BYTES // 3),
    "nested long arrays": _NESTED,
    "nested long arrays in a field that is ignored": b"\x82\xa1t\xa3bye\xa1z" + _NESTED,
    "nested long arrays as tag": b"\x81\xa1t" + _NESTED,
    "a long array": b"\x82\xa1t\xa2hb\xa5peers" + _ARRAY,
    "a long map": b"\x82\xa1t\xa2hb\xa8counters" + _MAP,
    "a long text": b"\x82\xa1t\xa3bye\xa6reason" + _TEXT,
    "a long binary": b"\x82\xa1t\xa3ack\xa7command" + _BINARY,
    "a long extension": b"\x82\xa1t\xa3bye\xa1z" + _EXTENSION + b"\x05",
    "a long head": _MAP,
    "many empty arrays": b"\x82\xa1t\xa3bye\xa1z\xdd\x00\x01\x5f\x90" + b"\xdc\x00\x00" * 80_000,
    "many equal keys": b"\xdf\x00\x01\x00\x00\xa1t\xa3bye" + b"\xa1z\xc0" * 65_000,
    "many lists of one": b"\x82\xa1t\xa4runs\xa4runs\xdd\x00\x01\x5f\x90" + b"\x91\xc0" * 90_000,
}


@pytest.mark.timing
@pytest.mark.parametrize("bomb", BOMBS.values(), ids=BOMBS)
def test_a_bomb_is_refused_within_milliseconds(bomb: bytes):
    assert len(bomb) <= HEAD_LIMIT_BYTES
    fastest = min(_seconds_to_refuse([bomb]) for _ in range(3))
    assert fastest < 0.05


def _seconds_to_refuse(parts: Sequence[bytes]) -> float:
    started = time.perf_counter()
    assert not _survives(parts)
    return time.perf_counter() - started


def test_bombs_take_no_memory_beyond_their_own_bytes(tmp_path):
    """Measured in a process of its own, by the greatest resident size that it ever had."""
    paths = []
    for i, bomb in enumerate(BOMBS.values()):
        paths.append(tmp_path / str(i))
        paths[-1].write_bytes(bomb)
    script = """
        import pathlib, resource, sys
        from gradscope.errors import ProtocolError
        from gradscope.protocol import decode, Step
        from gradscope.protocol.bodies import unpack_block

        def peak_kb():
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

        bombs = [[pathlib.Path(path).read_bytes()] for path in sys.argv[1:]]
        before = peak_kb()
        refused = 0
        for bomb in bombs * 3:
            try:
                decode(bomb)
            except ProtocolError:
                refused += 1
        claims = Step(
            run="r", rank=0, seq=0, step=0, time_s=0.0, manifest_revision=0,
            kinds=("out",), rows=10**10, columns=(),
            zero=("layer", "kind", "flags", "sum", "sumsq", "min", "max", "count"),
        )
        try:
            unpack_block(claims)
        except ProtocolError:
            refused += 1
        print(refused, peak_kb() - before)
    """
    command = [sys.executable, "-c", textwrap.dedent(script), *map(str, paths)]
    answer = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    refused, grown = map(int, answer.stdout.split())
    assert refused == 3 * len(BOMBS) + 1
    grown_bytes = grown if sys.platform == "darwin" else grown * 1024
    assert grown_bytes < 16 * 2**20


def test_zero_columns_of_a_long_step_take_no_memory(step):
    rows = 500_000
    claims = msgspec.structs.replace(
        step,
        rows=rows,
        columns=(("layer", "u1"), ("kind", "u1")),
        body=bytes(2 * rows),
        zero=("flags", "sum", "sumsq", "min", "max", "count", "nan", "posinf", "neginf", "calls"),
    )
    block = unpack_block(claims)
    assert len(block) == rows
    assert {array.base.nbytes if array.base is not None else 0 for array in block.values.values()} == {
        8
    }


def _mutated(parts: list[bytes], choose: random.Random) -> list[bytes]:
    """Return the parts with a few bytes changed, taken out, doubled or put in."""
    mutated = [bytearray(part) for part in parts]
    for _ in range(choose.randint(1, 4)):
        part = choose.choice(mutated)
        at = choose.randrange(len(part) + 1)
        match choose.randrange(4):
            case 0:
                part[at : at + 1] = bytes([choose.randrange(256)])
            case 1:
                del part[at : at + choose.randint(1, 8)]
            case 2:
                part[at:at] = part[at : at + choose.randint(1, 8)]
            case _:
                part[at:at] = choose.randbytes(choose.randint(1, 4))
    return [bytes(part) for part in mutated]


def test_golden_bytes_with_a_few_bytes_changed_are_a_message_or_refused(
    golden: list[bytes], message: Message
):
    choose = random.Random(type(message).__name__)
    outcomes = {_survives(_mutated(golden, choose)) for _ in range(2_000)}
    assert outcomes == {True, False}, "the mutations reach both sides of the border"


def test_every_bit_of_the_golden_bytes_may_flip(golden: list[bytes], message: Message):
    outcomes = set()
    for i, part in enumerate(golden):
        for bit in range(8 * len(part)):
            flipped = bytearray(part)
            flipped[bit // 8] ^= 1 << bit % 8
            outcomes.add(_survives([*golden[:i], bytes(flipped), *golden[i + 1 :]]))
    assert outcomes == {True, False}, "flips reach both sides of the border"


def test_garbage_leaves_the_decoder_as_it_was(all_messages, all_golden):
    for bomb in BOMBS.values():
        _survives([bomb])
    assert {name: decode(parts) for name, parts in all_golden.items()} == all_messages
