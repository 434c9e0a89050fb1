"""Merges the steps that several ranks have sent into one step."""

from collections.abc import Sequence

from msgspec.structs import replace

from gradscope.columns import Block, merge_ranks
from gradscope.protocol.bodies.blocks import pack_block, unpack_block
from gradscope.protocol.stream import Step

__all__ = ["merge_steps"]


def merge_steps(
    parts: Sequence[tuple[Sequence[str], Step]], layers: Sequence[str], *, manifest_revision: int
) -> Step:
    """Return one step with the merged rows of several ranks, each given with its layer names, in ascending order.

    A step may itself be one of several merged ranks.

    layers: the names of all layers, in the order of the manifest with this revision. What is not in the rows (`time_s`,
        `cost`, `facts`, ...) is that of the first rank. Raises UsageError if `parts` is empty, and ProtocolError or
        IndexError for a step that does not match its head or its layers.
    """
    blocks: list[tuple[Sequence[str], Block]] = [(names, unpack_block(step)) for names, step in parts]
    if any(names is not layers and tuple(names) != tuple(layers) for names, _ in blocks):
        no_rows = blocks[0][1].taken(slice(0))  # it brings the order of the layers into the merge
        blocks.insert(0, (layers, no_rows))
    _, block = merge_ranks(blocks)
    columns, zero, body = pack_block(block)
    return replace(
        parts[0][1],
        ranks=tuple(rank for _, step in parts for rank in step.ranks or (step.rank,)),
        manifest_revision=manifest_revision,
        kinds=block.kinds,
        rows=len(block),
        columns=columns,
        zero=zero,
        body=body,
    )
