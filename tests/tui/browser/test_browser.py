"""`gradscope watch --web`, as a person uses it: the command, a browser, and a training that is changed."""

import asyncio
import signal
import subprocess
import sys
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import gradscope
from gradscope.cli.app import app
from gradscope.client import connect
from support import fork_server
from support.hubs import is_alive
from support.waiting import DEADLINE_S, wait_for

aiohttp = pytest.importorskip("aiohttp", reason="the extra 'web' is not installed")
pytest.importorskip("textual_serve", reason="the extra 'web' is not installed")

from support.browser import Page, find_chromium, served

pytestmark = [pytest.mark.processes, pytest.mark.usefixtures("hub")]

PROCESS = [sys.executable, "-P", "-m", "gradscope_tui.browser"]

needs_chromium = pytest.mark.skipif(find_chromium() is None, reason="Chromium is not installed")


@contextmanager
def serving(*options, ends_by=signal.SIGINT):
    """`gradscope watch --web`; gives its process and the link that it printed."""
    process = fork_server.Popen(
        [sys.executable, "-m", "gradscope", "watch", "--web", *options],
        preload=["gradscope.cli.app"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        yield process, process.stdout.readline().strip()
    finally:
        pages = children(process)
        process.send_signal(ends_by)
        _, complaints = process.communicate(timeout=60)
        assert process.returncode == (-9 if ends_by == signal.SIGKILL else 0), complaints
        wait_for(lambda: not any(map(is_alive, pages)), "the end of the pages' processes")


def children(process):
    """Return the processes that a process has started."""
    path = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    return [int(pid) for pid in path.read_text().split()]


@asynccontextmanager
async def training():
    """A model that makes the same step again and again: its learning rate is 0."""
    torch.manual_seed(0)
    model = nn.Sequential()
    for name in ("fc1", "act", "fc2"):
        model.add_module(name, nn.Tanh() if name == "act" else nn.Linear(4, 4))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    x = torch.randn(2, 4)

    def step():
        optimizer.zero_grad()
        model(x).square().sum().backward()
        optimizer.step()

    async def train():
        while True:
            step()
            await asyncio.sleep(0.05)

    with gradscope.attach(model, optimizer, name="tiny", record=False, quiet=True):
        with connect(None, want="observe") as client:
            wait_for(lambda: any(run.run == "tiny" for run in client.runs()), "the run")
        step()
        task = asyncio.create_task(train())
        try:
            yield model
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


def errors(page):
    """Return what the console shows as an error."""
    return [each for each in page.complaints if "error" in (each.get("entry", each).get("level"), each.get("type"))
            or "exceptionDetails" in each]  # fmt: skip


@pytest.mark.exhaustive
@needs_chromium
async def test_a_reversal_set_in_the_browser_acts_in_the_training(tmp_path):
    async with (
        training() as model,
        Page() as page,
        served([*PROCESS, "--control", "tiny"]) as (server, _),
    ):
        expected = -model.fc1.weight.grad
        link = server.link
        await page.open(link)
        await page.until("tiny", "fc1", "live")
        await page.press("j", "i")
        await page.until("a key selects")
        await page.press("r")
        await page.until("enter applies", "multiplied")
        await page.press("Enter")
        await page.until("◆ 1 active", "active since step")
        assert torch.equal(model.fc1.weight.grad, expected)
        await page.press("X")
        await page.until("4 Interventions   5 Log")
        assert torch.equal(model.fc1.weight.grad, -expected)
        assert await page.evaluate("document.fonts.check('16px \"Roboto Mono\"')")
        assert await page.evaluate("document.querySelectorAll('canvas').length") > 0
        origin = link.partition("?")[0].split("://")[1]
        assert [url for url in page.requests if url.split("://")[1][: len(origin)] != origin] == []
        assert errors(page) == []
        await page.picture(tmp_path / "page.png")


@pytest.mark.exhaustive
@needs_chromium
async def test_without_control_the_browser_cannot_change_the_training():
    async with training() as model, Page() as page, served([*PROCESS, "tiny"]) as (server, _):
        before = model.fc1.weight.grad.clone()
        await page.open(server.link)
        await page.until("tiny", "fc1", "live", "read-only")
        await page.press("j", "i")
        await page.until("opened read-only", "--web --control")
        assert "reverse" not in page.text
        assert torch.equal(model.fc1.weight.grad, before)
        await page.press("q")
        await page.until_closed()


@pytest.mark.parametrize("ends_by", [signal.SIGINT, signal.SIGKILL], ids=["ctrl-c", "kill"])
async def test_each_page_has_a_process_that_ends_with_it_or_with_the_server(ends_by):
    async with training(), aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True)) as client:
        with serving(ends_by=ends_by) as (process, link):
            page, origin = link.partition("?")[0], "/".join(link.split("/")[:3])
            await (await client.get(link)).read()
            sockets = [
                await client.ws_connect(page + "ws", headers={"Origin": origin}) for _ in range(2)
            ]
            for socket in sockets:
                await _until_shown(socket, b"fc1")
            await sockets[1].send_json(["stdin", "i"])
            await _until_shown(sockets[1], b"opened")
            first, second = children(process)
            await sockets[0].close()
            while len(children(process)) == 2:
                await asyncio.sleep(0.02)
            assert is_alive(second) != is_alive(first)


async def _until_shown(socket, words):
    received = b""
    async with asyncio.timeout(DEADLINE_S):
        while words not in received:
            message = await socket.receive()
            received += message.data if message.type == aiohttp.WSMsgType.BINARY else b""


def test_a_missing_package_is_named_with_the_line_for_pip(monkeypatch):
    monkeypatch.setitem(sys.modules, "aiohttp", None)
    monkeypatch.delitem(sys.modules, "gradscope_tui.browser.server")
    ran = CliRunner().invoke(app, ["watch", "--web"])
    assert ran.exit_code == 2
    assert "--web needs aiohttp, which is not installed: pip install 'gradscope[web]'" in ran.stderr


def test_what_cannot_be_served_is_said():
    for options, words in (
        (["tiny", "--control"], "belong to --web"),
        (["tiny", "--port", "80"], "belong to --web"),
        (["tiny", "--web", "--once"], "expected --web without --once"),
        (["tiny", "--web", "--control", "--readonly"], "not with both"),
        (["tiny", "--web", "--host", "0.0.0.0"], "for this machine only"),
        (["tiny", "--web"], "there is no run 'tiny'"),
    ):
        ran = CliRunner().invoke(app, ["watch", *options])
        assert ran.exit_code in (2, 3)
        assert words in ran.stderr
