"""How a training process forks, spawns and ends: no hang, no orphan, no zombie, at most a second more."""

import os
import signal
import subprocess
import sys

import pytest

import gradscope
from gradscope.errors import GradscopeError
from gradscope.transport import ensure_hub, hub_address
from support import fork_server, hubs
from support.waiting import wait_for

pytestmark = [pytest.mark.processes, pytest.mark.usefixtures("ended_hubs")]

START = """
import atexit, os, signal, sys, time
ended = []
atexit.register(lambda: print("delay", time.monotonic() - ended[0] if ended else 0.0, flush=True))
import torch, gradscope, gradscope.errors
import torch.multiprocessing as multiprocessing
torch.set_num_threads(1)

class Data(torch.utils.data.Dataset):
    def __len__(self):
        return 64
    def __getitem__(self, index):
        return torch.full((2,), float(index))

def work(number):
    torch.ones(number).sum()
    return number

def train(batches, *, name="run", count=1, wait=True):
    models = [torch.nn.Linear(2, 2) for _ in range(count)]
    scopes = []
    for number, model in enumerate(models):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        scopes.append(gradscope.attach(model, optimizer, name=f"{name}{number or ''}", every=1))
        for batch in batches:
            model(batch).sum().backward()
            optimizer.step()
            optimizer.zero_grad()
    if wait:
        wait_until_listed(count)
    return models, scopes

def wait_until_listed(count):
    while True:
        try:
            with gradscope.connect(want="observe") as client:
                if len(client.runs()) >= count:
                    return
        except gradscope.errors.GradscopeError:
            time.sleep(0.05)

few = [torch.ones(1, 2)] * 20
if __name__ == "__main__":
    print("began", flush=True)
"""
WAYS = {
    "data loader workers": (0, "train(torch.utils.data.DataLoader(Data(), num_workers=2))"),
    "persistent workers that are alive at the end": (0, """
loader = torch.utils.data.DataLoader(Data(), num_workers=2, persistent_workers=True)
kept = train(loader)
iterator = iter(loader)
next(iterator)"""),
    "a spawned pool": (0, """
kept = train(few)
with multiprocessing.get_context("spawn").Pool(2) as pool:
    assert pool.map(abs, [-1, -2]) == [1, 2]"""),
    "a forked child that exits": (0, """
kept = train(few)
pid = os.fork()
if pid == 0:
    sys.exit(0)
assert os.waitpid(pid, 0)[1] == 0"""),
    "a forked child that trains": (0, """
kept = train(few)
pid = os.fork()
if pid == 0:
    kept[0][0](few[0]).sum().backward()
    os._exit(0)
assert os.waitpid(pid, 0)[1] == 0"""),
    "os._exit": (3, "kept = train(few); os._exit(3)"),
    "an exception": (1, "kept = train(few); raise ValueError('x')"),
    "sys.exit": (4, "kept = train(few); sys.exit(4)"),
    "SIGTERM": (-signal.SIGTERM, "kept = train(few); os.kill(os.getpid(), signal.SIGTERM); time.sleep(60)"),
    "SIGINT": (-signal.SIGINT, "kept = train(few); os.kill(os.getpid(), signal.SIGINT); time.sleep(60)"),
    "an end while the hub starts": (0, "kept = train(few[:1], wait=False)"),
}  # fmt: skip


QUICK = (
    "data loader workers",
    "a forked child that exits",
    "os._exit",
    "an exception",
    "an end while the hub starts",
)


def run(text: str, tmp_path) -> subprocess.CompletedProcess:
    script = tmp_path / "script.py"
    body = "\n".join("    " + line for line in text.strip().splitlines())
    script.write_text(f"{START}{body}\n    ended.append(time.monotonic())\n")
    return fork_server.run(
        [sys.executable, str(script)], capture_output=True, text=True, timeout=120, cwd=tmp_path
    )


def descendants() -> set[int]:
    """Return the processes of this test's children that are alive, except the hub."""
    text = subprocess.run(
        ["ps", "-eo", "pid=,args="], capture_output=True, text=True, check=True
    ).stdout
    lines = [line.split(None, 1) for line in text.splitlines()]
    return {int(pid) for pid, *args in lines if args and "script.py" in args[0]}


