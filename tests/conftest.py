"""What tests get: places and a hub of their own, and a look afterwards at what was left behind."""

import gc
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

sys.path.append(str(Path(__file__).parent))
# As many workers as processors: a thread that spins while it waits takes the time of another worker.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

from gradscope.protocol import Hello
from gradscope.transport import HubAddress, Link, ensure_hub, hub_address
from support import conformance_table, fork_server, hubs
from support.waiting import DEADLINE_S, wait_for

# How fast a machine makes examples does not depend on the code. What fails once must fail again.
settings.register_profile("steady", suppress_health_check=[HealthCheck.too_slow], print_blob=True)
settings.load_profile("steady")


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Exempt from garbage collection what is imported with the tests: else it takes a second each time."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.collect()
        gc.freeze()
        gc.enable()


@pytest.fixture(scope="session", autouse=True)
def _interruptible() -> None:
    """Let the processes of tests be interrupted, also where a shell runs the tests in the background.

    Such a shell has them ignore SIGINT, and their children would inherit that.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def _fork_server() -> Iterator[None]:
    """End the fork server, if a test has started it."""
    yield
    fork_server.close()


@pytest.fixture
def places(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A runtime and a data directory of the test's own, short enough for sockets."""
    root = Path(tempfile.mkdtemp(prefix="gs-", dir="/tmp"))
    monkeypatch.setenv("GRADSCOPE_RUNTIME_DIR", str(root / "run"))
    monkeypatch.setenv("GRADSCOPE_DATA_DIR", str(root / "data"))
    monkeypatch.delenv("GRADSCOPE_HUB", raising=False)
    yield root
    shutil.rmtree(root, ignore_errors=True)


def _threads() -> set[str]:
    return {t.name for t in threading.enumerate() if t.name.startswith("gradscope")}


def _children() -> set[int]:
    path = Path(f"/proc/self/task/{os.getpid()}/children")
    children = {int(pid) for pid in path.read_text().split()} if path.exists() else set()
    return (children | fork_server.started_pids()) - fork_server.own_pids()


def _sockets_and_files() -> set[str]:
    fds = Path("/proc/self/fd")
    if not fds.exists():
        return set()
    targets: set[str] = set()
    for fd in fds.iterdir():
        try:
            targets.add(str(fd.readlink()))
        except OSError:
            continue  # closed while we looked
    return {t for t in targets if "gradscope" in t or "/gs-" in t}


def _hooks() -> set[str]:
    """Return the hooks of ours that torch calls for every module or optimizer of the process."""
    found: set[str] = set()
    for name in ("torch.nn.modules.module", "torch.optim.optimizer"):
        tables = vars(sys.modules[name]) if name in sys.modules else {}
        for table, hooks in tables.items():
            if table.startswith("_global_") and isinstance(hooks, dict):
                found |= {
                    f"{table}[{key}] {hook}" for key, hook in hooks.items() if "gradscope" in str(hook)
                }
    return found


@pytest.fixture(autouse=True)
def nothing_is_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail when a test leaves a gradscope thread, a child process, a file open, or a hook."""
    looks = _threads, _children, _sockets_and_files, _hooks
    before = [look() for look in looks]
    yield
    _forget_compiled()
    deadline = time.monotonic() + DEADLINE_S
    while True:
        left = [look() - then for look, then in zip(looks, before, strict=True)]
        if not any(left):
            return
        if time.monotonic() > deadline:
            pytest.fail(f"{request.node.name} left threads, processes, files, hooks: {left}")
        gc.collect()
        time.sleep(0.02)


def _forget_compiled() -> None:
    """Let the next test of this process run as if nothing had been compiled: `has_compiled()` is about a process."""
    utils = sys.modules.get("torch._dynamo.utils")
    if utils is not None and utils.counters:
        sys.modules["torch._dynamo"].reset()
        utils.counters.clear()


@pytest.fixture
def wait_until() -> Callable[[Callable[[], object], str], None]:
    """Wait for a condition, with a deadline."""
    return wait_for


@pytest.fixture
def is_alive() -> Callable[[int], bool]:
    return hubs.is_alive


@pytest.fixture
def hub_pid(places: Path) -> Callable[[], int]:
    """The process id of the hub that wrote itself into the lock last."""

    def pid() -> int:
        found = hubs.pid_of_hub(hub_address())
        assert found is not None
        return found

    return pid


@pytest.fixture
def ended_hubs(places: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """End whatever hub is there when the test is over, and not earlier: a peer may be slow to start."""
    monkeypatch.setenv("GRADSCOPE_HUB_IDLE_S", "120")
    yield
    hubs.end_hub(hub_address())


@pytest.fixture
def hub(ended_hubs: None) -> HubAddress:
    """A running hub."""
    return ensure_hub(timeout_s=DEADLINE_S)


@pytest.fixture
def bring_up() -> Iterator[Callable[..., Link]]:
    """Open links that are up; all are closed with the test."""
    links: list[Link] = []

    def open_link(address: str, hello: Hello) -> Link:
        link = Link(address, hello)
        links.append(link)
        deadline_s = time.monotonic() + DEADLINE_S
        while link.state.phase != "up":
            link.receive(0.05)
            assert time.monotonic() < deadline_s, link.state
        return link

    yield open_link
    for link in links:
        link.close()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the table of the conformance cases, from the reports of all workers."""
    reports = [report for group in terminalreporter.stats.values() for report in group]
    lines = conformance_table.table(
        value
        for report in reports
        if getattr(report, "when", None) == "call"
        for name, value in report.user_properties
        if name == "conformance"
    )
    if lines:
        terminalreporter.section("conformance: bare against attached")
        for line in lines:
            terminalreporter.write_line(line)


PROCESS_FIXTURES = {"ended_hubs", "fresh", "live"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of whole folders, and of fixtures that start processes, as `processes`."""
    folders = {Path(__file__).parent / name for name in ("cli", "demo", "end_to_end", "faults")}
    for item in items:
        if folders & set(item.path.parents) or PROCESS_FIXTURES & set(item.fixturenames):
            item.add_marker("processes")
