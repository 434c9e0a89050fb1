"""Pausing, breakpoints, waiting, captures and undo from the command line, on a training that runs."""

import json
import re
import sys
import time

import numpy as np
import pytest

from support import fork_server


def step_of(live) -> int:
    return json.loads(live.gradscope("ls", "--json").stdout)["runs"][0]["step"]


def test_a_paused_run_makes_one_step_and_continues(live):
    paused = live.gradscope("pause", "tiny", "--lease", "120")
    assert paused.returncode == 0, paused.stderr
    held = int(paused.stdout.split("before step ")[1].split(";")[0])
    again = live.gradscope("step", "tiny", "--lease", "120")
    assert again.stdout.startswith(f"step {held} has run; paused before the next")
    assert live.gradscope("resume", "tiny").stdout == f"continues with step {held + 1}\n"
    live.wait_until(lambda: step_of(live) > held + 3)


def test_a_lease_that_is_too_long_is_refused_with_the_reason(live):
    refused = live.gradscope("pause", "tiny", "--lease", "1000")
    assert refused.returncode == 4
    assert "above 0 and of at most 300 seconds, got 1000.0" in refused.stderr


def test_a_breakpoint_is_set_listed_hit_and_removed(live):
    assert "no breakpoint is set" in live.gradscope("breakpoints", "tiny").stdout
    wrong = live.gradscope("break", "tiny", "loss >")
    assert (wrong.returncode, "expected a number, got the end" in wrong.stderr) == (4, True)
    there = live.gradscope("break", "tiny", "step > 0", "--lease", "1")
    name = there.stdout.split(":")[0]
    live.wait_until(lambda: f"{name}  step > 0      1" in live.gradscope("breakpoints", "tiny").stdout)
    assert live.gradscope("unbreak", "tiny", name).stdout == f"{name}: removed\n"
    assert "no breakpoint is set" in live.gradscope("breakpoints", "tiny").stdout
    assert live.gradscope("unbreak", "tiny", "break-99").returncode == 4


def test_a_rule_is_set_listed_and_removed(live):
    assert "no rule is set" in live.gradscope("rules", "tiny").stdout
    wrong = live.gradscope("rule", "tiny", "update_ratio", "--threshold", "1:2:3")
    assert (wrong.returncode, "MINIMUM:MAXIMUM" in wrong.stderr) == (2, True)
    refused = live.gradscope("rule", "tiny", "dead", "--action", "clip")
    assert (refused.returncode, "clip is not available for dead" in refused.stderr) == (4, True)
    there = live.gradscope("rule", "tiny", "update_ratio", "--threshold", "1e-9:10", "--patience", "3")
    name = there.stdout.split(":")[0]
    listed = live.gradscope("rules", "tiny").stdout
    assert f"{name}  update_ratio, threshold 1e-09 to 10, 3 steps in a row  event" in listed
    assert live.gradscope("unrule", "tiny", name).stdout == f"{name}: removed\n"
    assert "no rule is set" in live.gradscope("rules", "tiny").stdout


@pytest.mark.parametrize("what", ["activation", "gradient", "param_grad"])
def test_a_capture_is_printed_and_saved(live, tmp_path, what):
    file = tmp_path / "it.npy"
    ran = live.gradscope("capture", "tiny", "fc2", "--what", what, "--save", str(file))
    assert ran.returncode == 0, ran.stderr
    assert f"{what} of fc2" in ran.stdout
    assert "are all zero" in ran.stdout
    saved = [file] if file.exists() else [tmp_path / f"it.fc2.{n}.npy" for n in ("weight.0", "bias.1")]
    arrays = [np.load(path, allow_pickle=False) for path in saved]
    assert [a.shape for a in arrays] == ([(4, 4), (4,)] if what == "param_grad" else [(2, 4)])


def test_what_cannot_be_captured_or_saved_is_refused(live):
    assert live.gradscope("capture", "tiny", "fc9").returncode == 4
    wrong = live.gradscope("capture", "tiny", "fc1", "--save", "it.pickle")
    assert (wrong.returncode, "ends in .npy or .safetensors" in wrong.stderr) == (2, True)


def test_a_focus_prints_a_line_for_each_focus_step(live):
    ran = live.gradscope("focus", "tiny", "fc1", "--steps", "2")
    assert ran.returncode == 0, ran.stderr
    first, *seen = ran.stdout.splitlines()
    assert first.startswith("in the focus from step ")
    assert first.endswith(": fc1")
    assert len(seen) == 2
    form = r"step \d+  fc1  std \S+  .∇out. \S+  .∇w. \S+  .Δw. \S+  every \d+"
    assert all(re.fullmatch(form, line) for line in seen), seen
    assert live.gradscope("focus", "tiny", "fc9").returncode == 4


def test_undo_without_a_snapshot_is_refused(live):
    refused = live.gradscope("undo", "tiny")
    assert (refused.returncode, "there is no snapshot to restore" in refused.stderr) == (4, True)


def test_wait_ends_when_a_step_is_reached_or_the_time_is_over(live):
    target = step_of(live) + 20
    reached = live.gradscope("wait", "tiny", "--until", f"step={target}")
    assert reached.returncode == 0, reached.stderr
    assert int(reached.stdout.split()[1]) >= target
    late = live.gradscope("wait", "tiny", "--until", "nan", "--timeout", "1")
    assert (late.returncode, late.stdout.startswith("nan: not seen")) == (1, True)
    assert live.gradscope("wait", "tiny", "--until", "christmas").returncode == 2


FAILING = """
import sys, time
import torch
import gradscope
model = torch.nn.Sequential(torch.nn.Linear(4, 4))
optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
scope = gradscope.attach(model, optimizer, name="failing", quiet=True, every=1000)
step = 0
while True:
    optimizer.zero_grad()
    (model(torch.ones(2, 4)).sum() * (float("nan") if step == 100 else 1.0)).backward()
    optimizer.step()
    step += 1
    time.sleep(0.02)
"""


def test_wait_until_nan_tells_the_step_and_waiting_for_the_end_tells_that_the_run_was_killed(live):
    with fork_server.Popen([sys.executable, "-c", FAILING], env=live.environment) as training:
        try:
            live.wait_until(lambda: "failing" in live.gradscope("ls").stdout)
            seen = live.gradscope("wait", "failing", "--until", "nan", "--timeout", "60")
            assert seen.returncode == 0, seen.stderr
            assert seen.stdout.startswith("step 100, nonfinite: not finite: the gradients of 0.weight")
            began_s = time.monotonic()
        finally:
            training.kill()
        done = live.gradscope("wait", "failing", "--until", "done", "--timeout", "60")
    assert done.returncode == 5
    assert re.fullmatch(r"done: not seen, the run has ended: killed: process \d+ .*\n", done.stdout)
    assert time.monotonic() - began_s < 60
