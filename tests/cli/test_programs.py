"""What programs and assistants call: `--json` of all commands, and `gradscope mcp`, on a training that runs."""

import json
import math
import os
import re
import sys
from importlib import metadata
from pathlib import Path

import anyio
import pytest
from typer.testing import CliRunner

from gradscope.catalogue import INTERVENTIONS
from gradscope.cli.app import app
from support import fork_server
from support.waiting import wait_for

PAGE = Path(__file__).parents[2] / "docs" / "programs.md"
READERS = ["list_runs", "diagnose", "snapshot", "layers"]


@pytest.fixture
def ask(live, monkeypatch):
    """Return a function: the documents that a command of this process prints with --json."""
    for name, value in live.environment.items():
        monkeypatch.setenv(name, value)

    def run(*arguments, code=0):
        ran = CliRunner().invoke(app, [*arguments, "--json"])
        assert code is None or ran.exit_code == code, ran.output
        text = ran.stdout.strip()
        documents = json.loads(
            f"[{','.join(text.splitlines())}]" if text.startswith('{"') else f"[{text}]"
        )
        assert all(document["version"] == 1 for document in documents)
        return documents

    return run


def test_every_command_that_prints_can_print_json(ask, tmp_path):
    (paused,) = ask("pause", "tiny", "--lease", "120")
    (stepped,) = ask("step", "tiny")
    assert stepped["step"] == paused["step"]
    assert ask("resume", "tiny")[0]["step"] == paused["step"] + 1

    (scaled,) = ask("scale", "tiny", "fc*", "--factor", "2", "--keep")
    assert scaled["layers"] == ["fc1", "fc2"]
    (active,) = ask("interventions", "tiny")
    assert [(e["id"], e["arguments"]) for e in active["interventions"]] == [
        (scaled["id"], {"factor": 2.0})
    ]
    assert active["python"]
    assert ask("remove", "tiny", scaled["id"])[0]["step"] > scaled["step"]

    def events():
        return [e["text"] for e in ask("interventions", "tiny", "--history")[0]["history"]]

    wait_for(lambda: any(scaled["id"] in text for text in events()))
    assert "amplify" in {action["name"] for action in ask("intervene", "tiny")[0]["actions"]}

    (point,) = ask("break", "tiny", "step == 0")
    assert [each["id"] for each in ask("breakpoints", "tiny")[0]["breakpoints"]] == [point["id"]]
    assert ask("unbreak", "tiny", point["id"])[0]["id"] == point["id"]

    (rule,) = ask("rule", "tiny", "exploding", "--threshold", "100", "--layers", "fc*")
    (listed,) = ask("rules", "tiny")[0]["rules"]
    assert listed["id"] == rule["id"]
    assert listed["setting"] == {
        "rule": "exploding", "action": "event", "threshold": [100.0], "patience": None, "layers": ["fc*"],
    }  # fmt: skip
    assert ask("unrule", "tiny", rule["id"])[0]["id"] == rule["id"]

    (captured,) = ask("capture", "tiny", "fc1", "--save", str(tmp_path / "fc1.npy"))
    assert captured["tensors"][0]["shape"] == [2, 4]
    assert captured["saved"] == [str(tmp_path / "fc1.npy")]
    begun, *steps = ask("focus", "tiny", "fc1", "--steps", "2")
    assert begun["layers"] == ["fc1"]
    assert [list(step["layers"]) for step in steps] == [["fc1"], ["fc1"]]

    assert ask("wait", "tiny", "--until", "step=1")[0]["has_happened"]
    assert not ask("wait", "tiny", "--until", "nan", "--timeout", "0.1", code=1)[0]["has_happened"]
    assert ask("ls")[0]["runs"][0]["run"] == "tiny"
    assert ask("config")[0]["hub"] == "listens"
    assert ask("diagnose", "tiny", code=None)[0]["run"] == "tiny"
    assert ask("snapshot", "tiny", "--around", "3")[0]["asked_step"] == 3
    assert ask("watch")[0]["run"] == "tiny"
    assert "dead-units" in {code["name"] for code in ask("explain")[0]["codes"]}
    assert ask("explain", "dead-units")[0]["page"].startswith("# dead-units")


