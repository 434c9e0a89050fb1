"""A spike of the loss names its batch, with a digest if the inputs are still there, and the layers that moved most."""

import hashlib
import re

import pytest
import torch
from torch import nn

import gradscope
from gradscope.agent.diagnosis.batch_log import BatchLog

F = nn.functional


class Keywords(nn.Module):
    """Takes its data as keywords, as models of Transformers do."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(4, 8), nn.Linear(8, 1)

    def forward(self, *, data):
        return self.last(self.first(data).relu())


def reference(*tensors):
    """The digest by its definition: 64 bits of BLAKE2b over dtype, shape and contents, mixed in order."""
    mixed = 0
    for tensor in tensors:
        head = f"{tensor.dtype}{tuple(tensor.shape)}".encode()
        digest = hashlib.blake2b(head + tensor.numpy().tobytes(), digest_size=8).digest()
        mixed = (mixed * 0x9E3779B97F4A7C15 + int.from_bytes(digest, "little")) % 2**64
    return f"{mixed:016x}"


def spike_of(call, *, passes=1, every=1, at=40, after=lambda x: x):
    """Train with one batch whose targets are huge; return its inputs and the finding."""
    torch.manual_seed(0)
    model = Keywords()
    optimizer = torch.optim.SGD(model.parameters(), 1e-2)
    kept = []
    with gradscope.attach(model, every=every, hub=None, record=False, quiet=True) as scope:
        for step in range(at + 2):
            optimizer.zero_grad()
            total = 0.0
            for _ in range(passes):
                x = torch.randn(16, 4)
                target = x.sum(1, keepdim=True) * (1e3 if step == at else 1.0)
                loss = F.mse_loss(call(model, x), target)
                loss.backward()
                total += loss.item()
                if step == at:
                    kept.append(x.clone())
                x = after(x)
            optimizer.step()
            scope.log(loss=total)
        assert scope.faults == {}
        return kept, next(each for each in scope.findings if each.code == "loss-spike")


def plain(model, x):
    return model(data=x)


def test_the_batch_has_its_number_and_the_digest_of_its_contents():
    (x,), found = spike_of(plain)
    assert found.evidence["batch"] == found.evidence["last_batch"] == 40
    assert found.evidence["digest"] == reference(x)
    assert f"batch 40 since the start, digest {reference(x)}" in found.message


def test_a_step_of_several_passes_names_all_its_batches():
    _, found = spike_of(plain, passes=3)
    assert (found.evidence["batch"], found.evidence["last_batch"]) == (120, 122)
    assert "digest" not in found.evidence  # the first two are gone
    assert "batches 120 to 122 since the start, without a digest" in found.message


def freed(model, x):
    return model(data=x * 1.0)


def freed_at_once(_x):
    return None


@pytest.mark.parametrize(("call", "after"), [(freed, freed_at_once), (plain, lambda x: x.zero_())])
def test_inputs_that_are_gone_or_changed_have_no_digest(call, after):
    _, found = spike_of(call, after=after)
    assert "digest" not in found.evidence
    assert "without a digest: the inputs were freed or changed" in found.message


def test_the_layers_that_moved_most_are_compared_with_their_own_past():
    _, found = spike_of(plain)
    name, rise = re.search(r"`(\w+)` moved most: Δw/w is \S+, (\S+) times", found.message).groups()
    assert (name, found.layers[0]) == ("first", "first") or name == "last"
    assert float(rise) > 50
    assert found.evidence["largest_rise"] == pytest.approx(float(rise), rel=0.05)


def test_in_a_step_that_is_not_observed_no_layer_is_named():
    _, found = spike_of(plain, every=1000)
    assert found.layers == ()
    assert "the step was not observed" in found.message
    assert found.evidence["batch"] == 40


def test_after_passes_that_were_not_noted_a_batch_has_no_number():
    log, x = BatchLog(), torch.randn(3, 4)
    log.begin(0, (x,))
    log.lose_count()
    assert log.of_step(0).text.startswith("batch 0 since the start")
    log.begin(9, (x,))
    assert log.of_step(9).text == f"its batch, digest {reference(x)}"
    assert set(log.of_step(9).evidence) == {"digest"}
    assert log.of_step(5) is None


def test_a_model_that_is_not_called_by_the_script_has_no_batch():
    model = nn.Linear(4, 1)
    optimizer = torch.optim.SGD(model.parameters(), 1e-2)
    with gradscope.attach(model, every=1, hub=None, record=False, quiet=True) as scope:
        for step in range(42):
            optimizer.zero_grad()
            out = F.linear(torch.randn(16, 4), model.weight, model.bias)
            (out.square().mean()).backward()
            optimizer.step()
            scope.log(loss=1e3 if step == 40 else 1.0)
        (found,) = (each for each in scope.findings if each.code == "loss-spike")
        assert "batch" not in found.message
