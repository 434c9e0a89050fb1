"""`read_history`: live, ended, recorded and not recorded runs."""

from contextlib import contextmanager

import pytest
import torch

import gradscope
from gradscope.errors import NothingToConnectError
from gradscope.history import read_history
from gradscope.recording import default_path
from support.waiting import wait_for


@contextmanager
def trained(steps, **options):
    """A training of some steps, attached until the block ends; the norms of a weight's gradients."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Tanh(), torch.nn.Linear(4, 1))
    optimizer = torch.optim.SGD(model.parameters(), 1e-2)
    with gradscope.attach(model, optimizer, name="known", quiet=True, every=1, **options) as scope:
        norms = []
        for _ in range(steps):
            optimizer.zero_grad()
            loss = model(torch.randn(6, 4)).square().mean()
            loss.backward()
            norms.append(model[0].weight.grad.norm().item())
            scope.log(loss=loss)
            optimizer.step()
        yield norms


def steps_of(run, **options):
    try:
        return [table.step for table in read_history(str(run), **options).tables]
    except NothingToConnectError:
        return []


@pytest.mark.parametrize("record", [True, False])
def test_steps_scalars_and_state_of_a_live_and_then_of_an_ended_run(hub, record):
    with trained(12, record=record) as norms:
        wait_for(lambda: steps_of("known", tables=3) == [9, 10, 11], "the last steps")
        live = read_history("known", tables=3)
        assert live.state == "live"
        assert live.model == "Sequential"
        assert [layer.name for layer in live.layers] == ["", "0", "1", "2"]
        measured = [table["0"]["param_grad.weight"].norm for table in live.tables]
        assert measured == pytest.approx(norms[9:], rel=1e-6)
        assert steps_of("known", around=4, tables=2) == [3, 4]
    wait_for(lambda: read_history("known").state == "ended", "the end")
    ended = read_history("known", tables=3)
    assert [table.step for table in ended.tables] == [9, 10, 11]
    assert sorted(ended.scalars["loss"]) == list(range(12))
    if record:
        recorded = read_history(str(default_path("known")), around=100, tables=30)
        assert [table.step for table in recorded.tables] == list(range(12))
        assert recorded.scalars["loss"] == ended.scalars["loss"]


def test_an_unknown_run_is_an_error(hub):
    with pytest.raises(NothingToConnectError, match="no run 'nope'"):
        read_history("nope")


def test_a_recording_has_the_findings_of_the_live_run(hub):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    optimizer = torch.optim.SGD(list(model[0].parameters()), lr=0.1)  # the last layer is left out
    with gradscope.attach(model, name="sick", every=1, quiet=True):
        for _ in range(30):
            optimizer.zero_grad()
            model(torch.randn(8, 4)).square().mean().backward()
            optimizer.step()
        wait_for(lambda: len(read_history("sick").verdict.every()) > 0, "a finding")
    wait_for(lambda: read_history("sick").state == "ended", "the end")
    live = read_history("sick").verdict
    path = str(default_path("sick"))
    wait_for(lambda: read_history(path).state == "ended", "the end of the recording")
    assert read_history(path).verdict == live
    assert [each.code for each in live.every()]
    with gradscope.open_recording("sick") as recording:
        found = {(each.code, each.layers) for each in recording.findings()}
        assert {(each.code, each.layers) for each in live.every()} <= found
