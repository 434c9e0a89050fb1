"""The command as a process, and a training that it can be used on."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from gradscope.transport import hub_address
from support import fork_server
from support.hubs import end_hub
from support.waiting import wait_for

TRAINING = """
import sys, time
import torch
import gradscope
torch.set_num_threads(1)
model = torch.nn.Sequential()
for name in ("fc1", "act", "fc2"):
    model.add_module(name, torch.nn.Tanh() if name == "act" else torch.nn.Linear(4, 4))
optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
scope = gradscope.attach(model, optimizer, name=sys.argv[1], quiet=True)
def amplify(gradient, *, gain: float = 2.0, is_off: bool = False):
    "Make the gradient larger."
    return gradient if is_off else gradient * gain
gradscope.register_intervention("amplify", amplify, ranges={"gain": (0.0, 10.0)})
while True:
    loss = model(torch.ones(2, 4)).sum()
    optimizer.zero_grad()
    loss.backward()
    scope.log(loss=loss)
    optimizer.step()
    time.sleep(0.01)
"""


TYPER = ("pydantic.json_schema", "pydantic.type_adapter", "pydantic.types")
"""What typer imports when a command begins."""


@contextmanager
def started_training(name: str, environment: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """A small training in its own process, listed by the hub, until the block ends."""
    process = fork_server.Popen([sys.executable, "-c", TRAINING, name], env=environment)
    try:
        wait_for(lambda: name in command("ls", environment=environment).stdout, f"run {name}", 100)
        yield process
    finally:
        process.kill()
        process.wait(10)


def command(
    *arguments: str, environment: dict[str, str] | None = None, timeout_s: float = 110
) -> subprocess.CompletedProcess[str]:
    """Run `gradscope` with pipes for streams, in a forked process."""
    return fork_server.run(
        [sys.executable, "-m", "gradscope", *arguments],
        preload=["gradscope.cli.app", "gradscope.recording", *TYPER],
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=timeout_s,
        check=False,
    )


@pytest.fixture
def gradscope() -> Callable[..., subprocess.CompletedProcess[str]]:
    """The command, with the places of the test's own environment."""
    return command


@pytest.fixture(scope="module")
def live() -> Iterator[SimpleNamespace]:
    """A training named `tiny`, with places of its own, for all tests of a file."""
    root = Path(tempfile.mkdtemp(prefix="gs-", dir="/tmp"))
    environment = os.environ | {
        "GRADSCOPE_RUNTIME_DIR": str(root / "run"),
        "GRADSCOPE_DATA_DIR": str(root / "data"),
        "GRADSCOPE_HUB_IDLE_S": "120",
        "TERM": "xterm-256color",
    }
    environment.pop("GRADSCOPE_HUB", None)
    with started_training("tiny", environment) as process:
        yield SimpleNamespace(
            process=process,
            environment=environment,
            gradscope=lambda *arguments: command(*arguments, environment=environment),
            started_training=lambda name: started_training(name, environment),
            wait_until=wait_for,
        )
    end_hub(hub_address(environment["GRADSCOPE_RUNTIME_DIR"]))
    shutil.rmtree(root, ignore_errors=True)
