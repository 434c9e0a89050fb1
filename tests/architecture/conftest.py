"""The project as files: its rooms, its modules and what each of them contains, read once."""

import ast
import functools
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
_PACKAGES = {"gradscope": ROOT / "gradscope", "gradscope_tui": ROOT / "tui" / "gradscope_tui"}


@dataclass(frozen=True)
class Module:
    """A module of the project: its full name, its file, its text and its syntax tree."""

    name: str
    path: Path
    text: str
    tree: ast.Module
    imports: frozenset[str]

    @property
    def room(self) -> str | None:
        """The room of `gradscope` that holds the module, if any."""
        package, _, rest = self.name.partition(".")
        return rest.partition(".")[0] or None if package == "gradscope" else None

    def place(self, line: int) -> str:
        """Return a line of the module as an editor opens it."""
        return f"{self.path.relative_to(ROOT)}:{line}"


@functools.cache
def _modules() -> tuple[Module, ...]:
    found: list[Module] = []
    for package, folder in _PACKAGES.items():
        for path in sorted(folder.rglob("*.py")):
            parts = (package, *path.relative_to(folder).with_suffix("").parts)
            text = path.read_text(encoding="utf-8")
            tree = ast.parse(text)
            name = ".".join(parts).removesuffix(".__init__")
            found.append(Module(name, path, text, tree, _imported(tree)))
    return tuple(found)


def _imported(tree: ast.Module) -> frozenset[str]:
    """Return the names of all modules that a module imports, at any depth of its code."""
    names: set[str] = set()
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=aliases):
                names |= {alias.name for alias in aliases}
            case ast.ImportFrom(module=str(name), level=0):
                names.add(name)
    return frozenset(names)


@pytest.fixture(scope="session")
def root() -> Path:
    return ROOT


@pytest.fixture(scope="session")
def rooms() -> list[str]:
    return sorted(path.parent.name for path in (ROOT / "gradscope").glob("*/__init__.py"))


@pytest.fixture(scope="session")
def modules() -> tuple[Module, ...]:
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

    `torch=False` makes every import of torch fail, as if it were not installed.
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