@pytest.mark.parametrize(
    ("place", "arguments", "shown"),
    [
        (0, ["tiny", "step=1"], " loss ["),
        pytest.param(1, ["tiny"], "'layer': 'fc1', 'type': 'Linear'", marks=pytest.mark.exhaustive),
    ],
)
def test_the_whole_scripts_of_the_page_run(live, tmp_path, place, arguments, shown):
    if place:
        pytest.importorskip("mcp", reason="the package mcp is not installed")
    scripts = re.findall(
        r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    )
    (tmp_path / "script.py").write_text(scripts[place], encoding="utf-8")
    command = tmp_path / "gradscope"  # as an installed command
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m gradscope "$@"\n', encoding="utf-8")
    command.chmod(0o700)
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    ran = fork_server.run(
        [sys.executable, tmp_path / "script.py", *arguments],
        env=live.environment | {"PATH": path},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert ran.returncode == 0, ran.stderr
    assert shown in ran.stdout


def test_a_missing_package_is_an_error_with_the_line_for_pip(monkeypatch):
    def missing(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", missing)
    ran = CliRunner().invoke(app, ["mcp"])
    assert ran.exit_code == 2
    assert "pip install 'mcp>=" in ran.output
    monkeypatch.setattr(metadata, "version", lambda _name: "1.9")
    assert "1.9 is installed: pip install 'mcp>=" in CliRunner().invoke(app, ["mcp"]).output


def tools(*, may_control):
    pytest.importorskip("mcp", reason="the package mcp is not installed")
    from gradscope.cli.commands import mcp_server

    return mcp_server.tools(may_control=may_control)


def test_without_control_there_are_only_tools_that_read():
    found = tools(may_control=False)
    assert [tool.name for tool in found] == READERS
    assert all(tool.is_readonly for tool in found)


def test_with_control_there_is_a_tool_for_each_intervention_of_the_catalogue():
    found = {tool.name: tool for tool in tools(may_control=True)}
    assert list(found) == [*READERS, *INTERVENTIONS, "remove"]
    for name, spec in INTERVENTIONS.items():
        schema = found[name].schema
        assert {argument.name for argument in spec.arguments} <= set(schema["properties"])
        assert {"run", "layers", "steps"} <= set(schema["required"])
        assert json.loads(json.dumps(schema, allow_nan=False)) == schema
        assert not found[name].is_readonly


def test_an_assistant_reads_a_run_and_changes_it(live):
    pytest.importorskip("mcp", reason="the package mcp is not installed")
    from mcp import StdioServerParameters
    from mcp.client import Client
    from mcp.client.stdio import stdio_client

    async def ask(client, name, **arguments):
        result = await client.call_tool(name, arguments)
        (content,) = result.content
        return content.text if result.is_error else json.loads(content.text)

    async def grad_norm(client):
        found = await ask(client, "layers", run="tiny", layers=["fc2"])
        (row,) = found["layers"]
        return found, dict(zip(found["columns"], row, strict=True))["grad_norm"]

    async def session():
        server = StdioServerParameters(
            command=sys.executable, args=["-m", "gradscope", "mcp", "--control"], env=live.environment
        )
        async with Client(stdio_client(server)) as client:
            listed = await client.list_tools()
            assert {"snapshot", "scale"} <= {tool.name for tool in listed.tools}
            assert "no run 'nope'" in await ask(client, "diagnose", run="nope")
            assert "'layers' is a required" in await ask(client, "layers", run="tiny")
            assert "factor" in await ask(client, "scale", run="tiny", layers=["fc2"], steps=5)
            runs = (await ask(client, "list_runs"))["runs"]
            assert [(run["run"], run["state"]) for run in runs] == [("tiny", "live")]
            assert (await ask(client, "diagnose", run="tiny"))["run"] == "tiny"
            while (await ask(client, "snapshot", run="tiny"))["step"] is None:
                pass  # no step has been observed yet
            # The loss is the sum of 2 x 4 outputs, so each has the gradient 1.
            assert (await grad_norm(client))[1] == pytest.approx(math.sqrt(8), rel=1e-4)

            done = await ask(client, "scale", run="tiny", layers=["fc2"], factor=3.0, steps=1_000_000)
            assert done["layers"] == ["fc2"]
            found, norm = await grad_norm(client)
            while found["step"] < done["step"]:
                found, norm = await grad_norm(client)
            assert norm == pytest.approx(3 * math.sqrt(8), rel=1e-4)
            assert [each["id"] for each in found["interventions"]] == [done["id"]]
            removed = await ask(client, "remove", run="tiny", id=done["id"])
            assert removed["step"] > done["step"]

    async def limited():
        with anyio.fail_after(100):
            await session()

    anyio.run(limited)
