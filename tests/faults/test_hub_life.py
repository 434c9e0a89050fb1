"""The life of a hub: many agents at once, what a killed one has left, disks and homes that cannot be written."""

import os
import resource
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import gradscope
from gradscope.errors import LinkError, UnsafePathError
from gradscope.protocol import Event, Manifest, pack_layers
from gradscope.transport import Link, ensure_hub, hub_address, hub_answers
from gradscope.transport.lock import HUB_LOCK, START_LOCK
from support import attacks, fork_server, hubs
from support.waiting import wait_for

pytestmark = pytest.mark.processes

ATTACHED = """
import torch, gradscope, sys, time
model = torch.nn.Linear(2, 2)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
gradscope.attach(model, optimizer, name=sys.argv[1], every=1)
end_s = time.monotonic() + float(sys.argv[2])
while time.monotonic() < end_s:
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    optimizer.zero_grad()
    time.sleep(0.01)
print("trained")
"""


def train(name: str, folder: Path) -> subprocess.CompletedProcess:
    script = folder / "script.py"
    script.write_text(ATTACHED)
    return fork_server.run(
        [sys.executable, str(script), name, "0.5"], capture_output=True, text=True, timeout=120
    )


@pytest.mark.usefixtures("ended_hubs")
def test_20_agents_that_start_at_once_share_one_hub_and_none_is_lost():
    count = 20
    start = threading.Barrier(count)
    pids, failures = set(), []

    def join(number: int) -> None:
        start.wait(60)
        try:
            address = ensure_hub(timeout_s=60)
            with Link(address.agents, attacks.agent_hello(f"run {number}", f"agent {number}")) as link:
                wait_for(
                    lambda: link.receive(0.05) is not None and link.state.phase == "up", "the link"
                )
                pids.add(hubs.pid_of_hub(address))
                done.wait(60)
                while not over.is_set():
                    link.receive(0.05)
        except Exception as error:  # noqa: BLE001 - reported below
            failures.append(error)

    done, over = threading.Barrier(count + 1), threading.Event()
    threads = [threading.Thread(target=join, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    try:
        done.wait(60)
        with gradscope.connect(want="observe") as client:
            live = {info.run for info in client.runs() if info.is_live}
    finally:
        over.set()
        for thread in threads:
            thread.join()
    assert failures == []
    assert len(pids) == 1
    assert live == {f"run {number}" for number in range(count)}


def test_a_hub_starts_over_the_files_of_a_killed_one_and_the_process_id_of_a_stranger(
    places, ended_hubs
):
    address = ensure_hub(timeout_s=60)
    pid = hubs.pid_of_hub(address)
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: not hubs.is_alive(pid), "the end of the hub")
    assert address.agents_path.exists()
    assert address.viewers_path.exists()
    # Since then another program was given the number of the hub's process.
    (address.directory / HUB_LOCK).write_text(f"{os.getpid()} 0 0\n")
    (address.directory / START_LOCK).write_text("stale\n")
    again = ensure_hub(timeout_s=60)
    assert again == address
    assert hub_answers(again, 60)
    assert hubs.pid_of_hub(again) not in (pid, os.getpid())


def test_an_agent_of_a_newer_protocol_is_refused_with_both_versions_and_the_hub_continues(
    hub, bring_up
):
    served = attacks.Served(hub, bring_up)
    with Link(hub.agents, attacks.agent_hello("new", "new agent", protocol=2, version="9.9")) as link:
        wait_for(lambda: link.receive(0.05) is not None and link.state.phase == "refused", "a refusal")
        assert "speaks version 1" in link.state.reason
        assert "got 2 (gradscope 9.9)" in link.state.reason
    assert served.check()["refused"] == 1


def test_a_run_whose_process_id_now_belongs_to_another_process_ends_by_its_silence(hub, bring_up):
    """The hub cannot see that the process is gone, and must not wait for ever."""
    stranger = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        import socket

        hello = attacks.agent_hello("r", "gone", pid=stranger.pid, host=socket.gethostname())
        link = bring_up(hub.agents, hello)
        link.close()  # without a bye, as a killed process
        served = attacks.Served(hub, bring_up)
        listed = wait_for(
            lambda: [i for i in served.listing().runs if i.run == "r" and not i.is_live], "the end"
        )
        assert "exists, but has sent nothing" in listed[0].reason
    finally:
        stranger.communicate()


def records(hub, bring_up, path: Path, *, size: int = 100_000, until) -> None:
    """Let an agent record to `path` until `until(events)` is true."""
    agent = bring_up(hub.agents, attacks.agent_hello("r", "agent", record=str(path)))
    viewer = bring_up(hub.viewers, attacks.viewer_hello())
    from gradscope.protocol import Subscribe

    viewer.send(Subscribe(run="r"))
    agent.send(Manifest(run="r", rank=0, revision=1, model="Net", body=pack_layers([])))
    events: list[Event] = []
    number = 0

    def is_done() -> bool:
        nonlocal number
        number += 1
        text = os.urandom(size // 2).hex()
        agent.send(Event(run="r", rank=0, step=number, time_s=1.0, level="info", code="own", text=text))
        agent.receive(0)
        events.extend(m for m in viewer.receive(0.05) if isinstance(m, Event))
        return until(events)

    wait_for(is_done, "the events")


def has_stopped_and_continues(events) -> bool:
    codes = [event.code for event in events]
    return "recording_stopped" in codes and "own" in codes[codes.index("recording_stopped") :]


@pytest.mark.skipif(os.getuid() != 0, reason="only root can mount a small file system")
def test_a_full_disk_ends_the_recording_with_an_event_and_the_live_view_continues(
    places, hub, bring_up, tmp_path
):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"cannot mount a small file system: {mounted.stderr.decode()}")
    try:
        records(hub, bring_up, disk / "r.gradscope", until=has_stopped_and_continues)
        assert hub_answers(hub, 60)
    finally:
        hubs.end_hub(hub)
        subprocess.run(["umount", str(disk)], check=True)


def test_a_file_that_may_not_grow_ends_the_recording_and_not_the_hub(
    places, bring_up, ended_hubs, tmp_path
):
    """RLIMIT_FSIZE, as a disk quota: it holds for the hub's log, too."""
    address = hub_address()

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))

    command = [sys.executable, "-P", "-m", "gradscope.hub", "--detach"]
    subprocess.run(command, preexec_fn=limit, check=True, timeout=60)
    records(address, bring_up, tmp_path / "r.gradscope", until=has_stopped_and_continues)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can mount a small file system")
