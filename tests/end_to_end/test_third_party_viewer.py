"""The example that implements the wire from its specification shows the numbers of a real training."""

import ast
import re
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import gradscope
from support import fork_server
from support.waiting import wait_for

pytest.importorskip("msgpack", reason="the example needs the package msgpack")

VIEWER = Path(__file__).parents[2] / "examples" / "third_party_viewer.py"


def test_the_viewer_imports_pyzmq_and_msgpack_alone():
    tree = ast.parse(VIEWER.read_text(encoding="utf-8"))
    names = {
        alias.name.partition(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for alias in node.names
    }
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    assert names - sys.stdlib_module_names == {"zmq", "msgpack"}


def test_its_table_has_the_numbers_of_plain_hooks_until_the_run_ends(hub, tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    measured: dict[tuple[str, int], list[float]] = {}

    def measure(name):
        def hook(_module, _inputs, output):
            numbers = measured.setdefault((name, step), [])
            rms = output.detach().double().square().mean().sqrt()
            output.register_hook(lambda grad: numbers.extend((grad.double().norm().item(), rms.item())))

        return hook

    for name, module in model.named_children():
        module.register_forward_hook(measure(name))
    shown = tmp_path / "shown"
    rows = re.compile(r"^(\d) +(\S+) +(\S+) +(\d+)$", re.MULTILINE)
    step = 0

    def next_step():
        nonlocal step
        optimizer.zero_grad()
        model(torch.randn(16, 4)).square().mean().backward()
        optimizer.step()
        step += 1
        return len(rows.findall(shown.read_text())) >= 9

    with (
        shown.open("w") as stdout,
        fork_server.Popen([sys.executable, VIEWER, "watched"], stdout=stdout) as viewer,
    ):
        try:
            with gradscope.attach(model, optimizer, name="watched", every=1, quiet=True):
                wait_for(next_step, "three tables")
            assert viewer.wait(20) == 0
        finally:
            viewer.kill()
    found = rows.findall(shown.read_text())
    for name, norm, rms, at in found:
        assert [float(norm), float(rms)] == pytest.approx(measured[name, int(at)], rel=1e-5)
    assert {name for name, *_ in found} == {"0", "1", "2"}
