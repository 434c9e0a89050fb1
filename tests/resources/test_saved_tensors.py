"""The bytes that layers keep for the backward pass, against counts that did not come from us."""

import gc
import weakref

import pytest
import torch
from torch import nn
from torch.autograd import Function
from torch.utils.checkpoint import checkpoint

import gradscope


@pytest.fixture
def measured():
    """Attach to a model, run a forward and a backward, and return the table of the step."""
    scopes = []

    def measure(model, *inputs, forward=None, backward=True, **options):
        scope = gradscope.attach(model, hub=None, quiet=True, replace=True, **options)
        scopes.append(scope)
        output = forward() if forward is not None else model(*inputs)
        if backward:
            output.square().sum().backward()
        del output
        scope.mark_step()
        assert scope.faults == {}
        return scope.memory()

    yield measure
    for scope in scopes:
        scope.detach()


def own(table) -> dict[str, int]:
    return {name: row.saved_bytes for name, row in table.items() if row.saved_bytes}


def test_saved_bytes_equal_an_independent_count_exactly(network, measured, count_independently):
    model, batch = network
    torch.manual_seed(1)
    expected = count_independently(model, batch)
    torch.manual_seed(1)
    table = measured(model, batch)
    assert own(table) == expected
    assert sum(expected.values()) == table.balance["saved"]
    assert table[""].total.saved_bytes == table.balance["saved"]
    assert table.notes == ()


def test_a_layers_total_is_its_own_and_that_of_the_layers_below(network, measured):
    model, batch = network
    table = measured(model, batch)
    for name, row in table.items():
        prefix = f"{name}." if name else ""
        below = [each for other, each in table.items() if f"{other}.".startswith(prefix)]
        assert row.total.saved_bytes == sum(each.saved_bytes for each in below)
        assert row.total.param_bytes == sum(each.param_bytes for each in below)


@pytest.mark.parametrize(("is_reentrant", "keepers"), [(False, ["blocks.1", "blocks.2"]), (True, [""])])
def test_a_checkpoint_keeps_its_inputs_and_says_so(
    is_reentrant, keepers, make_checkpointed, measured, count_independently
):
    model, batch = make_checkpointed(is_reentrant), torch.randn(2, 16, 32, requires_grad=True)
    table = measured(model, batch)
    # Each block's input is kept; the first one's is the batch itself. The head keeps the last output.
    each = 2 * batch.nbytes // len(keepers)
    assert own(table) == {"head": batch.nbytes} | dict.fromkeys(keepers, each)
    assert table.notes == tuple(
        f"{each:,} bytes of {name or 'the model itself'} are held by a checkpoint" for name in keepers
    )
    plain = nn.Sequential(*model.blocks, model.head)
    whole = sum(count_independently(plain, batch).values())
    assert table.balance["saved"] < whole / 10


def test_the_bytes_kept_by_a_checkpoint_equal_a_count_over_its_frame(measured):
    """The identity hooks lie inside of the checkpoint's own: what they see is what really stays."""
    inner = nn.Sequential(nn.Linear(8, 8), nn.Tanh())
    model = nn.Sequential(nn.Linear(8, 8), nn.Sigmoid())
    batch = torch.randn(4, 8)

    def forward():
        return checkpoint(inner, model(batch), use_reentrant=False)

    table = measured(model, forward=forward)
    assert own(table) == {"1": 4 * 8 * 4}  # the input of `inner`, which is not a layer of this model


def test_the_sigmoid_keeps_its_result_and_nothing_without_gradients(measured):
    model = nn.Sequential(nn.Sigmoid())
    batch = torch.randn(8, 16, 4, 4, requires_grad=True)
    assert own(measured(model, batch)) == {"0": batch.nbytes}

    def without():
        with torch.no_grad():
            return model(batch)

    table = measured(model, forward=without, backward=False)
    assert table["0"].saved_bytes == 0
    assert table.balance["saved"] == 0


