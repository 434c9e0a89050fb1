"""Whatever a message holds, the other side gets the same; and what cannot be sent is said so."""

import math

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradscope import protocol
from gradscope.errors import UsageError
from gradscope.protocol import (
    BODY_LIMIT_BYTES,
    HEAD_LIMIT_BYTES,
    PART_LIMIT_BYTES,
    PART_LIMIT_COUNT,
    Bye,
    Credit,
    Event,
    Manifest,
    Message,
    Scalars,
    decode,
    encode,
)
from support.examples import examples

_TEXT = st.text(st.characters(codec="utf-8"), max_size=20)


def _strategy(kind: msgspec.inspect.Type) -> st.SearchStrategy:  # noqa: PLR0911, PLR0912 - a table
    """Return what a field of this type may hold, by msgspec's own description of it."""
    inspect = msgspec.inspect
    match kind:
        case inspect.BoolType():
            return st.booleans()
        case inspect.IntType(ge=ge, le=le):
            return st.integers(-(2**63) if ge is None else ge, 2**63 - 1 if le is None else le)
        case inspect.FloatType(gt=None):
            return st.floats(allow_nan=False)
        case inspect.FloatType(gt=gt):
            return st.floats(min_value=gt, exclude_min=True)
        case inspect.StrType():
            return _TEXT
        case inspect.BytesType():
            return st.binary(max_size=40)
        case inspect.NoneType():
            return st.none()
        case inspect.LiteralType(values=values):
            return st.sampled_from(values)
        case inspect.UnionType(types=types):
            return st.one_of(*map(_strategy, types))
        case inspect.TupleType(item_types=items):
            return st.tuples(*map(_strategy, items))
        case inspect.VarTupleType(item_type=item):
            return st.lists(_strategy(item), max_size=4).map(tuple)
        case inspect.DictType(key_type=key, value_type=value):
            return st.dictionaries(_strategy(key), _strategy(value), max_size=4)
        case inspect.StructType(cls=cls, fields=fields) | inspect.DataclassType(cls=cls, fields=fields):
            return st.builds(cls, **{field.name: _strategy(field.type) for field in fields})
    raise AssertionError(f"a field of a type that the wire has not had so far: {kind}")


_ANY_MESSAGE = _strategy(msgspec.inspect.type_info(Message))


@given(_ANY_MESSAGE)
@examples(400)
def test_every_message_comes_back_as_it_was(message: Message):
    assert decode(encode(message)) == message


@given(_ANY_MESSAGE)
@examples(100)
def test_a_message_cannot_be_changed(message: Message):
    for field in message.__struct_fields__:
        with pytest.raises(AttributeError):
            setattr(message, field, getattr(message, field))


def test_a_number_that_is_not_finite_comes_back_as_it_was():
    values = (math.nan, math.inf, -math.inf, None)
    sent = Scalars(run="r", rank=0, steps=(1, 2, 3, 4), times_s=(0.0,) * 4, values={"loss": values})
    (nan, *rest) = decode(encode(sent)).values["loss"]
    assert math.isnan(nan)
    assert rest == [math.inf, -math.inf, None]


@pytest.mark.parametrize("size", [0, 1, PART_LIMIT_BYTES, PART_LIMIT_BYTES + 1, BODY_LIMIT_BYTES])
def test_a_body_is_cut_into_full_parts_and_joined_again(size: int):
    body = np.random.default_rng(0).bytes(size)
    sent = Manifest(run="r", rank=0, revision=0, model="M", body=body)
    head, *pieces = encode(sent)
    assert [len(p) for p in pieces[:-1]] == [PART_LIMIT_BYTES] * max(0, len(pieces) - 1)
    assert len(pieces) == math.ceil(size / PART_LIMIT_BYTES)
    assert len(pieces) < PART_LIMIT_COUNT
    assert len(head) < 200
    assert decode([head, *pieces]) == sent


def test_a_body_above_the_limit_is_not_encoded():
    body = bytes(BODY_LIMIT_BYTES + 1)
    with pytest.raises(
        UsageError, match=f"{BODY_LIMIT_BYTES + 1} bytes is larger .* {BODY_LIMIT_BYTES}$"
    ):
        encode(Manifest(run="r", rank=0, revision=0, model="M", body=body))


def test_whatever_can_be_encoded_can_be_decoded_up_to_the_last_byte_of_the_limit():
    overhead = len(encode(Bye(reason=" " * 100_000))[0]) - 100_000
    longest = Bye(reason=" " * (HEAD_LIMIT_BYTES - overhead))
    assert len(encode(longest)[0]) == HEAD_LIMIT_BYTES
    assert decode(encode(longest)) == longest
    with pytest.raises(UsageError, match="larger than the link's limits"):
        encode(Bye(reason=longest.reason + " "))


@pytest.mark.parametrize(
    "value", ["\ud800", 2**64, np.int64(3), np.float64(0.5), object()], ids=lambda v: type(v).__name__
)
def test_a_value_that_msgpack_cannot_hold_is_a_usage_error_with_the_message(value):
    with pytest.raises(UsageError, match="a Bye cannot be sent: "):
        encode(Bye(reason=value))


@pytest.mark.parametrize("count", [-1, 2**63, 1.0, True])
def test_a_count_outside_of_its_range_is_refused_at_once(count, refused):
    assert "$.count" in refused(encode(Credit(count=count)))


@pytest.mark.parametrize("rate", [0.0, -1.0, math.nan])
def test_an_invalid_rate_is_refused_at_once(rate, refused):
    assert "max_rate_hz" in refused(encode(protocol.Subscribe(run="r", max_rate_hz=rate)))


def test_encoding_leaves_the_message_with_its_body(step):
    body = step.body
    encode(step)
    assert step.body == body


def test_two_messages_made_alike_do_not_share_their_maps():
    first, second = (protocol.Heartbeat() for _ in range(2))
    assert first.counters is not second.counters


def test_a_text_of_a_hundred_thousand_characters_arrives():
    sent = Event(run="r", rank=0, step=0, time_s=0.0, level="error", code="c", text="é" * 100_000)
    assert decode(encode(sent)) == sent
