"""What the screen keeps and how it answers: memory over an hour of steps, 10,000 layers, and a link that is late.

`python benchmarks/tui_endurance.py [--hour 14400] [--layers 10000] [--delay 0.2]`. The app runs without a terminal in
120 by 32 cells on a source in this process. Linux only.
- Memory: as many steps as an hour has at four a second, fed without waiting; the resident memory is read at each tenth.
- Layers: the time from a key to the end of the redraw, for moving, folding, sorting, filtering and each tab.
- Link: each message arrives late by `--delay` seconds, and answers to commands later by twice that; the same keys.
"""

import argparse
import asyncio
import os
import sys
import threading
import time
from collections import deque
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "tests" / "tui"))

from synthetic_run import (  # type: ignore[import-not-found]  # found by the line above
    SyntheticRun,
    SyntheticSource,
    gpt_layers,
)

from gradscope_tui.app import GradscopeApp

_BLOCK_LAYERS = 10
_KEYS = ("j", "G", "g", "b", "greater_than_sign", "I", "6", "2", "1", "enter", "escape", "h", "l")
_POOL = 50


class LateSource(SyntheticSource):  # type: ignore[misc]  # the base has no types
    """A source whose messages arrive `delay_s` after they were sent."""

    def __init__(self, *runs: object, delay_s: float, **how: object) -> None:
        super().__init__(*runs, **how)
        self._delay_s = delay_s
        self._late: deque[tuple[float, object]] = deque()

    def take(self, most: int) -> list[object]:
        """Return the messages whose time has come."""
        now_s = time.monotonic()
        self._late.extend((now_s + self._delay_s, each) for each in super().take(1_000))
        found: list[object] = []
        while self._late and self._late[0][0] <= now_s and len(found) < most:
            found.append(self._late.popleft()[1])
        if self._late and not found:
            threading.Timer(self._late[0][0] - now_s, self._on_arrival).start()
        return found


def _resident_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


async def _until_shown(app: GradscopeApp) -> None:
    while not app.session.watched or not len(app.session.watched.ring):
        await asyncio.sleep(0.02)
    app.update_view()


async def measure_memory(steps: int) -> None:
    """Feed an hour of steps and print the resident memory."""
    run = SyntheticRun(layers=gpt_layers(blocks=12))
    source = SyntheticSource(run, past=2)
    blocks = [run.block(n) for n in range(_POOL)]
    app = GradscopeApp(source)
    async with app.run_test(size=(120, 32)):
        await _until_shown(app)
        sizes = []
        for step in range(2, steps):
            app.session.feed(run.scalars(step))
            app.session.feed(run.step(step, block=blocks[step % _POOL]))
            if step % 40 == 0:
                app.update_view()
                await asyncio.sleep(0)
            if step % (steps // 10) == 0:
                sizes.append(_resident_mib())
    print(f"memory over {steps:,} steps of {len(run.layers)} layers, in MiB at each tenth:")
    print("  " + " ".join(f"{size:.0f}" for size in sizes))
    print(f"  growth in the second half: {sizes[-1] - sizes[len(sizes) // 2]:+.1f} MiB")


async def measure_keys(layers: int, delay_s: float) -> None:
    """Press keys and print the time until the screen is drawn again."""
    run = SyntheticRun(layers=gpt_layers(blocks=layers // _BLOCK_LAYERS))
    source = LateSource(run, past=2, delay_s=delay_s)
    app = GradscopeApp(source)
    async with app.run_test(size=(120, 32)) as pilot:
        await _until_shown(app)
        times_ms = {}
        for key in _KEYS:
            source.advance()
            began = time.perf_counter()
            await pilot.press(key)
            times_ms[key] = 1e3 * (time.perf_counter() - began)
    slowest = max(times_ms, key=lambda key: times_ms[key])
    mean_ms = sum(times_ms.values()) / len(times_ms)
    print(f"{len(run.layers):,} layers, messages {delay_s:g} s late: from a key to the redraw")
    print(f"  {mean_ms:.0f} ms on average, at most {times_ms[slowest]:.0f} ms ({slowest})")


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hour", type=int, default=14_400)
    parser.add_argument("--layers", type=int, default=10_000)
    parser.add_argument("--delay", type=float, default=0.2)
    options = parser.parse_args()
    asyncio.run(measure_memory(options.hour))
    asyncio.run(measure_keys(options.layers, 0.0))
    asyncio.run(measure_keys(1_500, options.delay))


if __name__ == "__main__":
    main()
