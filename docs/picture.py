"""Draws the picture of the README: the real screen on the real demo, with a reversal in force.

`python docs/picture.py docs/demo.svg` starts `python -m gradscope.demo` in directories of its own,
opens the screen on it in 120 by 34 cells, reverses a gradient after a while, and writes what is then
shown.
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

from gradscope_tui.app import GradscopeApp
from gradscope_tui.source import connect_client

_SIZE = (120, 34)
_WATCH_S = 20.0
_AFTER_S = 5.0
_DEADLINE_S = 120.0
_LAYER = "blocks.1.mlp"


async def _until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + _DEADLINE_S
    while not condition():
        if time.monotonic() > end:
            sys.exit(f"the demo did not get there in {_DEADLINE_S:g} s")
        await asyncio.sleep(0.1)


async def draw(run: str, path: Path) -> None:
    """Watch the run, reverse the gradient of one layer, and write the screen."""
    app = GradscopeApp(partial(connect_client, None, is_readonly=False), run)
    async with app.run_test(size=_SIZE) as pilot:
        await _until(lambda: app.session.watched is not None and len(app.session.watched.ring) > 10)
        await asyncio.sleep(_WATCH_S)
        table = app.main.table
        for _ in range(table.listed):
            if table.cursor_layer == _LAYER:
                break
            await pilot.press("j")
        await pilot.press("i", "r", "enter")
        await _until(lambda: any(state.active_since is not None for state in app.presenter.states()))
        await asyncio.sleep(_AFTER_S)
        path.write_text(app.export_screenshot(title="gradscope"))


def main() -> None:
    """Start the demo, draw, and end it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("path", type=Path)
    path = parser.parse_args().path
    with tempfile.TemporaryDirectory(prefix="gs-", dir="/tmp") as directory:
        os.environ["GRADSCOPE_RUNTIME_DIR"] = f"{directory}/run"
        os.environ["GRADSCOPE_DATA_DIR"] = f"{directory}/data"
        os.environ["GRADSCOPE_HUB_IDLE_S"] = "1"
        command = [sys.executable, "-m", "gradscope.demo", "--run-name", "demo", "--steps", "100000"]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL) as demo:
            try:
                asyncio.run(draw("demo", path))
            finally:
                demo.terminate()


if __name__ == "__main__":
    main()
