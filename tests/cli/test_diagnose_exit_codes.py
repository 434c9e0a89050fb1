"""`gradscope diagnose` and `watch --once --tab findings` as processes: exit codes, crashes, and inputs with limits."""

import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from gradscope.recording import open_recording
from support import fork_server
from support.waiting import wait_for

pytestmark = pytest.mark.processes

TRAINING = """
import sys
import torch
from torch import nn
import gradscope
torch.manual_seed(0)
torch.set_num_threads(1)
how, path = sys.argv[1:]
model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
if how == "sick":
    model[2] = nn.Linear(8, 2)
trained = torch.compile(model, backend="eager") if how == "compiled" else model
scope = gradscope.attach(model, name=how, quiet=True, record=path, every=1)
for step in range(8):
    loss = trained(torch.randn(16, 4)).square().mean()
    optimizer.zero_grad()
    loss.backward()
    if how == "no-optimizer":
        scope.mark_step()
    else:
        optimizer.step()
    if how in ("healthy", "sick", "crash", "compiled"):
        scope.log(loss=loss)
    if how == "two-losses":
        scope.log(d_loss=loss, g_loss=-loss)
    if how == "crash" and step == 6:
        model(torch.randn(16, 5))
"""


def has_ended(path: Path) -> bool:
    if not path.exists():
        return False
    with open_recording(path) as recording:
        return recording.info.ended_s is not None


@pytest.fixture
def trained(places: Path, ended_hubs: None):
    """Train in a process of its own; return the recording when the hub has ended it."""

    def train(how: str) -> Path:
        path = places / f"{how}.gradscope"
        run = fork_server.run(
            [sys.executable, "-c", TRAINING, how, str(path)],
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=100,
        )  # fmt: skip
        assert (run.returncode != 0) == (how == "crash"), run.stderr
        wait_for(lambda: has_ended(path), "the end of the recording")
        return path

    return train


@pytest.fixture
def diagnosed(trained, gradscope):
    """Train; return the exit code and the JSON of the recording."""

    def diagnose(how: str):
        ran = gradscope("diagnose", str(trained(how)), "--json")
        return ran.returncode, json.loads(ran.stdout)

    return diagnose


def gaps(document):
    return {gap["what"]: gap for gap in document["checked"]["not_checked"]}


def test_a_healthy_run_ends_with_0_and_everything_was_checked(diagnosed):
    code, document = diagnosed("healthy")
    assert code == 0
    assert set(document) == {"version", "run", "verdict", "checked", "findings", "events"}
    assert (document["version"], document["run"], document["findings"]) == (1, "healthy", [])
    assert document["verdict"] == "healthy so far: nothing found in 8 steps (all observed)"
    assert gaps(document) == {}


def test_a_run_with_an_error_ends_with_1_by_name_and_by_path_and_names_the_page(diagnosed, gradscope):
    code, document = diagnosed("sick")
    assert code == 1
    first = document["findings"][0]
    assert (first["code"], first["severity"], first["layers"]) == ("stale-optimizer", "error", ["2"])
    assert first["page"] == "gradscope explain stale-optimizer"
    ran = gradscope("diagnose", "sick")
    assert ran.returncode == 1
    assert ran.stdout.startswith("error stale-optimizer: ")
    explained = gradscope(*first["page"].split()[1:])
    assert explained.returncode == 0
    assert "## How to fix it" in explained.stdout
    watched = gradscope("watch", "sick", "--once", "--tab", "findings")
    assert watched.returncode == 0
    assert watched.stdout.startswith("error stale-optimizer: ")
    table = gradscope("watch", "sick", "--once")
    assert table.stdout.startswith(" ✖ error stale-optimizer: ")


def test_a_run_that_crashed_is_diagnosed_with_the_exception(diagnosed):
    code, document = diagnosed("crash")
    assert code == 0
    assert "16x5" in json.dumps(document["events"])


@pytest.mark.parametrize(
    ("how", "what", "enable"),
    [
        ("no-optimizer", "optimizer and updates", "attach(model, optimizer)"),
        ("no-optimizer", "the loss", "scope.log(loss=loss)"),
        ("two-losses", "the sum of the losses", ""),
        ("compiled", "the graph of the loss", "without torch.compile"),
    ],
)
def test_what_cannot_be_checked_is_a_stated_limit(diagnosed, how, what, enable):
    code, document = diagnosed(how)
    assert code == 0
    assert what in document["verdict"]
    assert enable in gaps(document)[what]["enable"]


def test_wrong_usage_ends_with_2_and_no_such_run_with_3(places, gradscope):
    assert gradscope("diagnose").returncode == 2
    assert gradscope("explain", "no-such-code").returncode == 2
    for name in ("nope", "nope.gradscope"):
        ran = gradscope("diagnose", name)
        assert ran.returncode == 3, name
        assert ran.stderr.startswith("gradscope: ")
        assert not ran.stdout


def test_a_recording_of_another_schema_ends_with_3_and_says_what_to_do(trained, gradscope):
    path = trained("healthy")
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    ran = gradscope("diagnose", str(path))
    assert ran.returncode == 3
    assert "open it with the gradscope that wrote it" in ran.stderr


def test_a_recording_of_a_version_that_reported_no_coverage_says_so(trained, gradscope):
    path = trained("healthy")
    wait_for(lambda: gradscope("diagnose", str(path)).returncode == 0, "the recording is complete")
    with sqlite3.connect(path) as connection:
        connection.execute("DELETE FROM event")
    connection.close()
    ran = gradscope("diagnose", str(path))
    assert ran.returncode == 0
    assert ran.stdout.startswith("healthy so far: nothing found up to step 7; not checked: what newer")
    shown = gradscope("watch", "healthy", "--once", "--tab", "findings")
    assert "what newer versions check" in shown.stdout
