"""Draws the screen on four runs with a fault: `python docs/screenshots.py docs [NAME...]`.

Each run trains in a process of its own (`--train NAME`). The Findings tab is drawn in 120 by 32 cells, the
first screen in 80 by 24.
"""

import argparse
import asyncio
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import nn

import gradscope
from gradscope_tui.app import GradscopeApp
from gradscope_tui.source import connect_client

_DEADLINE_S = 120.0
_LEAST_STEPS = 120
_PAUSE_S = 0.01

FAULTS = {
    "vanishing": "vanishing-gradient",
    "dead-relu": "dead-units",
    "learning-rate": "learning-rate-too-high",
    "lost-head": "not-in-optimizer",
}
"""The runs, and the code that must be found in each before it is drawn."""


class Net(nn.Module):
    """A stem, blocks without residual connections, and a head."""

    def __init__(self, blocks: int, width: int, activation: type[nn.Module]) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Linear(16, width), activation())
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(width, width), activation()) for _ in range(blocks)
        )
        self.head = nn.Linear(width, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits."""
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        logits: torch.Tensor = self.head(x)
        return logits


def train(name: str) -> None:
    """Train the named run until the process is ended."""
    torch.manual_seed(0)
    sigmoid = name == "vanishing"
    is_hasty = name == "learning-rate"
    model = Net(12 if sigmoid else 4, 64, nn.Sigmoid if sigmoid else nn.Tanh if is_hasty else nn.ReLU)
    if name == "dead-relu":
        nn.init.constant_(model.blocks[2][0].bias, -20.0)
    held = [p for each, p in model.named_parameters() if name != "lost-head" or "head" not in each]
    if sigmoid:
        optimizer: torch.optim.Optimizer = torch.optim.SGD(held, lr=0.1)
    else:
        optimizer = torch.optim.Adam(held, lr=0.3 if is_hasty else 1e-3)
    teacher = torch.randn(16, 4)
    scope = gradscope.attach(model, name=name, quiet=True)
    while True:
        x = torch.randn(64, 16)
        loss = nn.functional.cross_entropy(model(x), (x @ teacher + torch.randn(64, 4)).argmax(1))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scope.log(loss=loss)
        time.sleep(_PAUSE_S)


async def _until(condition: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + _DEADLINE_S
    while not condition():
        if time.monotonic() > end:
            sys.exit(f"{what} did not happen in {_DEADLINE_S:g} s")
        await asyncio.sleep(0.1)


async def draw(name: str, folder: Path) -> None:
    """Watch the run, and write the Findings tab and the first screen."""
    for size, page in (((120, 32), "findings"), ((80, 24), "layers")):
        app = GradscopeApp(partial(connect_client, None, is_readonly=False), name, tab=page)
        async with app.run_test(size=size) as pilot:
            await _until(lambda: _is_found(app, FAULTS[name]), f"{FAULTS[name]} in {name}")  # noqa: B023 - used at once
            await pilot.pause(0.5)
            path = folder / f"{name}-{size[0]}x{size[1]}.svg"
            path.write_text(app.export_screenshot(title=f"gradscope watch {name}"), encoding="utf-8")


def _is_found(app: GradscopeApp, code: str) -> bool:
    store = app.session.watched
    is_long = store is not None and (store.step or 0) >= _LEAST_STEPS
    return is_long and store is not None and code in {each.code for each in store.verdict.every()}


def main() -> None:
    """Train and draw each run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("names", nargs="*", choices=[*FAULTS, []], default=[])
    parser.add_argument("--train", choices=FAULTS)
    options = parser.parse_args()
    if options.train:
        train(options.train)
    with tempfile.TemporaryDirectory(prefix="gs-", dir="/tmp") as directory:
        os.environ["GRADSCOPE_RUNTIME_DIR"] = f"{directory}/run"
        os.environ["GRADSCOPE_DATA_DIR"] = f"{directory}/data"
        os.environ["GRADSCOPE_HUB_IDLE_S"] = "1"
        for name in options.names or FAULTS:
            with subprocess.Popen([sys.executable, __file__, "--train", name]) as training:
                try:
                    asyncio.run(draw(name, options.folder))
                finally:
                    training.terminate()


if __name__ == "__main__":
    main()
