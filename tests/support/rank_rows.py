"""The statistics of the parameters of one rank, as its agent sends them."""

import numpy as np

from gradscope.columns import Block, Flags

__all__ = ["NAMES", "rank_rows"]

NAMES = ("first", "last")


def row(tensor):
    values = tensor.double()
    return {
        "count": values.numel(),
        "nan": int(values.isnan().sum()),
        "posinf": int((values == np.inf).sum()),
        "neginf": int((values == -np.inf).sum()),
        "sum": float(values.sum()),
        "sumsq": float(values.square().sum()),
        "min": float(values.min()),
        "max": float(values.max()),
    }


def rank_rows(parameters, gradients, *, is_copy):
    """The rows of one rank: parameters, then their gradients, of both layers."""
    rows = [row(each) for each in (*parameters, *gradients)]
    count = len(rows)
    return NAMES, Block(
        ("param", "param_grad"),
        np.arange(count, dtype=np.uint32) % 2,
        np.arange(count, dtype=np.uint32) // 2,
        np.full(count, Flags.REPLICA if is_copy else 0, np.uint8),
        {name: np.array([each[name] for each in rows]) for name in rows[0]},
    )
