"""Puts this folder on `sys.path`, so that tests and benchmarks share `synthetic_run`; starts agents."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support import fork_server

sys.path.append(str(Path(__file__).parent))

_AGENT = Path(__file__).parent / "synthetic_agent.py"


@pytest.fixture
def agent(ended_hubs: None) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Starts processes that behave as a training process does."""
    started: list[subprocess.Popen[bytes]] = []

    def start(run: str, *, rate: float = 20.0) -> subprocess.Popen[bytes]:
        command = [sys.executable, str(_AGENT), run, "--rate", str(rate), "--seconds", "100"]
        started.append(fork_server.Popen(command, env=dict(os.environ)))
        return started[-1]

    yield start
    for process in started:
        process.terminate()
        process.wait(10)
