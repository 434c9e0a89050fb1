"""`scope.examine`: what the doctor says of a watched model, with the training left as it is."""

import gc

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


def test_an_examination_amid_training_leaves_it_bitwise_the_same():
    plain, _ = train()
    examined, reports = train(examine_at=2)
    assert all(torch.equal(a, b) for a, b in zip(plain, examined, strict=True))
    (report,) = reports
    assert report.name == "Doubled"
    assert report.codes[0] == "wrong-gradient-scale"
    assert any("float32[5, 6]" in note for note in report.notes)


def test_it_says_in_words_when_the_model_is_gone_or_cannot_run():
    model = Model()
    scope = gradscope.attach(model, hub=None, quiet=True)
    with pytest.raises(UsageError, match=r"Model cannot run on float32\[5, 3\]"):
        scope.examine(torch.randn(5, 3))
    del model
    gc.collect()
    with pytest.raises(UsageError, match=r"the model of run .* is gone"):
        scope.examine(torch.randn(5, 4))
