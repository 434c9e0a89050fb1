"""Steps of the ranks of a run, as their agents send them, with known numbers."""

import numpy as np

from gradscope.columns import Block
from gradscope.protocol import Layer, Manifest, Step, pack_layers
from gradscope.protocol.bodies import pack_block

__all__ = ["block_of_rank", "manifest_of_rank", "step_of_rank"]


def manifest_of_rank(rank, names=("first", "last"), *, run="r", revision=1):
    """The manifest of a rank with these layers."""
    layers = [Layer(name, "Linear") for name in names]
    return Manifest(
        run=run,
        rank=rank,
        revision=revision,
        model="Net",
        layer_count=len(layers),
        body=pack_layers(layers),
    )


def block_of_rank(rank, step, rows=2):
    """A row for each of the layers: the numbers of nine random elements, which depend on rank and step."""
    data = np.random.default_rng([rank, step]).normal(rank, 1 + step, (rows, 9))
    counts = {"calls": 1, "count": 9, "nan": 0, "posinf": 0, "neginf": 0, "zero": 0, "subnormal": 0}
    values = {
        **{name: np.full(rows, count, np.uint64) for name, count in counts.items()},
        "sum": data.sum(axis=1),
        "sumsq": np.square(data).sum(axis=1),
        "min": data.min(axis=1),
        "max": data.max(axis=1),
    }
    zeros = np.zeros(rows, np.uint32)
    return Block(("out",), np.arange(rows, dtype=np.uint32), zeros, zeros.astype(np.uint8), values)


def step_of_rank(rank, step, *, run="r", rows=2, revision=1):
    """The message with these rows."""
    columns, zero, body = pack_block(block_of_rank(rank, step, rows))
    return Step(
        run=run, rank=rank, seq=step, step=step, time_s=float(step), manifest_revision=revision,
        kinds=("out",), rows=rows, columns=columns, zero=zero, body=body,
    )  # fmt: skip
