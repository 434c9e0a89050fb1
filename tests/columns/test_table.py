"""A table reads as a mapping, and its errors name what would have been right."""

import dataclasses
import importlib.util
import math

import numpy as np
import pytest

from gradscope.columns import Flags, Stats, Table
from gradscope.errors import GradscopeError, NotMeasuredError, UnknownLayerError, UsageError

_LAYERS = ("", "blocks.0.fc1", "blocks.0.fc2", "blocks.1.fc1", "head")


@pytest.fixture
def table(stats_of, block_of) -> Table:
    """`blocks.0.fc1` with out and grad, `head` with out only."""
    rows = [stats_of(np.array([1.0, 3.0])), stats_of(np.array([np.nan, 2.0])), stats_of(np.zeros(2))]
    return Table(7, _LAYERS, block_of(rows, layer=[1, 1, 4], kind=[0, 1, 0]))


def test_a_table_is_a_mapping_of_layers_to_kinds_to_stats(table, stats_of):
    assert table.step == 7
    assert list(table) == ["blocks.0.fc1", "head"]
    assert len(table) == 2
    assert dict(table["blocks.0.fc1"]) == {
        "out": stats_of(np.array([1.0, 3.0])),
        "grad": stats_of(np.array([np.nan, 2.0])),
    }
    assert table["blocks.0.fc1"]["out"].mean == 2.0
    assert table["blocks.0.fc1"]["grad"].nan == 1
    assert "head" in table
    assert "blocks.0.fc2" not in table
    assert table.get("blocks.0.fc2") is None
    assert list(table.get("head")) == ["out"]


def test_an_unknown_layer_is_answered_with_the_nearest_names(table):
    with pytest.raises(UnknownLayerError) as caught:
        table["block.0.fc1"]
    assert (
        str(caught.value) == "no layer 'block.0.fc1' was measured in this step; nearest: blocks.0.fc1"
    )
    with pytest.raises(UnknownLayerError) as caught:
        table["zzz"]
    assert str(caught.value) == "no layer 'zzz' was measured in this step"
    assert isinstance(caught.value, ValueError)


def test_a_kind_that_was_not_measured_is_answered_with_the_measured_kinds(table):
    with pytest.raises(NotMeasuredError) as caught:
        table["head"]["grad"]
    assert (
        str(caught.value) == "'grad' of layer 'head' was not measured in this step; measured there: out"
    )
    assert isinstance(caught.value, KeyError)
    assert isinstance(caught.value, GradscopeError)
    assert "grad" not in table["head"]
    assert table["head"].get("grad") is None


def test_a_block_of_another_manifest_is_your_error(stats_of, block_of):
    block = block_of([stats_of(np.ones(2))], layer=[5])
    with pytest.raises(
        UsageError, match="step 3 has a row of layer index 5, but `layers` has 5 entries"
    ):
        Table(3, _LAYERS, block)


def test_an_empty_step_is_an_empty_table(block_of):
    table = Table(0, (), block_of([]))
    assert len(table) == 0
    assert table.to_dict() == {}


def test_a_table_shows_itself_in_one_line(table):
    assert repr(table) == "<step 7: 2 layers>"
    assert repr(table["blocks.0.fc1"]) == "<rows of 'blocks.0.fc1': out, grad>"


def test_to_dict_is_plain_and_complete(table):
    plain = table.to_dict()
    assert plain["blocks.0.fc1"]["out"] == {
        "calls": 1,
        "count": 2,
        "nan": 0,
        "posinf": 0,
        "neginf": 0,
        "zero": 0,
        "subnormal": 0,
        "mean": 2.0,
        "std": 1.0,
        "rms": math.sqrt(5.0),
        "norm": math.sqrt(10.0),
        "min": 1.0,
        "max": 3.0,
        "absmax": 3.0,
        "histogram": [int(k in (47, 48)) for k in range(128)],
        "digest": None,
    }
    assert {
        type(value) for rows in plain.values() for row in rows.values() for value in row.values()
    } == {int, float, list, type(None)}


def test_to_dict_says_none_for_what_was_not_measured(stats_of):
    unknown = {"zero", "subnormal", "histogram", "digest"}
    core = dataclasses.replace(stats_of(np.ones(2)), **dict.fromkeys(unknown)).to_dict()
    assert {name for name, value in core.items() if value is None} == unknown
    unknown = Stats(0, 0, 0, 0, 0, 0.0, 0.0, math.inf, -math.inf, flags=Flags.NOT_MEASURED)
    assert not unknown.is_measured
    assert set(unknown.to_dict()) == set(core)
    assert set(unknown.to_dict().values()) == {None}


def test_stats_and_their_names_cannot_be_changed(table):
    with pytest.raises(dataclasses.FrozenInstanceError):
        table["head"]["out"].count = 3


@pytest.mark.skipif(importlib.util.find_spec("pandas") is not None, reason="pandas is installed here")
def test_to_pandas_without_pandas_says_how_to_get_it(table):
    with pytest.raises(
        UsageError, match="to_pandas needs pandas, which is not installed: pip install pandas"
    ):
        table.to_pandas()


@pytest.mark.skipif(importlib.util.find_spec("pandas") is None, reason="pandas is not installed here")
def test_to_pandas_has_a_row_for_each_layer_and_kind(table):
    frame = table.to_pandas()
    assert frame[["layer", "kind"]].to_numpy().tolist() == [
        ["blocks.0.fc1", "out"],
        ["blocks.0.fc1", "grad"],
        ["head", "out"],
    ]
    assert frame["mean"].tolist() == [2.0, 2.0, 0.0]
    assert frame["histogram"].map(sum).tolist() == [2, 1, 0]
