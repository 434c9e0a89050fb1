"""Digests: the native pass and PyTorch's operations against the definition, and what a digest depends on."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.distributed.tensor import DTensor

import gradscope
from gradscope.columns import Stats, merge_stats
from gradscope.observe import RowBuffer
from gradscope.observe.cuda.device_buffer import DeviceRowBuffer
from gradscope.observe.digests import digest_by_torch, digest_of
from support.examples import examples

WIDTH = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}


def reference(elements):
    """The definition, one element at a time with Python's integers, for a flat NumPy array."""
    step, constant, limit = 0x9E3779B97F4A7C15, 0xD1B54A32D192ED03, 2**64
    bits = elements.view(WIDTH[elements.itemsize]).tolist()
    total = 0
    for index, bit in enumerate(bits):
        x = bit * (2**32 + 1) if elements.itemsize < 8 else bit
        z = x ^ ((index + 1) * step % limit)
        for is_first in (True, False):
            lower, upper = z % 2**32, z // 2**32
            z = (lower * upper + lower * 2**32 + upper) % limit
            z = z ^ constant if is_first else z
        total += z
    return total % limit


def as_numpy(tensor):
    """The elements in C order as raw bits; NumPy has no bfloat16."""
    tensor = tensor.detach().resolve_conj().resolve_neg().contiguous().flatten()
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor).flatten()
    return tensor.view(torch.uint8).numpy().view(WIDTH[tensor.element_size()])


SPECIAL = [0.0, -0.0, float("nan"), -float("nan"), float("inf"), 1e-45, -1e-45, 5e-324, 1.0]
DTYPES = [
    torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16,
    torch.uint8, torch.bool, torch.complex64, torch.complex128, torch.float8_e4m3fn,
]  # fmt: skip
VIEWS = {
    "whole": lambda t: t,
    "transposed": lambda t: t.transpose(0, 1),
    "permuted": lambda t: t.permute(2, 0, 1),
    "gaps": lambda t: t[:, ::2, 1:],
    "repeated": lambda t: t[:, :1].expand(-1, 9, -1),
    "flat": lambda t: t.flatten(),
    "scalar": lambda t: t[0, 0, 0],
    "empty": lambda t: t[:0],
    "negative": lambda t: torch.complex(*[(t.real if t.is_complex() else t).float()] * 2).conj().imag,
}


