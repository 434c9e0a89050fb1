"""Step views made of plain numbers."""

import numpy as np
import pytest

from gradscope.columns import COLUMNS, Block
from gradscope.rules import StepView

EMPTY = {"min": np.inf, "max": -np.inf}


def make_view(step, rows, *, layers=("a", "b", "c"), types=(), scalars=None, is_full=False):
    """A step view with rows (layer, kind, {column: value}); `norm` sets `sumsq` of 100 elements."""
    kinds = tuple(dict.fromkeys(kind for _, kind, _ in rows))
    columns = {}
    for column in COLUMNS:
        if not column.is_core and not is_full:
            continue
        values = [_value(column.name, given) for _, _, given in rows]
        columns[column.name] = np.array(values, np.uint64 if column.is_count else np.float64)
    block = Block(
        kinds,
        np.array([layers.index(layer) for layer, _, _ in rows], np.uint32),
        np.array([kinds.index(kind) for _, kind, _ in rows], np.uint32),
        np.zeros(len(rows), np.uint8),
        columns,
    )
    return StepView(step, layers, block, types=types, scalars=scalars)


def _value(name, given):
    if name == "sumsq" and "norm" in given:
        return given["norm"] ** 2
    default = {"count": 100, "calls": 1, "min": -1.0, "max": 1.0}.get(name, 0)
    return given.get(name, default)


@pytest.fixture(scope="session")
def view():
    return make_view


def gradients(**norms):
    return [(layer, "param_grad", {"norm": norm}) for layer, norm in norms.items()]


@pytest.fixture
def grads():
    return gradients
