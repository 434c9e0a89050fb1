"""What a model of many layers costs the screen: milliseconds a refresh, and part of a core.

`python benchmarks/tui_layers.py [--layers 1500] [--seconds 10] [--rate 10] [--page depth] [--unfold]`.
The app runs without a terminal in
120 by 32 cells on a source in this process; each refresh has a new step, all of whose numbers changed.
The steps are made beforehand. Milliseconds are of the processor; the event loop's lag is how late a
timer of 10 ms fires.
"""

import argparse
import asyncio
import statistics
import sys
import time
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "tests" / "tui"))

from synthetic_run import (  # type: ignore[import-not-found]  # found by the line above
    SyntheticRun,
    SyntheticSource,
    gpt_layers,
)

from gradscope_tui.app import GradscopeApp

_BLOCK_LAYERS = 10
_STEPS = 40


async def _lag(samples: list[float]) -> None:
    while True:
        before = time.perf_counter()
        await asyncio.sleep(0.01)
        samples.append(time.perf_counter() - before - 0.01)


async def measure(layers: int, seconds: float, rate_hz: float, page: str, *, unfolds: bool) -> None:
    """Run the screen and print what it did and what that cost. `unfolds` the repeated blocks."""
    run = SyntheticRun(layers=gpt_layers(blocks=layers // _BLOCK_LAYERS))
    source = SyntheticSource(run, past=2)
    steps = [run.step(n) for n in range(2, 2 + _STEPS)]
    app = GradscopeApp(source)
    async with app.run_test(size=(120, 32)) as pilot:
        while (
            app.presenter.frame is None or not app.session.watched or not len(app.session.watched.ring)
        ):
            await pilot.pause(0.05)
        await pilot.pause(0.5)
        app.main.action_show(page)
        if unfolds:
            app.main.table.action_fold_repeats()
        feed_ms, look_ms = [], []
        for step in steps:
            before = time.process_time()
            app.session.feed(step)
            feed_ms.append(1e3 * (time.process_time() - before))
            before = time.process_time()
            app.update_view()
            await asyncio.sleep(0.05)  # idle but for the drawing
            look_ms.append(1e3 * (time.process_time() - before))
        lags: list[float] = []
        lag = asyncio.create_task(_lag(lags))
        live = [run.step(n) for n in range(100, 100 + int(seconds * rate_hz))]
        used, started = time.process_time(), time.perf_counter()
        for step in live:
            source.put(step)
            await asyncio.sleep(1 / rate_hz)
        used, wall = time.process_time() - used, time.perf_counter() - started
        lag.cancel()
        counters = dict(app.main.table.counters)
    print(
        f"{len(run.layers)} layers, {len(steps)} refreshes one by one, then {len(live)} in {wall:.1f} s"
    )
    print(f"a step into the store    {statistics.median(feed_ms):6.2f} ms (median)")
    print(f"a refresh of the screen  {statistics.median(look_ms):6.2f} ms (median), with drawing")
    print(f"processor at {rate_hz:g} Hz       {100 * used / wall:6.2f} % of a core")
    lags.sort()
    print(f"event loop's lag         {1e3 * lags[int(0.99 * len(lags))]:6.2f} ms (99th percentile)")
    print(f"rows and strips          {counters}")


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=1500)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--rate", type=float, default=10.0)
    parser.add_argument("--page", default="layers")
    parser.add_argument("--unfold", action="store_true")
    options = parser.parse_args()
    asyncio.run(
        measure(options.layers, options.seconds, options.rate, options.page, unfolds=options.unfold)
    )


if __name__ == "__main__":
    main()
