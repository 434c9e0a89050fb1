"""Two ranks pause, step and go on together, and skip the same step."""

import json
import time
from pathlib import Path

import pytest

import gradscope
from gradscope.transport import hub_listens
from support.ranks import started_ranks

SCRIPT = Path(__file__).with_name("paused_training.py")


@pytest.mark.processes
def test_ranks_pause_before_the_same_steps_and_skip_the_same_nonfinite_step(hub, places, wait_until):
    stop, result = places / "stop", places / "result"
    with started_ranks(SCRIPT, stop, result) as ranks:
        try:
            wait_until(lambda: hub_listens(hub), "the hub, which a rank may have started again")
            with gradscope.connect() as client:
                deadline_s = time.monotonic() + 60
                while (client.runs() or [None])[0] is None or (client.runs()[0].step or 0) < 30:
                    assert time.monotonic() < deadline_s
                    time.sleep(0.1)
                client.run = "two"
                held = client.pause(timeout_s=20).step
                assert client.step_once(timeout_s=20).step == held
                client.resume(timeout_s=20)
                client.breakpoint('grad["2"].norm > 0', lease_s=2, timeout_s=20)
                wait_until(lambda: client.paused() is not None, "the breakpoint")
                wait_until(lambda: client.paused() is None, "the end of its lease")
        finally:
            stop.touch()
        ranks.finish(60)
    told = [json.loads(Path(f"{result}.{rank}").read_text()) for rank in range(2)]
    notes = [[note for note in rank["held"] if note[0] in ("pause", "resume")] for rank in told]
    assert [n[:4] for n in notes] == [[
        ["pause", notes[0][0][1]],
        ["resume", f"resumed with step {held}"],
        ["pause", notes[0][2][1]],
        ["resume", f"resumed with step {held + 1}"],
    ]] * 2  # fmt: skip
    assert notes[0] == notes[1]
    assert len(notes[0]) == 6
    assert told[0]["parameters"] == told[1]["parameters"]
    assert [rank["alerts"] for rank in told] == [[20], [20]]
    assert [rank["faults"] for rank in told] == [{}, {}]
