"""What every test gets: places of its own, and a look afterwards at what was left behind."""

import gc
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

_DEADLINE_S = 10.0


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
    children = Path(f"/proc/self/task/{os.getpid()}/children")
    return {int(pid) for pid in children.read_text().split()} if children.exists() else set()


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


@pytest.fixture(autouse=True)
def nothing_is_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail when a test leaves a gradscope thread, a child process, or one of its files open."""
    before = _threads(), _children(), _sockets_and_files()
    yield
    deadline = time.monotonic() + _DEADLINE_S
    while True:
        left = _threads() - before[0], _children() - before[1], _sockets_and_files() - before[2]
        if not any(left):
            return
        if time.monotonic() > deadline:
            pytest.fail(f"{request.node.name} left threads, processes, files: {left}")
        gc.collect()
        time.sleep(0.02)
