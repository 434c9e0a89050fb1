"""The project as files: its rooms and modules, found by looking."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
_PACKAGES = {"gradscope": ROOT / "gradscope", "gradscope_tui": ROOT / "tui" / "gradscope_tui"}


def _rooms() -> list[str]:
    return sorted(path.parent.name for path in (ROOT / "gradscope").glob("*/__init__.py"))


def _modules() -> dict[str, Path]:
    """Return the path of every module by its full name."""
    modules: dict[str, Path] = {}
    for package, folder in _PACKAGES.items():
        for path in sorted(folder.rglob("*.py")):
            parts = (package, *path.relative_to(folder).with_suffix("").parts)
            modules[".".join(parts).removesuffix(".__init__")] = path
    return modules


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Call a test that takes `room` or `module` once for each that there is."""
    if "room" in metafunc.fixturenames:
        metafunc.parametrize("room", _rooms())
    if "module" in metafunc.fixturenames:
        metafunc.parametrize("module", _modules())


@pytest.fixture
def path(module: str) -> Path:
    """The file of a module."""
    return _modules()[module]


@pytest.fixture(scope="session")
def root() -> Path:
    return ROOT


@pytest.fixture(scope="session")
def rooms() -> list[str]:
    return _rooms()


@pytest.fixture(scope="session")
def modules() -> dict[str, Path]:
    return _modules()


_WITHOUT_TORCH = """
import sys

class NoTorch:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "torch":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, NoTorch())
"""


@pytest.fixture
def fresh(tmp_path: Path) -> Callable[..., str]:
    """Run a script in a fresh interpreter, in an empty directory; return what it prints.

    `torch=False` makes every import of torch fail there as where it is not installed.
    """

    def run(script: str, *, torch: bool = True) -> str:
        whole = script if torch else _WITHOUT_TORCH + script
        answer = subprocess.run(
            [sys.executable, "-W", "error", "-c", whole],
            capture_output=True, text=True, timeout=60, cwd=tmp_path, check=False,
        )  # fmt: skip
        assert answer.returncode == 0, answer.stderr
        return answer.stdout.strip()

    return run
