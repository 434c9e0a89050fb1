"""The commands on a training that runs."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pexpect
import pytest


def _interventions(live) -> list[str]:
    return live.gradscope("interventions", "tiny").stdout.splitlines()[1:]


def test_a_live_run_is_listed_with_its_step_and_its_process(live):
    document = json.loads(live.gradscope("ls", "--json").stdout)
    (run,) = document["runs"]
    assert (run["run"], run["state"]) == ("tiny", "live")
    assert run["ranks"][0]["pid"] == live.process.pid
    assert run["recording"]["path"].endswith("tiny.gradscope")
    assert document["hub"] is not None
    live.wait_until(
        lambda: json.loads(live.gradscope("ls", "--json").stdout)["runs"][0]["step"] > run["step"]
    )


def test_config_names_the_hub_that_answers(live):
    found = json.loads(live.gradscope("config", "--json").stdout)
    assert found["hub"] == "listens"
    os.kill(found["hub's process"], 0)


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        (["reverse", "tiny", "fc1"], "reverse(alpha=1)"),
        (["reverse", "tiny", "fc1", "--alpha", "0.5"], "reverse(alpha=0.5)"),
        (["scale", "tiny", "fc1", "--factor", "-2"], "scale(factor=-2)"),
        (["clip", "tiny", "fc1", "--max-norm", "0.1"], "clip(max_norm=0.1, per=tensor)"),
        (["clamp", "tiny", "fc1", "--limit", "0.1"], "clamp(limit=0.1)"),
        (["stop", "tiny", "fc1"], "stop()"),
        (["noise", "tiny", "fc1", "--std", "0.1", "--seed", "3"], "noise(std=0.1, seed=3, relative=0)"),
        (["scale", "tiny", "fc1", "fc*", "--factor", "0"], "fc1, fc2"),
        (["stop", "tiny", "fc1", "--site", "params"], "params"),
        (["reverse", "tiny", "fc1", "--ramp", "0:1:100:dann"], "alpha 0 to 1 in 100 steps (dann)"),
        (
            ["stop", "tiny", "fc1", "--every", "3", "--when", "norm > 9"],
            "every 3 steps, while norm > 9",
        ),
        (["intervene", "tiny", "amplify", "fc1", "--set", "gain=3"], "amplify(gain=3, is_off=0)"),
        (["intervene", "tiny", "zero_activation", "fc1"], "zero_activation()"),
    ],
    ids=lambda value: value if isinstance(value, str) else value[0],
)
def test_an_intervention_is_acknowledged_listed_and_removed(live, arguments, shown):
    ran = live.gradscope(*arguments, "--keep")
    assert ran.returncode == 0, ran.stderr
    said = re.search(
        r"in force from step (\d+) until it is removed\nremove it with: (.*)\n", ran.stdout
    )
    assert said is not None, ran.stdout
    (line,) = _interventions(live)
    assert shown in line
    assert f"step {said[1]}" in line
    assert "fc1" in line
    removed = live.gradscope(*said[2].split()[1:])
    assert re.fullmatch(r"\S+: not active from step \d+ on\n", removed.stdout), removed.stderr
    assert live.gradscope("interventions", "tiny").stdout == "no intervention is active\n"


def test_an_end_in_steps_ends_it(live):
    ran = live.gradscope("stop", "tiny", "fc1", "--steps", "5")
    assert "for 5 steps" in ran.stdout
    live.wait_until(lambda: not _interventions(live))


def test_an_end_at_a_step_ends_it(live):
    (run,) = json.loads(live.gradscope("ls", "--json").stdout)["runs"]
    ran = live.gradscope("stop", "tiny", "fc1", "--until-step", str(run["step"] + 400))
    assert "until step" in ran.stdout, ran.stderr
    assert len(_interventions(live)) == 1
    live.wait_until(lambda: not _interventions(live))


def test_what_the_run_can_do_is_listed_with_the_scripts_own(live):
    lines = live.gradscope("intervene", "tiny").stdout.splitlines()
    assert lines[0].split() == ["NAME", "ARGUMENTS", "SITES", "WHAT", "IT", "DOES"]
    assert any(
        re.match(r"clip +max_norm, per=tensor\|layer\|all +output, input, params", x) for x in lines
    )
    assert any(re.match(r"amplify +gain=2, is_off=0 .*Make the gradient larger\.", x) for x in lines)


def test_the_history_tells_who_did_what_and_python_makes_it_permanent(live):
    live.gradscope("intervene", "tiny", "amplify", "fc2", "--set", "is_off=yes", "--keep")
    live.gradscope("clip", "tiny", "fc1", "fc2", "--max-norm", "0.5", "--keep", "--from-step", "1")
    lines = live.gradscope("interventions", "tiny", "--python").stdout.splitlines()
    assert lines[0] == "scope.intervene('fc2', 'amplify', arguments={'gain': 2.0, 'is_off': True})"
    assert lines[1].startswith("scope.clip(['fc1', 'fc2'], max_norm=0.5, per='tensor', start_step=1)")
    live.gradscope("remove", "tiny", "--all")
    live.wait_until(lambda: "removed" in live.gradscope("interventions", "tiny", "--history").stdout)
    story = live.gradscope("interventions", "tiny", "--history").stdout
    assert re.search(
        r"clip-\d+ set by the command line \(.*, pid \d+\) \[viewer \w+\] from step \d+", story
    )
    assert re.search(r"amplify-\d+ removed by the command line", story)


def test_remove_all_removes_all(live):
    for layer in ("fc1", "fc2"):
        assert live.gradscope("scale", "tiny", layer, "--factor", "2", "--keep").returncode == 0
    assert len(_interventions(live)) == 2
    assert live.gradscope("remove", "tiny", "--all").returncode == 0
    assert _interventions(live) == []


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["reverse", "tiny", "fc3", "--keep"], 2, "fc1"),
        (["reverse", "tiny", "fc3"], 2, "no layer matches 'fc3'"),
        (["reverse", "tiny", "fc1"], 2, "--for SECONDS, --until-step N, --keep"),
        (["clip", "tiny", "fc1", "--max-norm", "-1", "--keep"], 4, "max_norm"),
        (["clip", "tiny", "fc1", "--max-norm", "nan", "--keep"], 4, "max_norm"),
        (["remove", "tiny", "reverse-99"], 4, "reverse-99"),
        (
            ["stop", "tiny", "act", "--site", "params", "--keep"],
            4,
            "no trainable parameters",
        ),
        (
            ["stop", "tiny", "fc1", "--when", "import os", "--keep"],
            4,
            "not a condition: expected one of",
        ),
        (["stop", "tiny", "fc1", "--ramp", "soon", "--keep"], 2, "a ramp is ARGUMENT=FROM:TO:STEPS"),
        (["intervene", "tiny", "amplify", "fc1", "--set", "gain=11", "--keep"], 4, "at most 10"),
        (["intervene", "tiny", "amplify", "fc1", "--set", "loud=1", "--keep"], 2, "gain, is_off"),
        (["intervene", "tiny", "blow_up", "fc1", "--keep"], 2, "no intervention 'blow_up'; there are"),
        (["reverse", "tinny", "fc1", "--keep"], 3, "similar names: tiny"),
        (["watch", "tinny", "--once"], 3, "similar names: tiny"),
    ],
)
def test_what_is_refused_says_why_on_stderr(live, arguments, code, words):
    ran = live.gradscope(*arguments)
    assert ran.returncode == code, ran.stderr
    assert words in ran.stderr
    assert ran.stdout == ""


def test_a_stopped_training_is_exit_3_and_interrupting_is_130(live):
    live.process.send_signal(signal.SIGSTOP)
    try:
        ran = live.gradscope("stop", "tiny", "fc1", "--steps", "1", "--timeout", "0.3")
        assert ran.returncode == 3
        assert "may still take effect" in ran.stderr
        waiting = subprocess.Popen(
            [sys.executable, "-m", "gradscope", "stop", "tiny", "fc1", "--steps", "1"],
            env=live.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        live.wait_until(lambda: _has_threads(waiting.pid))
        waiting.send_signal(signal.SIGINT)
        out, err = waiting.communicate(timeout=60)
        assert (waiting.returncode, out, err) == (130, b"", b"")
    finally:
        live.process.send_signal(signal.SIGCONT)
    live.wait_until(lambda: not _interventions(live))


def _has_threads(pid: int) -> bool:
    """Whether the client's thread has been started in addition to the main one."""
    return len(list(Path(f"/proc/{pid}/task").iterdir())) > 1