def test_a_hub_starts_and_serves_on_a_full_runtime_directory(places, bring_up, ended_hubs):
    directory = places / "run"
    directory.mkdir(mode=0o700)
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k,mode=0700", "tmpfs", str(directory)]
    mounted = subprocess.run(mount, capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip(f"cannot mount a small file system: {mounted.stderr.decode()}")
    try:
        with (directory / "full").open("wb", buffering=0) as file:
            try:
                while file.write(b"x" * 4096):
                    pass
            except OSError:
                pass
        hub = ensure_hub(timeout_s=60)
        attacks.Served(hub, bring_up).check()
        pid = int(
            subprocess.run(
                ["pgrep", "-f", f"hub --detach {directory}"], capture_output=True, check=True
            ).stdout
        )
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda: not hubs.is_alive(pid), "the end of the hub")
    finally:
        subprocess.run(["umount", "-l", str(directory)], check=True)


@pytest.mark.usefixtures("ended_hubs")
def test_without_a_home_recordings_have_an_absolute_path(places, monkeypatch):
    environment = {
        key: value for key, value in os.environ.items()
        if key not in ("HOME", "XDG_RUNTIME_DIR", "XDG_DATA_HOME", "GRADSCOPE_DATA_DIR", "USER", "LOGNAME")
    }  # fmt: skip
    code = "import os, sys; from gradscope.paths import data_dir; os.setuid(int(sys.argv[1])); print(data_dir())"
    # A user without an entry in /etc/passwd, as in a container.
    for user in {os.getuid(), 54_321 if os.getuid() == 0 else os.getuid()}:
        command = [sys.executable, "-c", code, str(user)]
        answer = subprocess.run(
            command, env=environment, capture_output=True, text=True, check=True, timeout=60
        )
        assert Path(answer.stdout.strip()).is_absolute(), answer.stdout


