import numpy as np
import pytest
import torch

from gradscope.columns import COLUMN_NAMES, COLUMNS, Flags, Table
from gradscope.observe import RowBuffer, reduce_on_device
from gradscope.observe.cuda.device_buffer import DeviceRowBuffer
from gradscope.observe.readout import columns_of


def table_of(buffer):
    return Table(0, ["a", "b"], buffer.read_out().block())


def test_calls_of_one_row_merge_as_if_they_were_one_tensor():
    buffer = RowBuffer()
    parts = [torch.randn(4, 3), torch.randn(5), torch.randn(2, 2, 2)]
    for part in parts:
        buffer.add(buffer.row(0, "out"), part)
    stats = table_of(buffer)["a"]["out"]
    whole = torch.cat([part.flatten() for part in parts]).double().numpy()
    assert (stats.calls, stats.count) == (3, whole.size)
    assert stats.mean == pytest.approx(whole.mean(), rel=1e-12)
    assert stats.std == pytest.approx(whole.std(), rel=1e-9)
    assert (stats.min, stats.max) == (whole.min(), whole.max())


def test_a_harvest_leaves_the_buffer_empty_and_keeps_its_own_numbers():
    buffer = RowBuffer()
    buffer.add(buffer.row(0, "out"), torch.ones(3))
    first = buffer.read_out()
    buffer.add(buffer.row(0, "out"), torch.full((2,), 5.0))
    assert table_of(buffer)["a"]["out"].sum == 10.0
    assert Table(0, ["a"], first.block())["a"]["out"].sum == 3.0
    assert len(buffer.read_out().block()) == 0


def test_a_gradient_that_never_came_is_not_measured_rather_than_zero():
    buffer = RowBuffer()
    buffer.expect_gradient(buffer.row(1, "grad"))
    stats = table_of(buffer)["b"]["grad"]
    assert stats.flags == Flags.NOT_MEASURED
    assert not stats.is_measured
    assert stats.to_dict()["norm"] is None


def test_a_tensor_without_numbers_marks_its_row():
    buffer = RowBuffer()
    buffer.add(buffer.row(0, "out"), torch.empty(3, device="meta"))
    assert Flags.NOT_MEASURED in table_of(buffer)["a"]["out"].flags


def test_zeros_and_subnormals_are_absent_at_core_detail_and_counted_at_full():
    for is_full, expected in ((False, None), (True, 2)):
        buffer = RowBuffer(is_full=is_full)
        buffer.add(buffer.row(0, "out"), torch.tensor([0.0, -0.0, 1.0]))
        assert table_of(buffer)["a"]["out"].zero == expected


def test_rows_are_reduced_on_a_device_as_on_the_host():
    """The buffer of another device, run on this one: the same code without a copy to wait for."""
    parts = [torch.randn(100), torch.tensor([1.0, float("nan"), float("inf")]), torch.randn(3, 4)]
    buffer, device = RowBuffer(is_full=True), DeviceRowBuffer(torch.device("cpu"))
    rows = [buffer.row(0, "out"), buffer.row(1, "out")]
    for i, part in enumerate(parts):
        buffer.add(rows[i % 2], part)
        device.add((rows[i % 2],), reduce_on_device(part, is_full=True))
    expected = buffer.read_out().block()
    for row in rows:
        buffer.expect_gradient(row)
    empty = buffer.read_out()._block
    device.read_out().merge_into(empty)
    for name, values in expected.values.items():
        if name != "calls":
            np.testing.assert_allclose(
                empty.values[name].astype(float), values.astype(float), rtol=1e-12
            )


def test_a_device_buffer_grows_and_keeps_what_it_has():
    buffer, device = RowBuffer(), DeviceRowBuffer(torch.device("cpu"))
    for i in range(300):
        row = buffer.row(i, "out")
        buffer.expect_gradient(row)
        device.add((row,), reduce_on_device(torch.full((2,), float(i))))
    block = buffer.read_out()._block
    device.read_out().merge_into(block)
    assert block.values["sum"].tolist() == [2.0 * i for i in range(300)]


@pytest.mark.parametrize("is_full", [False, True])
def test_rows_are_read_out_by_column_and_empty_if_taken(is_full):
    buffer = RowBuffer(is_full=is_full)
    nasty = torch.tensor([0.0, -1.0, 1e-42, torch.nan, torch.inf, -torch.inf, 3.5])
    for layer in range(5):
        buffer.add(buffer.row(layer, "out"), nasty * (layer + 1), buffer.row(layer, "param"))
        buffer.expect_gradient(buffer.row(layer, "grad"))
    buffer.add(buffer.row(3, "grad"), nasty)
    held = buffer._cells, buffer._flags, buffer._expected
    cells = np.frombuffer(bytes(buffer._cells)).reshape(len(buffer), len(COLUMNS))
    read = columns_of(*held, is_taken=False)
    taken = columns_of(*held, is_taken=True)
    assert list(read[0]) == list(COLUMN_NAMES)
    for i, column in enumerate(COLUMNS):
        expected = cells[:, i].astype(np.uint64 if column.is_count else np.float64)
        assert read[0][column.name].tobytes() == expected.tobytes() == taken[0][column.name].tobytes()
    missing = [buffer.row(layer, "grad") for layer in (0, 1, 2, 4)]
    assert np.flatnonzero(read[1] == Flags.NOT_MEASURED).tolist() == missing
    assert read[1].tolist() == taken[1].tolist()
    left, flags = columns_of(*held, is_taken=True)
    assert not flags.any()
    assert {name: set(column.tolist()) for name, column in left.items()} == {
        **{name: {0} for name in COLUMN_NAMES},
        "min": {float("inf")},
        "max": {-float("inf")},
    }
    assert len(buffer.read_out().block()) == 0


def test_gradients_are_found_at_their_parameters_and_missing_ones_are_named():
    parameters = [torch.nn.Parameter(torch.zeros(3)) for _ in range(4)]
    parameters[1].grad = torch.tensor([3.0, 4.0, 0.0])
    parameters[3].grad = torch.tensor([1.0, 2.0, 2.0]).to_sparse()
    buffer = RowBuffer()
    rows = [(buffer.row(i, "param_grad"),) for i in range(4)]
    assert buffer.add_gradients(parameters, rows) == ([0, 2], False)
    table = Table(0, list("abcd"), buffer.read_out().block())
    assert table["b"]["param_grad"].norm == 5.0
    assert table["d"]["param_grad"].norm == 3.0
    assert set(table) == {"b", "d"}
    assert buffer.add_gradients(parameters[1:2], rows[1:2])[0] in ([], range(0))
