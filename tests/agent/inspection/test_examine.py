"""`scope.examine`: what the doctor says of a watched model, with the training left as it is."""

import gc
import weakref

import pytest
import torch
from torch import nn
from torch.autograd import Function

import gradscope
from gradscope.errors import UsageError


class Doubled(Function):
    @staticmethod
    def forward(ctx, x):
        return 2 * x

    @staticmethod
    def backward(ctx, dy):
        return 3 * dy


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.fc1, self.norm, self.drop = nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Dropout(0.4)

    def forward(self, x):
        return Doubled.apply(self.drop(self.norm(self.fc1(x))))


def train(examine_at=None):
    """Return all numbers of a short training, and the reports of an examination in the midst of it."""
    model = Model()
    optimizer = torch.optim.AdamW(model.parameters())
    batches = torch.randn(6, 5, 4, generator=torch.Generator().manual_seed(1))
    numbers, reports = [], None
    with gradscope.attach(model, every=1, hub=None, quiet=True) as scope:
        for step, batch in enumerate(batches):
            optimizer.zero_grad()
            loss = model(batch).square().mean()
            loss.backward()
            if step == examine_at:
                reports = scope.examine(batch)
            optimizer.step()
            table = scope.latest()
            numbers += [loss.detach(), *(p.grad.clone() for p in model.parameters())]
            numbers += [torch.as_tensor([table["fc1"]["out"].mean, table["fc1"]["grad"].mean])]
            assert table.step == step
        assert scope.faults == {}
    numbers += [v.clone() for v in model.state_dict().values()] + [torch.get_rng_state()]
    return numbers, reports


def test_an_examination_during_training_changes_nothing_bitwise():
    plain, _ = train()
    examined, reports = train(examine_at=2)
    assert all(torch.equal(a, b) for a, b in zip(plain, examined, strict=True))
    (report,) = reports
    assert report.name == "Doubled"
    assert report.codes[0] == "wrong-gradient-scale"
    assert any("float32[5, 6]" in note for note in report.notes)


def test_a_deleted_model_or_one_that_cannot_run_is_a_clear_error():
    model = Model()
    scope = gradscope.attach(model, hub=None, quiet=True)
    with pytest.raises(UsageError, match=r"Model cannot run on float32\[5, 3\]"):
        scope.examine(torch.randn(5, 3))
    del model
    gc.collect()
    with pytest.raises(UsageError, match=r"the model of run .* was collected"):
        scope.examine(torch.randn(5, 4))


class Squared(Function):
    """Of the loss, and of no use to the model."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx, dy):
        (x,) = ctx.saved_tensors
        return 2 * x * dy


def train_on(scope, model, optimizer, batches, *, is_logged=True):
    """Return the losses and gradients of some steps, the batch dropped before the next."""
    numbers = []
    for batch in batches:
        optimizer.zero_grad()
        loss = Squared.apply(model(batch.clone())).mean()
        loss.backward()
        if is_logged and scope is not None:
            scope.log(loss=loss)
        optimizer.step()
        numbers += [loss.detach(), *(p.grad.clone() for p in model.parameters())]
    return [*numbers, torch.get_rng_state()]


def test_without_inputs_it_uses_recorded_inputs_and_changes_nothing():
    batches = torch.randn(4, 5, 4, generator=torch.Generator().manual_seed(1))
    model = Model()
    plain = train_on(None, model, torch.optim.AdamW(model.parameters()), batches)
    model = Model()
    optimizer = torch.optim.AdamW(model.parameters())
    hooks = dict(torch.nn.modules.module._global_forward_hooks)
    with gradscope.attach(model, every=1, hub=None, quiet=True) as scope:
        watched = train_on(scope, model, optimizer, batches[:2])[:-1]
        inside, outside = scope.examine()
        watched += train_on(scope, model, optimizer, batches[2:])
        again = scope.examine()
        assert scope.faults == {}
    assert len(plain) == len(watched)
    assert all(torch.equal(a, b) for a, b in zip(plain, watched, strict=True))
    assert (inside.name, inside.codes[0]) == ("Doubled", "wrong-gradient-scale")
    assert inside.notes[0] == "with the arguments of Model in step 1"
    assert "float32[5, 6]" in inside.notes[1]
    assert (outside.name, outside.steps) == ("Squared", ())
    assert outside.notes[0].startswith("not examined: in step 1 only the loss used it")
    assert again[0].notes[0] == "with the arguments of Model in step 3"
    assert torch.nn.modules.module._global_forward_hooks == hooks


def test_a_model_without_custom_functions_keeps_no_inputs():
    model = nn.Linear(4, 4)
    optimizer = torch.optim.SGD(model.parameters())
    batch = torch.randn(3, 4)
    with gradscope.attach(model, every=1, hub=None, quiet=True) as scope:
        with pytest.raises(UsageError, match=r"the second observed step will be"):
            scope.examine()
        for _ in range(2):
            optimizer.zero_grad()
            model(batch).sum().backward()
            optimizer.step()
        alive = weakref.ref(batch)
        del batch
        assert alive() is None
        assert scope.examine() == []


def test_large_inputs_are_not_kept_and_the_error_says_so():
    model = Model()
    optimizer = torch.optim.SGD(model.parameters())
    batch = torch.randn(2**20 + 1, 4)
    with gradscope.attach(model, every=1, hub=None, quiet=True) as scope:
        for _ in range(2):
            optimizer.zero_grad()
            model(batch).sum().backward()
            optimizer.step()
        alive = weakref.ref(batch)
        del batch
        assert alive() is None
        with pytest.raises(
            UsageError, match=r"were freed: they had 16 MiB, and only up to 16 MiB are copied"
        ):
            scope.examine()