def numbers(dtype):
    torch.manual_seed(0)
    values = torch.randn(5, 6, 41, dtype=torch.float64) * 3
    values.flatten()[: len(SPECIAL)] = torch.tensor(SPECIAL, dtype=torch.float64)
    return (values.nan_to_num(0, 9, 0) if not dtype.is_floating_point else values).to(dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("switch", ["1", "0"])
def test_every_dtype_and_layout_has_the_digest_of_the_definition(monkeypatch, dtype, view, switch):
    monkeypatch.setenv("GRADSCOPE_NATIVE", switch)
    tensor = VIEWS[view](numbers(dtype))
    expected = reference(as_numpy(tensor))
    assert digest_of(tensor) == expected
    assert int(digest_by_torch(tensor)) % 2**64 == expected


@given(st.data())
@examples(60)
def test_any_shape_and_size_has_the_digest_of_the_definition(data):
    dtype = data.draw(st.sampled_from(DTYPES[:6]))
    size = data.draw(st.integers(0, 700))
    tensor = torch.tensor(
        data.draw(st.lists(st.integers(-(2**31), 2**31 - 1), min_size=size, max_size=size)),
        dtype=torch.int64,
    ).to(dtype)
    assert digest_of(tensor) == reference(as_numpy(tensor))


def test_a_tensor_of_many_blocks_and_parts_has_one_digest():
    tensor = torch.randn(1 << 20)  # 4 MiB: read in parts
    buffer = RowBuffer(has_digest=True)
    buffer.add(buffer.row(0, "out"), tensor)
    block = buffer.read_out().block()
    assert int(block.digest[0]) == int(digest_by_torch(tensor)) % 2**64 == digest_of(tensor)


def test_each_bit_of_an_element_and_the_order_of_elements_change_the_digest():
    tensor = torch.randn(33)
    found = {digest_of(tensor), digest_of(tensor.flip(0))}
    for bit in range(32):
        changed = tensor.clone()
        changed.view(torch.int32)[7] ^= 1 << bit if bit < 31 else -(1 << 31)
        found.add(digest_of(changed))
    for i in range(32):
        changed = tensor.clone()
        changed[[i, i + 1]] = tensor[[i + 1, i]]
        found.add(digest_of(changed))
    assert len(found) == 2 + 32 + 32
    assert digest_of(torch.tensor([0.0])) != digest_of(torch.tensor([-0.0]))


def test_digests_of_similar_tensors_collide_hardly_more_often_than_random_numbers():
    n, bits = 1 << 19, 32
    index = torch.arange(n)

    def mixed(value):
        x = torch.full((n,), value, dtype=torch.int64)
        z = (x | x << 32) ^ (index + 1) * (0x9E3779B97F4A7C15 - 2**64)
        for is_first in (True, False):
            lower, upper = z & 0xFFFFFFFF, (z >> 32) & 0xFFFFFFFF
            z = lower * upper + (upper | z << 32)
            z = z ^ (0xD1B54A32D192ED03 - 2**64) if is_first else z
        return z

    one, zero, minus = (mixed(value) for value in (0x3F800000, 0, 0xBF800000))
    flipped, signs = one - mixed(0x3F800001), one - minus
    swapped = (one + zero.roll(-1)) - (zero + one.roll(-1))
    subsets = torch.zeros(1, dtype=torch.int64)
    for each in flipped[:19]:
        subsets = torch.cat([subsets, subsets + each])
    expected = n * n / 2 / 2**bits  # 32 pairs
    for sums in (one, flipped, signs, swapped, subsets):
        for part in (sums & (2**bits - 1), sums >> (64 - bits)):
            collisions = n - len(part.unique())
            assert collisions < 4 * expected


def test_digests_of_calls_and_parts_are_added_and_one_without_leaves_none():
    parts = [Stats(1, 1, 0, 0, 0, 1.0, 1.0, 1.0, 1.0, digest=digest) for digest in (5, 2**64 - 2)]
    assert merge_stats(parts).digest == 3
    assert merge_stats([*parts, Stats(1, 1, 0, 0, 0, 1.0, 1.0, 1.0, 1.0)]).digest is None


def test_a_row_into_which_a_tensor_without_digest_was_merged_has_none_in_this_step_only():
    buffer = RowBuffer(has_digest=True)
    row = buffer.row(0, "grad")
    sparse = torch.eye(3).to_sparse()
    for tensor, has_digest in ((sparse, False), (torch.ones(3), True)):
        buffer.add(row, torch.ones(3))
        buffer.add(row, tensor)
        assert bool(buffer.read_out().block().digest[0]) is has_digest


def test_rows_on_a_device_have_the_same_digests():
    tensors = [torch.randn(3, 5), torch.randn(7).bfloat16(), torch.randn(4, 4).t()]
    host, device = RowBuffer(has_digest=True), DeviceRowBuffer(torch.device("cpu"), has_digest=True)
    for row, tensor in enumerate(tensors):
        host.add(host.row(row, "out"), tensor, *([] if row == 0 else [0]))
        device.add_digest(tuple({row, 0}), digest_by_torch(tensor))
    block = host.read_out().block()
    expected = block.digest.copy()
    block.digest[:] = 0
    device.read_out().merge_into(block)
    assert block.digest.tolist() == expected.tolist()


@pytest.mark.parametrize("dim", [0, 1])
def test_digests_of_the_shards_of_a_tensor_add_up_to_the_digest_of_the_whole(dim):
    whole = torch.randn(6, 10)
    sizes = [4, 2] if dim == 0 else [7, 3]
    sums, begin = 0, 0
    for part in whole.split(sizes, dim):
        offsets = (begin, 0) if dim == 0 else (0, begin)
        sums += int(digest_by_torch(part, offsets, whole.shape))
        begin += part.shape[dim]
    assert sums % 2**64 == digest_of(whole)


def test_a_dtensor_has_the_digest_of_its_part_at_its_place(one_rank_mesh):
    whole = torch.randn(6, 10)
    from torch.distributed.tensor import Replicate, Shard, distribute_tensor

    for placement in (Replicate(), Shard(0), Shard(1)):
        tensor = distribute_tensor(whole, one_rank_mesh, [placement])
        assert isinstance(tensor, DTensor)
        assert digest_of(tensor) == digest_of(whole)


@pytest.fixture
def one_rank_mesh(tmp_path):
    from torch import distributed
    from torch.distributed.device_mesh import init_device_mesh

    distributed.init_process_group("gloo", f"file://{tmp_path}/store", rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    distributed.destroy_process_group()


def test_a_scope_has_the_digests_of_tensors_and_of_parameters_after_the_step():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Tanh())
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with gradscope.attach(model, optimizer, hub=None, every=1, digest=True, quiet=True) as scope:
        before = digest_of(model[0].weight)
        output = model(torch.ones(2, 4))
        output.sum().backward()
        gradient = digest_of(model[0].weight.grad)
        optimizer.step()
        rows = scope.latest()["0"]
    assert rows["param.weight"].digest == before
    assert rows["param_grad.weight"].digest == gradient
    assert rows["update.weight"].digest == digest_of(model[0].weight)
    assert scope.latest()["1"]["out"].digest == digest_of(output)


def test_without_digest_there_is_none():
    model = torch.nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with gradscope.attach(model, optimizer, hub=None, every=1, quiet=True) as scope:
        model(torch.ones(1, 2)).sum().backward()
        optimizer.step()
        assert scope.latest()[""]["out"].digest is None
