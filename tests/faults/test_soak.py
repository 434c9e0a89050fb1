"""A minute at full rate. `make soak` does the same for 30 minutes."""

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.exhaustive
def test_memory_and_descriptors_stay_flat_for_a_minute():
    command = [sys.executable, str(Path(__file__).with_name("soak.py")), "60"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
