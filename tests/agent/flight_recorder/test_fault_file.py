"""A NaN that was saved is found again in another process, from the file and the script."""

import sys
import textwrap

import pytest
import torch
from torch import nn

import gradscope
from agent.flight_recorder.cases import Sick, set_sick
from gradscope import replay
from gradscope.errors import UsageError

SCRIPT = textwrap.dedent("""
    import torch
    from torch import nn


    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.drop, self.head = nn.Linear(6, 8), nn.Dropout(0.5), nn.Linear(8, 4)

        def forward(self, x, factor=1.0):
            h = self.drop(torch.tanh(self.first(x)))
            return self.head(torch.log(h * factor))  # fault
""")


@pytest.fixture
def script(tmp_path):
    path = tmp_path / "fault_script.py"
    path.write_text(SCRIPT)
    yield path
    sys.modules.pop("fault_script", None)
    if str(tmp_path) in sys.path:
        sys.path.remove(str(tmp_path))


def test_a_saved_nan_is_found_again(script, tmp_path, capsys):
    torch.manual_seed(0)
    model = replay._find_maker(f"{script}:Model")()
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    with gradscope.attach(model, hub=None, record=False, quiet=True) as scope:
        with pytest.raises(UsageError, match="nothing to save"):
            scope.save_fault(tmp_path / "fault.safetensors")
        model(torch.randn(8, 6), factor=2.0).square().mean().backward()
        optimizer.step()
        (finding,) = scope.findings
        scope.save_fault(tmp_path / "fault.safetensors")
    assert replay.main([str(tmp_path / "fault.safetensors"), f"{script}:Model"]) == 1
    assert finding.message in capsys.readouterr().out


def test_wrong_usage_says_what_was_expected(script, tmp_path, capsys):
    (tmp_path / "no.safetensors").write_bytes(b"nothing")
    assert replay.main([str(tmp_path / "no.safetensors"), f"{script}:Model"]) == 2
    assert "gradscope capture RUN --fault" in capsys.readouterr().err


def test_an_argument_that_is_not_stored_is_a_stated_limit(tmp_path, script):
    class Batch:
        def __init__(self, x):
            self.x = x

    class Outer(nn.Module):
        def __init__(self):
            super().__init__()
            self.sick, self.head = Sick(torch.log), nn.Linear(6, 2)

        def forward(self, batch):
            return self.head(self.sick(batch.x * 0))

    model = Outer()
    set_sick(model, True)
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    with gradscope.attach(model, hub=None, record=False, quiet=True) as scope:
        model(Batch(torch.ones(4, 6))).square().mean().backward()
        optimizer.step()
        scope.save_fault(tmp_path / "fault.safetensors")
        assert scope.findings[0].layers == ("sick",)
    from gradscope.agent.flight_recorder.fault_file import load_fault, record_of

    with pytest.raises(UsageError, match="of type Batch"):
        record_of(load_fault(tmp_path / "fault.safetensors"), model)
