"""The bytes of each message are written out in golden.txt: they never change within a version."""

import msgspec

from gradscope.protocol import Message, Step, decode, encode


def test_there_is_one_golden_message_of_each_type(tags, all_messages, all_golden):
    assert {tag: type(message) for tag, message in all_messages.items()} == tags
    assert list(all_golden) == list(all_messages)


def test_a_message_encodes_to_its_golden_bytes(message: Message, golden: list[bytes]):
    assert encode(message) == golden


def test_golden_bytes_decode_to_their_message(message: Message, golden: list[bytes]):
    assert decode(golden) == message


def test_a_golden_message_gives_every_field_so_that_none_is_left_untested(
    message: Message, golden: list[bytes]
):
    plain = msgspec.msgpack.decode(golden[0])
    assert set(plain) == {"t", *message.__struct_fields__}
    at_default = {
        field.name
        for field in msgspec.structs.fields(message)
        if field.name not in ("body", "protocol") and getattr(message, field.name) == field.default
    }
    expected = {"site"} if plain["t"] == "cmd" else set()
    assert at_default == expected


def test_the_golden_step_holds_the_arrays_that_the_document_draws(step: Step, all_golden):
    body = all_golden["step"][1]
    assert step.columns == (
        ("sum", "f8"), ("sumsq", "f8"), ("min", "f4"), ("max", "f4"),
        ("count", "u2"), ("layer", "u1"), ("kind", "u1"), ("calls", "u1"),
    )  # fmt: skip
    assert step.zero == ("flags", "nan", "posinf", "neginf")
    assert len(body) == 87
    assert body[0:8] == bytes.fromhex("000000000000f03f")  # sum of row 0: 1.0
    assert body[48:52] == bytes.fromhex("000080bf")  # min of row 0: -1.0
    assert body[56:60] == bytes.fromhex("0000807f")  # min of row 2: +inf, no finite element
    assert body[72:78] == bytes.fromhex("04002c012c01")  # count: 4, 300, 300
    assert body[78:81] == b"\x00\x01\x01"  # layer
    assert body[81:84] == b"\x00\x00\x01"  # kind
    assert body[84:87] == b"\x01\x01\x02"  # calls


def test_a_field_that_this_version_does_not_know_is_ignored(message: Message, golden: list[bytes]):
    plain = msgspec.msgpack.decode(golden[0])
    newer = msgspec.msgpack.encode(plain | {"from_the_future": {"a": [1, None, b"x"]}})
    assert decode([newer, *golden[1:]]) == message


def test_a_field_with_a_default_may_be_missing_and_any_other_may_not(
    message: Message, golden: list[bytes], refused
):
    plain = msgspec.msgpack.decode(golden[0])
    for field in msgspec.structs.fields(message):
        older = [
            msgspec.msgpack.encode({k: v for k, v in plain.items() if k != field.name}),
            *golden[1:],
        ]
        if field.required:
            assert field.name in refused(older)
        elif field.name != "body":
            decoded = getattr(decode(older), field.name)
            factory = field.default_factory
            assert decoded == (field.default if factory is msgspec.NODEFAULT else factory())


def test_the_order_of_the_fields_in_a_head_does_not_matter(message: Message, golden: list[bytes]):
    plain = msgspec.msgpack.decode(golden[0])
    backwards = msgspec.msgpack.encode(dict(reversed(plain.items())))
    assert decode([backwards, *golden[1:]]) == message
