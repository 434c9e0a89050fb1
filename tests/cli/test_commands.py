"""The commands where nothing runs: their names, their help, their exit codes."""

import json
import re
import subprocess
import sys
import time

import pytest
from typer.testing import CliRunner

from gradscope.cli.app import app

OPTIONS = {
    "demo": {"--seed"},
    "watch": {"--once", "--tab", "--readonly", "--json", "--web", "--control", "--host", "--port"},
    "ls": {"--json", "--size"},
    "rm": {"--json"},
    "pin": {"--json"},
    "unpin": {"--json"},
    "clip": {"--max-norm", "--per"},
    "clamp": {"--limit"},
    "scale": {"--factor"},
    "reverse": {"--alpha"},
    "stop": set(),
    "noise": {"--std", "--seed", "--relative"},
    "intervene": {"--set"},
    "interventions": {"--history", "--python", "--json"},
    "remove": {"--all", "--timeout", "--json"},
    "pause": {"--lease", "--timeout", "--json"},
    "resume": {"--timeout", "--json"},
    "step": {"--lease", "--timeout", "--json"},
    "break": {"--lease", "--timeout", "--json"},
    "unbreak": {"--timeout", "--json"},
    "breakpoints": {"--json"},
    "rule": {
        *("--action", "--threshold", "--patience", "--layers", "--seconds", "--timeout", "--json"),
    },
    "unrule": {"--timeout", "--json"},
    "rules": {"--json"},
    "wait": {"--until", "--timeout", "--notify", "--json"},
    "capture": {"--what", "--save", "--fault", "--timeout", "--json"},
    "focus": {"--steps", "--timeout", "--json"},
    "undo": {"--timeout", "--json"},
    "config": {"--json"},
    "run": {
        *("--name", "--layers", "--budget", "--every", "--detail", "--record", "--no-record"),
        *("--control", "--no-control", "--quiet", "--children"),
    },
    "diagnose": {"--json"},
    "diff": {"--from", "--to", "--rtol", "--ranks", "--json"},
    "explain": {"--json"},
    "report": {"--output", "--layers", "--force", "--json"},
    "replay": {"--against", "--step", "--tab"},
    "export": {
        "--output",
        "--format",
        "--layers",
        "--kinds",
        "--stats",
        "--steps",
        "--force",
        "--json",
    },
    "snapshot": {"--around", "--layers", "--json"},
    "mcp": {"--control"},
    "forward": {"--to", "--dir", "--project", "--name", "--layers", "--json"},
    "serve": {"--bind", "--json"},
    "key": set(),
    "doctor": {"--format", "--json", "--isolate", "--approximate", "--no-second-order", "--timeout"},
}
HOW = {
    "--steps", "--for", "--keep", "--timeout", "--site", "--from-step", "--until-step", "--every",
    "--ramp", "--when", "--json",
}  # fmt: skip
INTERVENTIONS = {"clip", "clamp", "scale", "reverse", "stop", "noise", "intervene"}


def help_of(*arguments):
    """Return the help of a command, printed in this process: its 28 commands would take as many others."""
    return CliRunner().invoke(app, [*arguments, "--help"]).stdout


def test_the_commands_and_their_options_are_these_and_no_others():
    listed = re.findall(r"^  (\w+)  ", help_of().split("Commands:")[1], re.MULTILINE)
    assert set(listed) == set(OPTIONS)
    for name, options in OPTIONS.items():
        found = set(re.findall(r"--[a-z][a-z-]*", help_of(name).split("Options:")[1]))
        assert found == options | (HOW if name in INTERVENTIONS else set()) | {"--help"}, name


def test_the_commands_of_key_and_their_options_are_these_and_no_others():
    options = {
        "new": set(),
        "list": set(),
        "authorize": {"--name", "--role", "--server"},
        "revoke": set(),
    }
    listed = re.findall(r"^  (\w+)  ", help_of("key").split("Commands:")[1], re.MULTILINE)
    assert set(listed) == set(options)
    for name, expected in options.items():
        found = set(re.findall(r"--[a-z][a-z-]*", help_of("key", name).split("Options:")[1]))
        assert found == expected | {"--json", "--help"}, name


def test_help_and_version_load_nothing_heavy(record_property):
    for option in ("--help", "--version"):
        script = f"""
import sys
sys.argv = ["gradscope", "{option}"]
from gradscope.cli import main
try:
    main()
except SystemExit as end:
    assert not end.code
heavy = {{"torch", "zmq", "numpy", "textual", "msgspec", "sqlite3", "rich"}}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
"""
        started_s = time.monotonic()
        subprocess.run(
            [sys.executable, "-c", script], check=True, stdout=subprocess.DEVNULL, timeout=30
        )
        record_property(f"{option}_s", time.monotonic() - started_s)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["clip"], "run"),
        (["clip", "r", "fc1", "--keep"], "--max-norm"),
        (["clip", "r", "fc1", "--max-norm", "much", "--keep"], "--max-norm"),
        (["reverse", "r", "fc1", "--keep", "--steps", "3"], "got 2 of them"),
        (["stop", "r", "fc1", "--steps", "0"], "--steps"),
        (["remove", "r"], "--all"),
        (["remove", "r", "reverse-1", "--all"], "--all"),
        (["halt", "r"], "halt"),
        (["watch", "--tab", "nothing"], "layers, findings or memory"),
        (["ls", "--all"], "--all"),
    ],
)
def test_wrong_usage_is_exit_2_and_says_what_is_wrong(places, gradscope, arguments, words):
    ran = gradscope(*arguments)
    assert ran.returncode == 2
    assert words.lower() in ran.stderr.lower()
    assert ran.stdout == ""


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["watch"],
        ["watch", "gpt"],
        ["watch", "--once"],
        ["interventions", "gpt"],
        ["remove", "gpt", "--all"],
        ["pause", "gpt"],
        ["break", "gpt", "loss > 10"],
        ["capture", "gpt", "fc1"],
        ["undo", "gpt"],
        ["scale", "gpt", "fc1", "--factor", "-1", "--keep"],
    ],
)
def test_with_nothing_to_connect_to_it_is_exit_3_and_says_what_to_do(places, gradscope, arguments):
    ran = gradscope(*arguments)
    assert ran.returncode == 3
    assert ran.stderr.startswith("gradscope: no hub is running at ")
    assert "gradscope demo" in ran.stderr
    assert ran.stdout == ""


def test_a_runtime_directory_that_is_open_to_others_is_exit_3_with_the_remedy(places, gradscope):
    (places / "run").mkdir(mode=0o755)
    ran = gradscope("watch")
    assert ran.returncode == 3
    assert f"chmod 700 {places / 'run'}" in ran.stderr


def test_config_tells_where_everything_is(places, gradscope):
    found = json.loads(gradscope("config", "--json").stdout)
    assert found["runtime directory"] == str(places / "run")
    assert found["recordings"] == str(places / "data" / "recordings")
    assert found["hub"] == "none runs"
    assert found["hub's process"] is None
    assert found["CUDA pass"].startswith(("triton ", "eager: "))
    assert found["gradscope"]
    lines = gradscope("config").stdout.splitlines()
    assert [line.split("  ")[0] for line in lines] == list(found)[1:]