def test_once_prints_one_plain_table_into_a_pipe(live):
    for arguments in (["watch", "tiny", "--once"], ["watch", "--once"], ["watch"], []):
        ran = live.gradscope(*arguments)
        assert ran.returncode == 0, ran.stderr
        assert "fc1" in ran.stdout
        assert "fc2" in ran.stdout
        assert "\x1b" not in ran.stdout


@pytest.mark.parametrize(
    ("name", "value", "has_colors"), [("NO_COLOR", "1", False), ("TERM", "dumb", False)]
)
def test_colours_are_not_forced_on_a_terminal(live, name, value, has_colors):
    terminal = pexpect.spawn(
        sys.executable, ["-m", "gradscope", "watch", "tiny", "--once"],
        env=live.environment | {name: value}, dimensions=(40, 120), timeout=60, encoding="utf-8",
    )  # fmt: skip
    terminal.expect(pexpect.EOF)
    terminal.close()
    assert terminal.exitstatus == 0
    assert "fc1" in terminal.before
    assert ("\x1b[" in terminal.before) is has_colors


def test_two_live_runs_without_a_terminal_are_exit_3_with_their_names(live):
    with live.started_training("second"):
        ran = live.gradscope("watch")
    assert ran.returncode == 3
    assert "tiny" in ran.stderr
    assert "second" in ran.stderr
