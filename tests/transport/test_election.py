import os
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from gradscope.errors import LinkError, UnsafePathError
from gradscope.protocol import Hello
from gradscope.transport import HubAddress, Link, ensure_hub, hub_address, hub_answers, hub_listens

RACERS = 12

JOIN = """
import os, sys
from gradscope.protocol import Hello
from gradscope.transport import Link, ensure_hub
sys.stdin.readline()
name = sys.argv[1]
with Link(ensure_hub(timeout_s=30).agents, Hello(role="agent", peer=name, run=name)) as link:
    while link.state.phase != "up":
        link.receive(1)
    print(link.state.epoch, flush=True)
    sys.stdin.readline()
"""


def test_a_hub_is_started_and_answers(hub: HubAddress, hub_pid: Callable[[], int]) -> None:
    assert hub_listens(hub)
    assert hub_answers(hub, 5.0)
    assert ensure_hub() == hub
    assert stat.S_IMODE(hub.directory.stat().st_mode) == 0o700
    assert os.getsid(hub_pid()) != os.getsid(0)
    assert Path(f"/proc/{hub_pid()}/cwd").readlink() == Path("/")


def test_a_hub_is_started_repeatedly_also_over_the_files_of_a_killed_one(
    places: Path, ended_hubs: None, hub_pid: Callable[[], int], wait_until: Callable[..., None]
) -> None:
    for attempt in range(5):
        with Link(ensure_hub().agents, Hello(role="agent", peer="a", run="r")) as link:
            while link.state.phase != "up":  # the test's own time limit ends a wait without end
                link.receive(1.0)
        os.kill(hub_pid(), signal.SIGKILL)
        wait_until(lambda: not hub_listens(hub_address()), f"the end of hub {attempt}")


def test_processes_that_start_at_once_share_one_hub(places: Path, ended_hubs: None) -> None:
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", JOIN, f"racer-{i}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for i in range(RACERS)
    ]
    try:
        for racer in racers:
            assert racer.stdin is not None
            racer.stdin.write("go\n")
            racer.stdin.flush()
        epochs = [racer.stdout.readline() for racer in racers if racer.stdout is not None]
    finally:
        for racer in racers:
            racer.communicate("end\n")
    assert len(epochs) == RACERS
    assert len(set(epochs)) == 1
    assert len(epochs[0].strip()) == 32


def test_of_hubs_started_by_hand_one_stays_and_the_others_exit_without_error(
    places: Path, ended_hubs: None, wait_until: Callable[..., None]
) -> None:
    hubs = [
        subprocess.Popen([sys.executable, "-m", "gradscope.hub"], stderr=subprocess.PIPE)
        for _ in range(4)
    ]
    try:
        wait_until(lambda: [h.poll() for h in hubs].count(0) == 3, "three hubs to give way")
        assert hub_answers(hub_address(), 5.0)
    finally:
        for hub in hubs:
            hub.terminate()
            hub.communicate()


def test_the_hub_does_not_hold_the_streams_of_the_process_that_started_it(
    places: Path, ended_hubs: None
) -> None:
    """As in `python train.py | cat`, which would wait for the hub."""
    script = "from gradscope.transport import ensure_hub; ensure_hub(); print('done')"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=30, check=True
    )
    assert done.stdout == "done\n"
    assert done.stderr == ""
    assert hub_listens(hub_address())


def test_a_module_in_the_users_directory_is_not_imported_by_the_hub(
    places: Path, ended_hubs: None, tmp_path: Path
) -> None:
    (tmp_path / "queue.py").write_text("raise SystemExit('the wrong queue')")
    script = "import sys; sys.path.pop(0)\nfrom gradscope.transport import ensure_hub; ensure_hub()"
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, timeout=30, check=True)
    assert hub_answers(hub_address(), 5.0)


def test_the_hub_loads_neither_torch_nor_numpy_nor_sqlite(
    hub: HubAddress, hub_pid: Callable[[], int]
) -> None:
    maps = Path(f"/proc/{hub_pid()}/maps").read_text(encoding="utf-8")
    assert "zmq" in maps
    assert not [name for name in ("torch", "numpy", "sqlite") if name in maps]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda path: path.mkdir(mode=0o755), "open to other users"),
        (lambda path: path.symlink_to("/tmp"), "symbolic link"),
        (lambda path: path.write_text(""), "must be a directory, not a symbolic link or a file"),
    ],
    ids=["open to others", "a symbolic link", "a file"],
)
def test_an_unsafe_runtime_directory_is_refused(
    places: Path, make: Callable[[Path], object], words: str
) -> None:
    make(places / "run")
    with pytest.raises(UnsafePathError, match=words):
        ensure_hub()


def test_a_runtime_directory_that_cannot_be_made_is_reported_with_what_to_set(
    places: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRADSCOPE_RUNTIME_DIR", "/proc/gradscope")
    with pytest.raises(UnsafePathError, match=r"cannot create.*set GRADSCOPE_RUNTIME_DIR"):
        ensure_hub()


def test_a_hub_that_cannot_start_is_reported_with_its_last_output(
    places: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\necho 'no such library' >&2\nexit 3\n")
    broken.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(broken))
    with pytest.raises(LinkError, match=r"could not start \(exit code 3\).*no such library"):
        ensure_hub()


def test_a_stopped_hub_is_named_with_what_to_do(hub: HubAddress, hub_pid: Callable[[], int]) -> None:
    pid = hub_pid()
    os.kill(pid, signal.SIGSTOP)
    try:
        with pytest.raises(
            LinkError, match=rf"process {pid}\) did not answer in 0.5 s.*kill -CONT {pid}"
        ):
            ensure_hub(timeout_s=0.5)
    finally:
        os.kill(pid, signal.SIGCONT)
    assert ensure_hub() == hub


def test_the_socket_of_a_killed_hub_does_not_hinder_the_next(
    hub: HubAddress, hub_pid: Callable[[], int], wait_until: Callable[..., None]
) -> None:
    first = hub_pid()
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: not hub_listens(hub), "the hub's end")
    assert hub.viewers_path.exists()
    ensure_hub()
    assert hub_pid() != first


def test_a_long_log_is_emptied_at_the_next_start(places: Path, ended_hubs: None) -> None:
    log = places / "run" / "hub.log"
    log.parent.mkdir(mode=0o700, parents=True)
    log.write_bytes(b"x" * 300_000)
    ensure_hub()
    assert log.stat().st_size < 1_000
