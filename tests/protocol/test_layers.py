"""The layers of a manifest: they arrive as they were, or are refused."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradscope.errors import ProtocolError
from gradscope.protocol import (
    BODY_LIMIT_BYTES,
    Layer,
    Manifest,
    Parameter,
    decode,
    encode,
    pack_layers,
    unpack_layers,
)
from support.examples import examples

_parameters = st.builds(
    Parameter,
    st.text(max_size=8),
    st.lists(st.integers(0, 2**63 - 1), max_size=4).map(tuple),
    st.text(max_size=8),
    st.booleans(),
)
_layers = st.builds(
    Layer,
    st.text(max_size=8),
    st.text(max_size=8),
    st.lists(_parameters, max_size=3).map(tuple),
    st.booleans(),
)


@given(st.lists(_layers, max_size=5).map(tuple))
@examples(100)
def test_layers_come_back_as_they_were(layers: tuple[Layer, ...]):
    sent = Manifest(
        run="r", rank=0, revision=0, model="M", layer_count=len(layers), body=pack_layers(layers)
    )
    assert unpack_layers(decode(encode(sent))) == layers


def test_ten_thousand_layers_of_a_manifest_fit_below_the_limits():
    parameters = tuple(
        Parameter(name, (4096, 4096), "bfloat16", is_trainable=True) for name in ("weight", "bias")
    )
    layers = [Layer(f"model.layers.{i}.self_attn.q_proj", "Linear", parameters) for i in range(10_000)]
    sent = Manifest(
        run="r", rank=0, revision=0, model="M", layer_count=10_000, body=pack_layers(layers)
    )
    assert len(sent.body) < BODY_LIMIT_BYTES / 4
    assert unpack_layers(decode(encode(sent))) == tuple(layers)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\x00",
        b"\xc0",
        b"\x91\xc0",
        b"\x90\x00",
        b"\x91\x82\xa4name\x01\xa4type\xa0",
        b"\x91" * 100_000,
        b"\xdd\xff\xff\xff\xff",
        b"\x91\xc7\x00\x05",
        b"\x91\x82\xa4name\xa1\xff\xa4type\xa0",
    ],
)
def test_a_manifest_whose_body_does_not_hold_layers_is_refused(manifest, body: bytes):
    with pytest.raises(ProtocolError, match="the body of a manifest does not hold layers: "):
        unpack_layers(msgspec.structs.replace(manifest, body=body))


def test_a_manifest_with_another_number_of_layers_is_refused(manifest):
    with pytest.raises(ProtocolError, match="expected 3 layers, the body has 2"):
        unpack_layers(msgspec.structs.replace(manifest, layer_count=3))