def test_a_home_that_cannot_be_written_costs_the_recording_and_not_the_run(
    places, ended_hubs, hub, bring_up
):
    locked = places / "file"
    locked.write_text("")
    records(hub, bring_up, locked / "r.gradscope", size=100, until=has_stopped_and_continues)


@pytest.mark.usefixtures("places")
def test_a_path_of_107_bytes_is_refused_with_what_to_set_and_the_training_continues(
    monkeypatch, tmp_path
):
    directory = "/tmp/" + "d" * (107 - len("/tmp//viewers.sock"))
    assert len(f"{directory}/viewers.sock") == 107
    monkeypatch.setenv("GRADSCOPE_RUNTIME_DIR", directory)
    with pytest.raises(UnsafePathError, match="set GRADSCOPE_RUNTIME_DIR to a shorter directory"):
        ensure_hub()
    done = train("long", tmp_path)
    assert done.returncode == 0
    assert "trained" in done.stdout
    assert done.stderr.count("too long for a socket") == 1


@pytest.mark.usefixtures("places")
def test_a_training_continues_where_no_runtime_directory_can_be_made(monkeypatch, tmp_path):
    monkeypatch.setenv("GRADSCOPE_RUNTIME_DIR", "/proc/gradscope")
    done = train("nowhere", tmp_path)
    assert done.returncode == 0, done.stderr
    assert "trained" in done.stdout
    assert "cannot create the directory" in done.stderr


@pytest.mark.parametrize("free", range(0, 33, 4))
def test_file_descriptors_that_run_out_are_an_error_and_not_an_abort(hub, free):
    """libzmq aborts a process that has two to six descriptors left when it makes a context."""
    pid = os.fork()
    if pid == 0:
        os._exit(_exit_code_with(free, hub))
    _, status = os.waitpid(pid, 0)
    assert not os.WIFSIGNALED(status), f"ended by signal {os.WTERMSIG(status)}"
    assert os.WEXITSTATUS(status) == 0


def _exit_code_with(free: int, hub) -> int:
    limit = attacks.open_descriptors(os.getpid()) + 60
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    held = []
    try:
        while True:
            held.append(os.open("/dev/null", os.O_RDONLY))
    except OSError:
        pass
    for _ in range(free):
        os.close(held.pop())
    for attempt in (
        lambda: hub_answers(hub, 1.0),
        lambda: Link(hub.agents, attacks.agent_hello()).close(),
        lambda: ensure_hub(timeout_s=0.2),
    ):
        try:
            attempt()
        except (LinkError, OSError):
            continue
        if free < 32:
            return 1
    return 0


def test_a_hub_with_few_descriptors_closes_all_connections_and_its_peers_come_back(
    places, bring_up, ended_hubs
):
    import socket

    address = hub_address()
    command = ["sh", "-c", f"ulimit -n 400; exec {sys.executable} -P -m gradscope.hub --detach"]
    subprocess.run(command, check=True, timeout=60)
    served = attacks.Served(address, bring_up)
    streams = []
    try:
        while len(streams) < 340:  # never as many as the hub may open
            stream = socket.socket(socket.AF_UNIX)
            stream.setblocking(False)
            try:
                stream.connect(os.fspath(address.viewers_path))
                streams.append(stream)
            except OSError:  # the queue of connections is full, or the hub is binding again
                stream.close()
                served.beat()
        assert served.check()["closed_all_connections"] >= 1
    finally:
        for stream in streams:
            stream.close()
    served.check()