class Squared(Function):
    """Keeps its input as it should, and a copy on ctx as it should not."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        ctx.copy = x.double()
        return x * x

    @staticmethod
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        return 2 * x * gradient


class Square(nn.Module):
    def forward(self, x):
        return Squared.apply(x)


def test_a_custom_function_keeps_what_it_saved_and_what_it_put_on_ctx(measured):
    batch = torch.randn(3, 5)
    model = nn.Sequential(nn.Linear(5, 5), Square())
    table = measured(model, batch)
    assert own(table) == {"1": 3 * 5 * 4 + 3 * 5 * 8}


def test_a_storage_belongs_to_the_layer_that_kept_it_first(measured):
    model = nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 3))
    table = measured(model, torch.randn(2, 5))
    assert own(table) == {"1": 2 * 7 * 4}  # the second Linear keeps the ReLU's result as well


def test_a_layer_called_several_times_keeps_the_sum(measured):
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.act = nn.Tanh()

        def forward(self, x):
            return self.act(self.act(self.act(x)))

    batch = torch.randn(2, 6, requires_grad=True)
    assert own(measured(Shared(), batch)) == {"act": 3 * batch.nbytes}


def test_calls_whose_backward_is_over_are_not_added_up(measured):
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh())
    batch = torch.randn(8, 4)

    def accumulate():
        model(batch).sum().backward()
        model(batch).sum().backward()
        return model(batch)

    assert own(measured(model, forward=accumulate)) == {"1": batch.nbytes}


def test_calls_that_wait_for_one_backward_are_added_up(measured):
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh())
    first, second = torch.randn(8, 4), torch.randn(8, 4)
    table = measured(model, forward=lambda: model(first) + model(second))
    assert own(table) == {"1": 2 * first.nbytes}


def test_tensors_moved_to_the_host_by_hooks_are_counted(measured):
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh())

    def offloaded():
        with torch.autograd.graph.save_on_cpu():
            return model(torch.randn(8, 4))

    table = measured(model, forward=offloaded)
    assert table["1"].saved_bytes == 8 * 4 * 4


def test_gradients_changed_by_user_hooks_are_flagged_as_hidden(measured):
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh())
    hidden = []

    def pack(tensor):
        hidden.append(tensor)
        return len(hidden) - 1

    def packed():
        with torch.autograd.graph.saved_tensors_hooks(pack, hidden.__getitem__):
            return model(torch.randn(8, 4))

    table = measured(model, forward=packed)
    assert own(table) == {}
    assert table.notes == (
        "1 operations of 0 save memory that cannot be read: hooks on saved tensors",
        "1 operations of 1 save memory that cannot be read: hooks on saved tensors",
    )


def test_an_inplace_operation_on_a_view_is_flagged_as_hidden(measured):
    class Half(nn.Module):
        def forward(self, x):
            x = x * 1
            x[:, :2].sigmoid_()
            return x

    table = measured(nn.Sequential(nn.Linear(4, 4), Half()), torch.randn(3, 4))
    assert any("an operation in place on a view" in note for note in table.notes)


def test_a_forward_that_raised_does_not_confuse_the_next(measured):
    class Fragile(nn.Module):
        is_broken = True

        def forward(self, x):
            if self.is_broken:
                raise ValueError("broken")
            return torch.tanh(x)

    fragile = Fragile()
    model = nn.Sequential(nn.Linear(4, 4), fragile)
    batch = torch.randn(8, 4)

    def twice():
        with pytest.raises(ValueError, match="broken"):
            model(batch)
        fragile.is_broken = False
        return model(batch)

    assert own(measured(model, forward=twice)) == {"1": batch.nbytes}


def test_no_tensor_lives_longer_for_having_been_counted():
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh())
    scope = gradscope.attach(model, hub=None, quiet=True, budget=None)
    gc.disable()
    try:
        output = model(torch.randn(8, 4))
        held = weakref.ref(output)
        del output
        assert held() is None
    finally:
        gc.enable()
        scope.detach()


def test_parameters_gradients_optimizer_state_and_buffers_are_counted_by_layer():
    model = nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4))
    optimizer = torch.optim.Adam(model.parameters())
    with gradscope.attach(model, hub=None, quiet=True) as scope:
        model(torch.randn(3, 6)).square().sum().backward()
        optimizer.step()
        table = scope.memory()
    linear, norm = table["0"], table["1"]
    assert (linear.param_bytes, linear.grad_bytes) == (4 * (24 + 4), 4 * (24 + 4))
    assert linear.optimizer_bytes == 2 * 4 * (24 + 4) + 2 * 4  # two moments, and a step for each
    assert norm.buffer_bytes == 4 * 4 + 4 * 4 + 8  # running mean and variance, and a whole number
    assert table[""].total.param_bytes == sum(p.nbytes for p in model.parameters())


def test_shared_weights_count_once_for_the_first_layer_that_has_them():
    model = nn.Sequential(nn.Embedding(10, 4), nn.Linear(4, 10, bias=False))
    model[1].weight = model[0].weight
    with gradscope.attach(model, hub=None, quiet=True) as scope:
        model(torch.tensor([1, 2])).sum().backward()
        scope.mark_step()
        table = scope.memory()
    assert (table["0"].param_bytes, table["1"].param_bytes) == (160, 0)


def test_the_balance_names_its_parts_and_leaves_the_rest_unexplained(network, measured):
    model, batch = network
    balance = measured(model, batch).balance
    assert list(balance) == [
        "parameters", "gradients", "optimizer", "buffers", "saved", "batch", "unexplained", "total",
    ]  # fmt: skip
    assert balance["parameters"] == sum(p.nbytes for p in model.parameters())
    parts = sum(size for name, size in balance.items() if name != "total")
    assert parts == balance["total"] > 0
