"""`gradscope diagnose` on live, ended and recorded runs."""

import json
from contextlib import contextmanager

import pytest
import torch
from torch import nn

import gradscope
from gradscope.cli.commands.diagnose import diagnose
from gradscope.errors import NothingToConnectError
from support.waiting import wait_for


@contextmanager
def trained(*, is_sick, **options):
    """Six steps of a training with or without a replaced head; attached until the block ends."""
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    optimizer = torch.optim.SGD(model.parameters(), 1e-2)
    if is_sick:
        model[2] = nn.Linear(8, 2)
    with gradscope.attach(model, name="sick", quiet=True, **options) as scope:
        for _ in range(6):
            optimizer.zero_grad()
            model(torch.randn(6, 4)).square().mean().backward()
            optimizer.step()
        yield scope


def answer(capsys, run="sick", *, as_json=False):
    """Return the exit code and what was printed; None and nothing while the run is not known yet."""
    try:
        code = diagnose(str(run), as_json=as_json)
    except NothingToConnectError:
        return None, ""
    return code, capsys.readouterr().out


def test_a_live_and_then_an_ended_run_are_diagnosed_with_the_cause_first(hub, ended_hubs, capsys):
    with trained(is_sick=True):
        wait_for(lambda: answer(capsys)[0] == 1, "the finding has reached the hub")
        _, text = answer(capsys)
    first, *rest = text.splitlines()
    assert first.startswith("error stale-optimizer: SGD updates 2 tensors")
    assert any(line.startswith("  also:  not-in-optimizer: `2` gets gradients") for line in rest)
    code, ended = answer(capsys)
    assert code == 1
    assert ended.startswith(text.partition("Not checked")[0].rstrip())


def test_the_json_is_one_object_with_a_version(hub, ended_hubs, capsys):
    with trained(is_sick=True):
        wait_for(lambda: answer(capsys)[0] == 1, "the finding has reached the hub")
    plain = json.loads(answer(capsys, as_json=True)[1])
    assert plain["version"] == 1
    assert plain["run"] == "sick"
    assert [each["code"] for each in plain["findings"]] == ["stale-optimizer", "not-in-optimizer"]


def test_a_healthy_run_has_exit_code_0_and_says_how_far_it_was_checked(hub, ended_hubs, capsys):
    with trained(is_sick=False):
        wait_for(lambda: "nothing found in" in answer(capsys)[1], "a step has reached the hub")
    code, text = answer(capsys)
    assert code == 0
    assert text.startswith("healthy so far: nothing found in 6 steps (")
    assert "the loss: no loss is logged; call scope.log(loss=loss)" in text


def test_a_recording_is_diagnosed_by_its_path(hub, ended_hubs, tmp_path, capsys):
    path = tmp_path / "run.gradscope"
    with trained(is_sick=True, record=path):
        pass
    wait_for(path.exists, "the recording")
    wait_for(lambda: "stale-optimizer" in answer(capsys, path)[1], "the recording has the finding")


def test_a_run_that_does_not_exist_is_an_error(hub):
    with pytest.raises(NothingToConnectError, match="no run 'nope'"):
        diagnose("nope", as_json=False)
