"""Two real ranks: bitwise the same with and without, and together they are the single one's numbers."""

import json
import math
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import gradscope

SCRIPT = Path(__file__).with_name("distributed_training.py")
training = runpy.run_path(str(SCRIPT))
pytestmark = pytest.mark.slow


def run(how, is_attached, folder):
    """Run both ranks through torchrun; return what each wrote."""
    result = folder / f"{how}-{is_attached}"
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"),
        *(str(SCRIPT), how, "attached" if is_attached else "bare", str(result)),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(Path(f"{result}.{rank}").read_text()) for rank in range(2)]


@pytest.fixture(scope="module")
def single():
    """The last step of one process that trains on the whole batch."""
    model = training["make_model"]()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    with gradscope.attach(model, every=1, hub=None, quiet=True) as scope:
        for step in range(training["STEPS"]):
            optimizer.zero_grad()
            model(training["batch_of"](step)).square().mean().backward()
            optimizer.step()
        return scope.latest().to_dict()


@pytest.mark.parametrize("how", ["ddp", "fsdp"])
def test_two_ranks_train_the_same_and_report_the_whole_between_them(how, single, tmp_path):
    bare, attached = run(how, False, tmp_path), run(how, True, tmp_path)
    assert [rank["parameters"] for rank in attached] == [rank["parameters"] for rank in bare]
    tables = [rank["table"] for rank in attached]
    for layer in ("0", "1", "2"):
        outs = [table[layer]["out"] for table in tables]
        assert sum(out["count"] for out in outs) == single[layer]["out"]["count"]
        norm = math.hypot(*(out["norm"] for out in outs))
        assert norm == pytest.approx(single[layer]["out"]["norm"], rel=1e-5)
        # Each rank's loss is the mean over its half: its gradients are twice those of the whole's mean.
        norm = math.hypot(*(table[layer]["grad"]["norm"] for table in tables)) / 2
        assert norm == pytest.approx(single[layer]["grad"]["norm"], rel=1e-5)
    for layer in ("0", "2"):
        for kind in ("param", "param_grad", "update"):
            norms = [table[layer][kind]["norm"] for table in tables]
            expected = single[layer][kind]["norm"]
            if how == "fsdp":  # each rank holds its shard
                assert math.hypot(*norms) == pytest.approx(expected, rel=1e-5)
            else:  # each holds the whole
                assert norms == pytest.approx([expected, expected], rel=1e-5)
