"""The Python blocks of README.md and of the documentation run, and the commands that they name exist."""

import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import typer
from torch import nn

import gradscope
from gradscope.cli.app import app
from gradscope.transport import HubAddress

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md"))]


def _blocks(page: Path) -> list[str]:
    return re.findall(
        r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    )


def _is_script(page: Path) -> bool:
    """Return whether a page has whole scripts, which the tests of its subject run."""
    return page.parent.name == "trainers" or page.stem in (
        "diff",
        "export",
        "notebooks",
        "programs",
        "recordings",
        "remote",
        "trackers",
    )


class Swish(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * torch.sigmoid(x)

    @staticmethod
    def backward(ctx, dy):
        (x,) = ctx.saved_tensors
        sigma = torch.sigmoid(x)
        return dy * sigma * (1 + x * (1 - sigma))


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1 = nn.Linear(8, 8)
        self.mlp = nn.Sequential()
        self.mlp.add_module("fc1", nn.Linear(8, 8))

    def forward(self, x):
        return self.mlp(Swish.apply(self.fc1(x)))


class Model(nn.Module):
    """A model that has the layers of all snippets."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(8, 8))
        self.domain = nn.Sequential(nn.Linear(8, 8))
        self.blocks = nn.Sequential(*(Block() for _ in range(4)))
        self.head = nn.Linear(8, 1)

    def forward(self, x):
        return self.head(self.blocks(self.domain(self.encoder(x)))).square().mean()


class Reader:
    """A reader's script: the names that snippets use, and a training that can run while one does."""

    def __init__(self, attach: Callable[..., gradscope.Scope]):
        torch.manual_seed(0)
        self._attach = attach
        self._lock = threading.Lock()
        self._is_over = threading.Event()
        model = Model()
        self.names = {
            "gradscope": gradscope, "torch": torch, "model": model, "Swish": Swish, "lr": 0.1,
            "optimizer": torch.optim.SGD(model.parameters(), lr=0.1),
            "loader": [torch.randn(4, 8)], "loss": torch.tensor(0.5), "x": torch.randn(4, 8),
        }  # fmt: skip

    def attach(self, model, **how) -> gradscope.Scope:
        """Attach as a snippet asks, in the place of an earlier scope, and train until a step is observed."""
        with self._lock:
            how = {"name": "train-GPT-3f2a", "every": None if "budget" in how else 1} | how
            scope = self.names["scope"] = self._attach(model, **how, replace=True, quiet=True)
            for _ in range(3):
                self._step()
        return scope

    def run(self, block: str) -> None:
        """Run a block; the training continues in a thread while a block waits for it."""
        training = threading.Thread(target=self._train)
        self._is_over.clear()
        if "connect(" in block:
            training.start()
        try:
            exec(compile(block, "block", "exec"), self.names)
        finally:
            self._is_over.set()
            if training.ident:
                training.join()

    def _train(self) -> None:
        while not self._is_over.is_set():
            with self._lock:
                self._step()

    def _step(self) -> None:
        optimizer = self.names["optimizer"]
        optimizer.zero_grad()
        self.names["model"](torch.randn(4, 8)).backward()
        optimizer.step()


@pytest.fixture
def reader(places: Path, hub: HubAddress, monkeypatch: pytest.MonkeyPatch) -> Iterator[Reader]:
    reader = Reader(gradscope.attach)
    monkeypatch.setattr(gradscope, "attach", reader.attach)
    reader.attach(reader.names["model"])
    yield reader
    reader.names["scope"].detach()


@pytest.mark.processes
@pytest.mark.parametrize(
    "page", [p for p in PAGES if _blocks(p) and not _is_script(p)], ids=lambda p: p.stem
)
def test_python_blocks_run(reader: Reader, page: Path):
    for block in _blocks(page):
        reader.run(block)
        assert not reader.names["scope"].faults


def test_commands_that_pages_name_exist():
    commands = set(typer.main.get_command(app).commands)
    assert "watch" in commands
    unknown = [
        f"{page.relative_to(ROOT)}: gradscope {name}"
        for page in PAGES
        for name in re.findall(r"(?:\$|`)\s*gradscope ([a-z]+)", page.read_text(encoding="utf-8"))
        if name not in commands
    ]
    assert not unknown
