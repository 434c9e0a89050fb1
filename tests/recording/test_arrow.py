"""A recording as Arrow tables, read by pyarrow, pandas and polars where they are installed."""

import dataclasses
import math
import sys

import msgspec
import numpy as np
import pytest

from gradscope.columns import Flags
from gradscope.errors import UsageError
from gradscope.protocol.bodies import pack_block
from gradscope.recording import Recorder, open_recording

pyarrow = pytest.importorskip("pyarrow")


@pytest.fixture
def path(tmp_path, make):
    block = make.block(2.0)
    partly = dataclasses.replace(block, flags=np.array([0, Flags.NOT_MEASURED], np.uint8))
    columns, zero, body = pack_block(partly)
    odd = msgspec.structs.replace(make.step(7), columns=columns, zero=zero, body=body)
    path = tmp_path / "a.gradscope"
    with Recorder(path, make.hello()) as recorder:
        steps = [make.step(number) for number in range(5)]
        make.record(recorder, make.manifest(), *steps, odd, make.scalars(0, 3))
    return path


def test_each_row_of_each_step_is_a_row_and_what_was_not_measured_is_null(path):
    with open_recording(path) as recording:
        table = recording.to_arrow().read_all()
        scalars = recording.to_arrow("scalars").read_all().to_pylist()
    rows = table.to_pylist()
    assert [(row["step"], row["layer"], row["kind"]) for row in rows] == [
        (step, layer, "out") for step in (0, 1, 2, 3, 4, 7) for layer in ("fc1", "fc2")
    ]
    assert [row["sum"] for row in rows] == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 2, None]
    assert rows[4]["count"] == 8
    assert rows[4]["max"] is None
    assert rows[4]["norm"] is None
    assert rows[-1]["count"] is None
    assert [(row["step"], row["name"], row["value"]) for row in scalars] == [
        (0, "loss", 1.0), (1, "loss", 0.5), (2, "loss", 1 / 3),
    ]  # fmt: skip


def test_pandas_and_polars_read_it(path):
    pandas = pytest.importorskip("pandas")
    polars = pytest.importorskip("polars")
    with open_recording(path) as recording:
        frame = recording.to_arrow().read_all().to_pandas()
        assert isinstance(frame, pandas.DataFrame)
        assert frame["sum"].tolist()[:-1] == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 2]
        assert math.isnan(frame["sum"].tolist()[-1])
        of_polars = polars.DataFrame(recording)
        assert of_polars["sum"].to_list() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 2, None]


def test_another_table_and_a_missing_pyarrow_are_errors(path, monkeypatch):
    with open_recording(path) as recording:
        with pytest.raises(UsageError, match='expected the table "statistics" or "scalars"'):
            recording.to_arrow("steps")
        monkeypatch.setitem(sys.modules, "pyarrow", None)
        with pytest.raises(UsageError, match="pip install pyarrow"):
            recording.to_arrow()