@pytest.mark.parametrize(
    "way",
    [pytest.param(way, marks=[] if way in QUICK else [pytest.mark.exhaustive], id=way) for way in WAYS],
)
def test_a_process_ends_as_without_gradscope(way, tmp_path, places):
    code, text = WAYS[way]
    done = run(text, tmp_path)
    assert done.returncode == code, done.stderr
    assert "began" in done.stdout
    assert "gradscope" not in "".join(
        line for line in done.stderr.splitlines() if not line.startswith("gradscope: watching")
    ), done.stderr
    wait_for(lambda: not descendants(), "the end of all processes")
    if way != "an end while the hub starts":
        with gradscope.connect(want="observe") as client:
            wait_for(lambda: not client.runs()[0].is_live, "the end of the run")
            assert len(client.runs()) == 1  # no worker has announced itself


def delay_s(done: subprocess.CompletedProcess) -> float:
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("delay")]
    return float(line.split()[1])


@pytest.mark.timing
@pytest.mark.parametrize("count", [1, 3])
def test_a_stopped_hub_delays_the_end_of_a_process_by_a_second_at_most(count, tmp_path):
    address = ensure_hub(timeout_s=60)
    pid = hubs.pid_of_hub(address)
    os.kill(pid, signal.SIGSTOP)
    try:
        done = run(f"kept = train(few, count={count}, wait=False)", tmp_path)
    finally:
        os.kill(pid, signal.SIGCONT)
    assert done.returncode == 0, done.stderr
    assert delay_s(done) < 1.0 + 0.1 * count + 0.2


@pytest.mark.exhaustive
def test_a_restarted_process_has_the_name_of_the_killed_one(tmp_path):
    """A notebook's kernel that is restarted, and torchrun that restarts its workers."""
    script = tmp_path / "script.py"
    script.write_text(
        START + "    kept = train(few)\n    print('trained', flush=True)\n    time.sleep(60)\n"
    )
    pids = []
    for _ in range(3):
        process = subprocess.Popen(
            [sys.executable, str(script)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        try:
            assert process.stdout.readline() == "began\n"
            assert process.stdout.readline() == "trained\n"
            pids.append(process.pid)

            def is_listed(process=process) -> bool:
                try:
                    with gradscope.connect(want="observe") as client:
                        return any(info.pid == process.pid and info.is_live for info in client.runs())
                except GradscopeError:
                    return False

            wait_for(is_listed, "the run")
        finally:
            process.kill()
            _, errors = process.communicate()
        assert "no live view" not in errors, errors
    assert len(set(pids)) == 3


WORKER = """
import os, sys, torch, gradscope
restart = int(os.environ["TORCHELASTIC_RESTART_COUNT"])
model = torch.nn.Linear(2, 2)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
gradscope.attach(model, optimizer, every=1)
for step in range(20):
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    optimizer.zero_grad()
    if restart == 0 and step == 10:
        os._exit(1)
"""


@pytest.mark.exhaustive
def test_workers_that_torchrun_restarts_are_one_run(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(WORKER)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*command, "--max-restarts", "1", str(script)], capture_output=True, text=True, timeout=200, check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "no live view" not in done.stderr, done.stderr
    wait_for(lambda: not descendants(), "the end of all processes")
    with gradscope.connect(want="observe") as client:
        assert len({info.run for info in client.runs()}) == 1


def test_a_hub_is_not_a_child_of_the_training_and_a_killed_one_is_replaced(tmp_path):
    done = run("""
kept = train(few)
from gradscope.transport import hub_address, ensure_hub
from gradscope.transport.probe import hub_pid
import subprocess
pid = hub_pid(ensure_hub(timeout_s=60))
listed = subprocess.run(["ps", "-o", "pid=", "--ppid", str(os.getpid())], capture_output=True, text=True)
print("children", listed.stdout.split(), pid)
os.kill(pid, signal.SIGKILL)
until = time.monotonic() + 60
while pid == hub_pid(hub_address()) or hub_pid(hub_address()) is None:
    assert time.monotonic() < until
    time.sleep(0.05)
""", tmp_path)  # fmt: skip
    assert done.returncode == 0, done.stderr
    line = next(line for line in done.stdout.splitlines() if line.startswith("children"))
    children, pid = line.removeprefix("children ").rsplit(" ", 1)
    assert pid not in children
    assert hubs.pid_of_hub(hub_address()) != int(pid)
