"""The body of a manifest: its layers as a msgpack array."""

from collections.abc import Iterable

import msgspec

from gradscope.errors import ProtocolError
from gradscope.names import counted
from gradscope.protocol.stream import Layer, Manifest

__all__ = ["pack_layers", "unpack_layers"]

_LAYERS: msgspec.msgpack.Decoder[tuple[Layer, ...]] = msgspec.msgpack.Decoder(tuple[Layer, ...])


def pack_layers(layers: Iterable[Layer]) -> bytes:
    """Return the `body` of a manifest with these layers."""
    return msgspec.msgpack.encode(list(layers))


def unpack_layers(manifest: Manifest) -> tuple[Layer, ...]:
    """Return the layers of a manifest. Raises ProtocolError if the body contains anything else."""
    try:
        layers = _LAYERS.decode(manifest.body)
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"the body of a manifest does not hold layers: {error}") from error
    if len(layers) != manifest.layer_count:
        raise ProtocolError(
            f"expected {counted(manifest.layer_count, 'layer')}, the body has {len(layers)}"
        )
    return layers
