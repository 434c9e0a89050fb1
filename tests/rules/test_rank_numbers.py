"""The numbers of each rank are as NumPy computes them from its data."""

import dataclasses

import numpy as np
import pytest

from gradscope.columns import Flags
from gradscope.rules import numbers_of_ranks
from support.rank_steps import block_of_rank

NAMES = ("first", "last")


def rows(*blocks):
    return {rank: (NAMES, block) for rank, block in enumerate(blocks)}


def scaled(block, factor):
    """The block of the same data times a factor."""
    values = dict(block.values)
    values |= {name: values[name] * factor for name in ("sum", "min", "max")}
    values["sumsq"] = values["sumsq"] * factor**2
    return dataclasses.replace(block, values=values)


def test_the_norm_of_a_kind_is_that_of_all_elements_of_the_rank():
    block = block_of_rank(0, 0)
    data = np.random.default_rng([0, 0]).normal(0, 1, (2, 9))
    (numbers,) = numbers_of_ranks(rows(block)).values()
    assert numbers.norms == {"out": pytest.approx(np.linalg.norm(data))}
    assert (numbers.nonfinite, numbers.differs_at, numbers.differs_by) == (0, "", None)


def test_the_rank_with_other_numbers_is_furthest_from_the_median():
    block = block_of_rank(0, 0)
    found = numbers_of_ranks(rows(block, scaled(block, 8.0), block))
    assert found[1].differs_by == pytest.approx(8.0)
    assert found[1].differs_at in {"first out", "last out"}
    assert found[0].differs_by == found[2].differs_by == 1.0


def test_of_two_ranks_neither_is_said_to_differ():
    block = block_of_rank(0, 0)
    found = numbers_of_ranks(rows(block, scaled(block, 8.0)))
    assert [each.differs_by for each in found.values()] == [None, None]


def test_rows_that_were_not_measured_are_left_out():
    block = block_of_rank(0, 0)
    flags = np.array([0, Flags.NOT_MEASURED], np.uint8)
    (numbers,) = numbers_of_ranks(rows(dataclasses.replace(block, flags=flags))).values()
    data = np.random.default_rng([0, 0]).normal(0, 1, (2, 9))
    assert numbers.norms == {"out": pytest.approx(np.linalg.norm(data[0]))}


def test_elements_that_are_not_finite_are_counted():
    block = block_of_rank(0, 0)
    values = {**block.values, "nan": np.array([2, 0], np.uint64), "neginf": np.array([0, 1], np.uint64)}
    (numbers,) = numbers_of_ranks(rows(dataclasses.replace(block, values=values))).values()
    assert numbers.nonfinite == 3
