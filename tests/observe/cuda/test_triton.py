"""The Triton kernels without a device: interpreted on a CPU, and compiled for devices elsewhere."""

import importlib.util
import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from gradscope.observe import device_pass_name
from gradscope.observe.cuda.device_buffer import DeviceRowBuffer
from gradscope.observe.cuda.triton_buffer import open_row_buffer

HERE = Path(__file__).parent
needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None,
    reason="Triton is not installed: pip install 'gradscope[triton]' (Linux)",
)


def run(*arguments, tmp_path, **environment):
    whole = os.environ | {"TRITON_CACHE_DIR": str(tmp_path), **environment}
    answer = subprocess.run(
        [sys.executable, *map(str, arguments)],
        capture_output=True, text=True, env=whole, cwd=HERE.parents[2], timeout=1150, check=False,
    )  # fmt: skip
    assert answer.returncode == 0, answer.stdout + answer.stderr
    return answer.stdout


@pytest.mark.exhaustive
@pytest.mark.timeout(1200)
@needs_triton
def test_the_kernels_pass_their_tests_in_the_interpreter(tmp_path):
    answer = run(
        "-m", "pytest", "-q", "-p", "no:cacheprovider", HERE / "triton_interpreted.py",
        tmp_path=tmp_path, TRITON_INTERPRET="1",
    )  # fmt: skip
    assert " passed" in answer
    assert "skipped" not in answer


@pytest.mark.exhaustive
@pytest.mark.timeout(1200)
@needs_triton
@pytest.mark.skipif(platform.machine() != "x86_64", reason="seen on x86-64 only")
def test_the_kernels_compile_without_flushing_spilling_or_reading_narrowly(tmp_path):
    script = HERE / "triton_compiled.py"
    reports = json.loads(run(script, tmp_path=tmp_path, TRITON_INTERPRET="0"))
    assert len(reports) == 13
    for report in reports:
        assert not report["flushes"], report
        assert report["reads_wide"], report
        assert report["spilled_bytes"] == 0, report


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_without_a_cuda_device_the_eager_pass_is_taken_and_says_why():
    assert device_pass_name() == "eager: no CUDA device"
    assert isinstance(open_row_buffer(torch.device("cpu"), is_full=False), DeviceRowBuffer)


def test_observing_on_a_cpu_never_loads_triton():
    script = """
import sys, torch
from gradscope.observe import RowBuffer
buffer = RowBuffer()
buffer.add(buffer.row(0, "out"), torch.ones(3))
buffer.read_out().block()
print("triton" in sys.modules)
"""
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "False"
