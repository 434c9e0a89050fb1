"""A training, its hub and a viewer at full rate: `soak.py [SECONDS]`. Their memory and descriptors must not grow.

After a third of the time, the warm-up, the median of the resident memory of each process in the second third is
compared with that in the last: it may grow by at most 5 %. Exit code 1 if one grows more, or opens descriptors.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from gradscope.client import connect
from gradscope.errors import GradscopeError
from gradscope.transport import hub_address
from gradscope.transport.lock import HUB_LOCK, holder_pid

GROWTH_LIMIT = 0.05
DEFAULT_S = 1_800.0

TRAINING = """
import torch, gradscope
torch.set_num_threads(1)
model = torch.nn.Sequential(*[torch.nn.Linear(16, 16) for _ in range(20)])
optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
scope = gradscope.attach(model, optimizer, name="soak", every=1)
data = torch.randn(8, 16)
while True:
    loss = model(data).square().mean()
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    scope.log(loss=loss)
"""
VIEWER = """
import gradscope
with gradscope.connect("soak", want="observe") as client:
    client.watch("soak", max_rate_hz=1000.0)
    while True:
        client.receive(1.0)
"""


def main(duration_s: float) -> int:
    """Run for `duration_s`, and print the memory of each process. Return the exit code."""
    directory = Path(tempfile.mkdtemp(prefix="gs-", dir="/tmp"))
    os.environ |= {
        "GRADSCOPE_RUNTIME_DIR": str(directory / "run"),
        "GRADSCOPE_DATA_DIR": str(directory / "data"),
    }
    processes = [subprocess.Popen([sys.executable, "-c", TRAINING], stderr=subprocess.DEVNULL)]
    try:
        hub = hub_when_listed()
        processes.append(subprocess.Popen([sys.executable, "-c", VIEWER]))
        pids = {"training": processes[0].pid, "hub": hub, "viewer": processes[1].pid}
        samples = watch(pids, duration_s)
        steps, counters = counted()
    finally:
        for process in processes:
            process.kill()
            process.wait()
    print(f"{steps} steps in {duration_s:g} s; hub: {counters}")
    return judge(samples)


def hub_when_listed() -> int:
    """Return the hub's process id when it lists the run."""
    deadline_s = time.monotonic() + 60
    while time.monotonic() < deadline_s:
        try:
            with connect("soak", want="observe") as client:
                client.latest()
        except GradscopeError:
            time.sleep(0.1)
            continue
        pid = holder_pid(hub_address().directory / HUB_LOCK)
        assert pid is not None
        return pid
    raise SystemExit("the training has not appeared within 60 s")


def watch(pids: dict[str, int], duration_s: float) -> dict[str, list[tuple[float, int]]]:
    """Return the memory in megabytes, and the open descriptors, of each process once a second."""
    samples: dict[str, list[tuple[float, int]]] = {name: [] for name in pids}
    until_s = time.monotonic() + duration_s
    while time.monotonic() < until_s:
        for name, pid in pids.items():
            status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
            line = next(line for line in status.splitlines() if line.startswith("VmRSS"))
            descriptors = sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())
            samples[name].append((int(line.split()[1]) / 1024, descriptors))
        time.sleep(1.0)
    return samples


def counted() -> tuple[int, dict[str, int]]:
    """Return the newest step and the hub's counters."""
    with connect("soak", want="observe") as client:
        (info,) = client.runs()
        return (info.step or 0) + 1, info.counters


def judge(samples: dict[str, list[tuple[float, int]]]) -> int:
    """Print the growth of each process. Return 1 if one has grown too much."""
    code = 0
    for name, all_samples in samples.items():
        third = len(all_samples) // 3
        middle, last = all_samples[third : 2 * third], all_samples[2 * third :]
        before, after = (statistics.median(mb for mb, _ in part) for part in (middle, last))
        opened = statistics.median(fds for _, fds in last) - statistics.median(fds for _, fds in middle)
        growth = after / before - 1
        print(
            f"{name}: {before:.1f} MB, then {after:.1f} MB ({growth:+.1%}); descriptors {opened:+.0f}"
        )
        if growth > GROWTH_LIMIT or opened > 0:
            code = 1
    return code


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1]) if len(sys.argv) > 1 else DEFAULT_S))
