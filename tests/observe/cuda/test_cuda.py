"""What only a CUDA device can show: nothing waits for it, graphs capture, numbers are the host's."""

import contextlib
import math

import numpy as np
import pytest
import torch
from torch import nn

import gradscope
from gradscope.observe import RowBuffer, device_pass_name
from gradscope.observe.cuda.triton_buffer import TritonRowBuffer

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device here")

KINDS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
CUDA = torch.device("cuda", 0)


@pytest.fixture(autouse=True)
def triton_is_on(monkeypatch):
    monkeypatch.setenv("GRADSCOPE_TRITON", "1")


@pytest.fixture(params=["triton", "eager"])
def measuring(request, monkeypatch):
    """Both passes, one after the other."""
    if request.param == "eager":
        monkeypatch.setenv("GRADSCOPE_TRITON", "0")
    elif device_pass_name() != "triton":
        pytest.skip(device_pass_name())
    return request.param


@contextlib.contextmanager
def nothing_may_wait():
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def tensors(kind):
    generator = torch.Generator().manual_seed(5)
    for size in (1, 511, 4_097, 100_003, 1 << 22):
        tensor = torch.randn(size, generator=generator).to(kind)
        yield tensor
        tensor = tensor.clone()
        special = torch.tensor(
            [math.nan, math.inf, -math.inf, 0.0, torch.finfo(kind).smallest_normal / 2]
        )
        tensor[: min(size, 5)] = special[: min(size, 5)].to(kind)
        yield tensor
        yield tensor[1:]
        yield tensor[:1].expand(7)
    yield torch.randn(64, 48, generator=generator).to(kind).t()
    yield torch.empty(0, dtype=kind)


def assert_same(found, expected):
    assert found.kinds == expected.kinds
    assert found.flags.tolist() == expected.flags.tolist()
    for name, values in expected.values.items():
        if name not in ("sum", "sumsq"):
            assert found.values[name].tolist() == values.tolist(), name
    magnitudes = (
        expected.values["sumsq"] * expected.values["count"]
    ) ** 0.5  # at least the sum of them
    np.testing.assert_allclose(found.values["sumsq"], expected.values["sumsq"], rtol=1e-12)
    assert (np.abs(found.values["sum"] - expected.values["sum"]) <= 1e-12 * magnitudes).all()
    if expected.histogram is not None:
        np.testing.assert_array_equal(found.histogram, expected.histogram)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("is_full", [False, True])
def test_the_numbers_of_a_device_are_those_of_the_host(measuring, kind, is_full):
    here, there = RowBuffer(is_full=is_full), RowBuffer(is_full=is_full)
    for i, tensor in enumerate(tensors(kind)):
        here.add(here.row(i, "out"), tensor, here.row(0, "all"))
        there.add(there.row(i, "out"), tensor.to(CUDA), there.row(0, "all"))
    assert isinstance(there._device_buffer(CUDA), TritonRowBuffer) == (measuring == "triton")
    assert_same(there.read_out().block(), here.read_out().block())


@pytest.mark.parametrize("is_full", [False, True])
def test_many_tensors_and_their_changes_are_those_of_the_host(is_full):
    if device_pass_name() != "triton":
        pytest.skip(device_pass_name())
    given = [tensor for kind in KINDS for tensor in tensors(kind) if 0 not in tensor.stride()]
    blocks = []
    for device in (torch.device("cpu"), CUDA):
        buffer = RowBuffer(is_full=is_full)
        rows = [(buffer.row(i, "param"), buffer.row(0, "all")) for i in range(len(given))]
        changes = [(buffer.row(i, "update"),) for i in range(len(given))]
        now, before = [t.to(device) for t in given], [(t * 0.5).to(device) for t in given]
        buffer.add_each(now, rows)
        buffer.add_each_change(now, changes, before)
        blocks.append(buffer.read_out().block())
    assert_same(blocks[1], blocks[0])


def model_in_training():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 128), nn.GELU(), nn.LayerNorm(128), nn.Linear(128, 8)).to(CUDA)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
    x, y = torch.randn(32, 64, device=CUDA), torch.randint(8, (32,), device=CUDA)

    def step():
        optimizer.zero_grad(set_to_none=True)
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()

    return model, optimizer, step


@pytest.mark.parametrize("detail", ["core", "full"])
def test_whole_observed_steps_never_wait_for_the_device(places, ended_hubs, measuring, detail):
    model, optimizer, step = model_in_training()
    with gradscope.attach(model, optimizer, every=1, detail=detail, quiet=True) as scope:
        for _ in range(3):
            step()
        with nothing_may_wait():
            for _ in range(5):
                step()
        torch.cuda.synchronize()
        step()
        assert not scope.faults
        table = scope.latest()
        for name in ("0", "2", "3"):
            for kind in ("out", "grad", "param", "param_grad", "update"):
                assert table[name][kind].is_measured, (name, kind)


def test_observed_and_bare_training_end_bitwise_equal(places, ended_hubs, measuring):
    model, optimizer, step = model_in_training()
    with gradscope.attach(model, optimizer, every=1, quiet=True):
        for _ in range(6):
            step()
    bare, _, bare_step = model_in_training()
    for _ in range(6):
        bare_step()
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), bare.parameters(), strict=True))


def test_a_captured_graph_measures_each_time_it_runs():
    if device_pass_name() != "triton":
        pytest.skip(device_pass_name())
    buffer = RowBuffer(is_full=True)
    row, late = buffer.row(0, "out"), 5_000
    x = torch.ones(10_000, device=CUDA)
    buffer.add(row, x)  # loads the kernel, which is not allowed while a graph is captured
    buffer.read_out().block()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        x.mul_(2)
        buffer.add(row, x)
        for layer in range(1, late):
            buffer.row(layer, "out")
        buffer.add(buffer.row(late, "out"), x)
    block = buffer.read_out().block()
    assert block.layer.tolist() == [late]  # it has no room in a graph, and is not measured
    for _ in range(3):
        graph.replay()
    stats = buffer.read_out().block()
    assert stats.values["calls"].tolist() == [3]
    assert stats.values["count"].tolist() == [30_000]
    assert stats.values["sum"].tolist() == [10_000 * (2 + 4 + 8)]
    assert stats.histogram[0, 48:51].tolist() == [10_000] * 3


def test_steady_steps_allocate_nothing_on_the_device_or_in_pinned_memory():
    if device_pass_name() != "triton":
        pytest.skip(device_pass_name())
    buffer = RowBuffer()
    tensors_there = [torch.randn(n, device=CUDA) for n in (100, 70_000, 5)]
    targets = [(buffer.row(i, "param"),) for i in range(3)]

    def step():
        buffer.add(buffer.row(0, "out"), tensors_there[1])
        buffer.add_each(tensors_there, targets)
        buffer.read_out().block()

    for _ in range(3):
        step()
    before = torch.cuda.memory_stats(CUDA)["allocation.all.allocated"]
    pinned = torch.cuda.host_memory_stats()["active_requests.allocated"]
    for _ in range(5):
        step()
    assert torch.cuda.memory_stats(CUDA)["allocation.all.allocated"] == before
    assert torch.cuda.host_memory_stats()["active_requests.allocated"] == pinned
