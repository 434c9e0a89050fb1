"""Each benchmark runs to its end. Its figures are not checked: they depend on the machine."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.exhaustive, pytest.mark.processes]

ROOT = Path(__file__).parents[2]

SHORT = {
    "anatomy": [],
    "attach": ["--workloads", "small", "--turns", "1"],
    "cuda": ["--dry", "--minutes", "1"],
    "frames": ["--layers", "6", "--workloads", "small"],
    "growth": ["--quick"],
    "link": ["--agents", "2", "--layers", "10", "--duration", "1"],
    "memory": ["--layers", "10"],
    "overhead": ["--workloads", "two", "--seconds", "0.1"],
    "passes": ["--sizes", "100", "--seconds", "0.01"],
    "peers": ["--workloads", "small", "--seconds", "0.1"],
    "quiet_rules": ["--steps", "30"],
    "recorder": ["--seconds", "0.5"],
    "recording": ["--steps", "20", "--size-mb", "1"],
    "resources": ["--workloads", "small", "--seconds", "0.1"],
    "steady": ["--workloads", "small", "--seconds", "1"],
    "tui_layers": ["--layers", "20", "--seconds", "0.5"],
    "worst": ["--workloads", "small", "--seconds", "0.1"],
}
NOT_RUN_BY_ITSELF = {
    "chains",
    "cuda_models",
    "growth_plot",
    "rank_growth",
    "settings",
    "turns",
    "workloads",
}


def run(name, *options):
    started = [sys.executable, "-m", f"benchmarks.{name}", *SHORT[name], *options]
    return subprocess.run(
        started, cwd=ROOT, capture_output=True, text=True, timeout=280, check=False, env=os.environ
    )


def test_every_benchmark_is_run():
    assert {
        each.stem for each in (ROOT / "benchmarks").glob("*.py")
    } == SHORT.keys() | NOT_RUN_BY_ITSELF


@pytest.mark.parametrize("name", SHORT)
def test_a_benchmark_runs_to_its_end(name, places, tmp_path):
    result = run(name, *(["--json", str(tmp_path / "growth.json")] if name == "growth" else []))
    assert result.returncode == 0, result.stdout + result.stderr


def test_a_dry_run_of_the_cuda_benchmark_finds_no_fault_and_says_what_it_did_not_measure(
    places, tmp_path
):
    path = tmp_path / "cuda.json"
    result = run("cuda", "--json", str(path))
    report = json.loads(path.read_text())
    assert result.returncode == 0, result.stdout
    assert "dry run" in report["about"]["device"]
    held = {name for name, outcome in report["outcomes"].items() if outcome == "held"}
    assert {"eager/harmless", "eager/truth", "eager/bandwidth"} <= held
    rest = [outcome for name, outcome in report["outcomes"].items() if name not in held]
    assert rest
    assert all(outcome.startswith("not measured: ") for outcome in rest)
    assert {row["is_same"] for row in report["figures"]["eager/harmless"]} == {True}
