"""The commands on a run of another machine: keys, `gradscope serve`, and `tcp://HOST:PORT/RUN`."""

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest

from support import fork_server


@pytest.fixture(scope="module")
def remote(live):
    """A training on one machine, `gradscope serve` there, and a laptop with two keys: `boss` and `guest`."""
    root = Path(tempfile.mkdtemp(prefix="gs-", dir="/tmp"))
    laptop = live.environment | {
        "GRADSCOPE_RUNTIME_DIR": str(root / "run"),
        "GRADSCOPE_DATA_DIR": str(root / "data"),
    }

    def there(*arguments):
        ran = live.gradscope(*arguments, "--json")
        assert ran.returncode == 0, ran.stderr
        return json.loads(ran.stdout)

    def here(*arguments, key="boss"):
        return fork_server.run(
            [sys.executable, "-m", "gradscope", *arguments],
            preload=["gradscope.cli.app"], env=laptop | {"GRADSCOPE_KEY": key}, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, timeout=100, check=False,
        )  # fmt: skip

    for name, role in (("boss", "control"), ("guest", "observe")):
        made = json.loads(here("key", "new", name, "--json").stdout)
        done = there("key", "authorize", made["curve_publickey"], "--name", name, "--role", role)
        assert (done["name"], done["role"]) == (name, role)
    process = fork_server.Popen(
        [sys.executable, "-m", "gradscope", "serve", "--bind", "tcp://127.0.0.1:0"],
        preload=["gradscope.cli.app", "gradscope.hub.network.gateway"],
        env=live.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    line = process.stdout.readline()
    address, public = line.split()[2].rstrip(","), line.split()[-1]
    assert public == done["server_publickey"]
    yield SimpleNamespace(address=address, public=public, here=here, there=there, process=process)
    process.terminate()
    assert process.wait(60) == 0
    printed = process.stderr.read()
    assert f"To watch: gradscope watch {address}. Ctrl+C ends it" in printed
    assert "gradscope: boss (control) has connected, from '" in printed
    assert "gradscope: guest (observe) has disconnected" in printed
    process.stdout.close()
    process.stderr.close()
    shutil.rmtree(root, ignore_errors=True)


def test_a_run_of_another_machine_is_watched_and_changed_with_keys(remote):
    here, address = remote.here, remote.address
    first = here("ls", address)
    assert (first.returncode, first.stdout) == (2, "")
    assert f"gradscope key authorize PUBLICKEY --server {address}" in first.stderr
    assert here("key", "authorize", remote.public, "--server", address).returncode == 0

    listed = json.loads(here("ls", address, "--json").stdout)
    assert [run["run"] for run in listed["runs"]] == ["tiny"]
    assert listed["runs"][0]["recording"] is None  # it is on that machine
    watched = here("watch", address, "--once")
    assert "fc1" in watched.stdout
    assert here("watch", address, "--once", key="guest").stdout.startswith(watched.stdout[:4])
    assert json.loads(here("snapshot", f"{address}/tiny", "--json").stdout)["run"] == "tiny"
    assert json.loads(here("diagnose", address, "--json").stdout)["run"] == "tiny"

    clipped = here("clip", f"{address}/tiny", "fc1", "--max-norm", "0.5", "--keep")
    assert clipped.returncode == 0, clipped.stderr
    remove = clipped.stdout.splitlines()[-1].rpartition("gradscope ")[2].split()
    assert remove[:2] == ["remove", f"{address}/tiny"]
    (entry,) = remote.there("interventions", "tiny")["interventions"]
    assert entry["set_by"].startswith("key boss: ")
    refused = here("remove", f"{address}/tiny", "--all", key="guest")
    assert (refused.returncode, refused.stdout) == (4, "")
    assert "'guest' may only observe" in refused.stderr
    assert len(remote.there("interventions", "tiny")["interventions"]) == 1
    assert here(*remove).returncode == 0
    assert remote.there("interventions", "tiny")["interventions"] == []

    assert remote.there("key", "revoke", "guest")["role"] == "observe"
    gone = here("ls", address, key="guest")
    assert (gone.returncode, gone.stdout) == (3, "")
    assert "not authorized there" in gone.stderr


def test_recordings_of_another_machine_are_named_as_such(remote):
    for arguments in (
        ["report", f"{remote.address}/tiny", "-o", "x.html"],
        ["replay", f"{remote.address}/tiny"],
    ):
        ran = remote.here(*arguments)
        assert ran.returncode == 3
        assert "is on the machine of the run" in ran.stderr


def test_the_environment_chooses_the_hub_for_viewers_and_not_for_trainings(live, gradscope):
    environment = live.environment | {"GRADSCOPE_HUB": "tcp://127.0.0.1:1"}
    shown = json.loads(gradscope("config", "--json", environment=environment).stdout)
    assert shown["hub"] == "tcp://127.0.0.1:1, as GRADSCOPE_HUB says"
    script = """
import logging, torch, gradscope
model = torch.nn.Linear(2, 2)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
scope = gradscope.attach(model, optimizer, record=False)
model(torch.ones(1, 2)).sum().backward()
optimizer.step()
scope.detach()
print(scope.step)
"""
    ran = fork_server.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
    )
    assert ran.stdout == "1\n"
    assert "tcp://127.0.0.1:1 is for viewers only" in ran.stderr
    assert "Training continues" in ran.stderr


def test_the_keys_are_listed_with_their_roles(remote):
    rows = {(key["name"], key["role"]) for key in remote.there("key", "list")["keys"]}
    assert {("server", "own"), ("boss", "control")} <= rows
    ran = remote.here("key", "list")
    assert ran.returncode == 0
    assert "boss" in ran.stdout
    assert "own" in ran.stdout
