"""The server of `gradscope watch --web` in this process; headless Chromium, driven over its DevTools protocol."""

import asyncio
import base64
import itertools
import shutil
import subprocess
import tempfile
import time
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pyte
from aiohttp import web

from gradscope_tui.browser.server import BrowserServer, open_listener
from support.waiting import DEADLINE_S

__all__ = ["Page", "find_chromium", "served"]

COLUMNS, ROWS = 200, 60  # more than the page shows; the terminal addresses cells by row and column


def find_chromium():
    """Return the path of the browser, or None."""
    return shutil.which("chromium") or shutil.which("chromium-browser")


@asynccontextmanager
async def served(command, host="127.0.0.1"):
    """A server with this command for a page's process, and a client that keeps no cookies."""
    with open_listener(host, 0) as listener:
        server = BrowserServer(command, listener, "gradscope: <run>")
        runner = web.AppRunner(await server._make_app())
        await runner.setup()
        await web.SockSite(runner, listener).start()
        async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as client:
            try:
                yield server, client
            finally:
                await runner.cleanup()


class Page:
    """One page. `screen` is what its terminal received; `complaints` are errors and what the console shows."""

    def __init__(self, width=1000, height=600):
        self.width, self.height = width, height
        self.complaints, self.requests, self.urls = [], [], {}
        self.screen = pyte.Screen(COLUMNS, ROWS)
        self._stream = pyte.ByteStream(self.screen)
        self._ids = itertools.count(1)
        self._answers = {}

    async def __aenter__(self):
        self._folder = Path(tempfile.mkdtemp(prefix="chromium-", dir="/tmp"))
        self._process = subprocess.Popen(
            [
                find_chromium(), "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
                "--disable-background-networking", "--disable-component-update", "--disable-sync",
                "--disable-dev-shm-usage", "--remote-debugging-port=0", f"--user-data-dir={self._folder}",
                f"--window-size={self.width},{self.height}", "about:blank",
            ],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        port_file = self._folder / "DevToolsActivePort"
        async with asyncio.timeout(60):
            while not (port_file.exists() and len(port_file.read_text().split()) == 2):
                await asyncio.sleep(0.02)
        port = port_file.read_text().split()[0]
        self._client = aiohttp.ClientSession()
        async with self._client.get(f"http://127.0.0.1:{port}/json") as answer:
            url = next(t["webSocketDebuggerUrl"] for t in await answer.json() if t["type"] == "page")
        self._socket = await self._client.ws_connect(url, max_msg_size=0)
        self._reader = asyncio.create_task(self._read())
        for domain in ("Page", "Runtime", "Log", "Network"):
            await self.command(f"{domain}.enable")
        return self

    async def __aexit__(self, *error):
        await self._socket.close()
        await self._reader
        await self._client.close()
        self._process.terminate()
        self._process.wait(20)
        shutil.rmtree(self._folder, ignore_errors=True)

    async def command(self, method, **parameters):
        """Send a command of the protocol and return its result."""
        number = next(self._ids)
        self._answers[number] = asyncio.get_running_loop().create_future()
        await self._socket.send_json({"id": number, "method": method, "params": parameters})
        async with asyncio.timeout(60):
            return await self._answers[number]

    async def _read(self):
        async for message in self._socket:
            document = message.json()
            if "id" in document:
                answer = self._answers.pop(document["id"])
                if "error" in document:
                    answer.set_exception(RuntimeError(str(document["error"])))
                else:
                    answer.set_result(document["result"])
            else:
                self._note(document["method"], document["params"])

    def _note(self, method, event):
        if method in ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded"):
            self.complaints.append(event)
        elif method == "Network.requestWillBeSent":
            self.requests.append(event["request"]["url"])
        elif method == "Network.webSocketCreated":
            self.requests.append(event["url"])
        elif method == "Network.webSocketFrameReceived" and event["response"]["opcode"] == 2:
            self._stream.feed(base64.b64decode(event["response"]["payloadData"]))

    @property
    def text(self):
        return "\n".join(self.screen.display)

    async def open(self, url):
        await self.command("Page.navigate", url=url)

    async def until(self, *words):
        """Wait until the terminal shows all words."""
        await _until(
            lambda: all(word in self.text for word in words),
            lambda: f"{words}, but it shows:\n{self.text}",
        )

    async def until_closed(self):
        """Wait until the page says that its screen has ended."""
        async with asyncio.timeout(DEADLINE_S):
            while "-closed" not in await self.evaluate("document.body.className"):
                await asyncio.sleep(0.02)

    async def press(self, *keys):
        """Press keys, as a person does."""
        for key in keys:
            text = {"Enter": "\r"}.get(key, key)
            await self.command("Input.dispatchKeyEvent", type="keyDown", key=key, text=text,
                               windowsVirtualKeyCode=13 if key == "Enter" else 0)  # fmt: skip
            await self.command("Input.dispatchKeyEvent", type="keyUp", key=key)

    async def evaluate(self, expression):
        result = await self.command("Runtime.evaluate", expression=expression, returnByValue=True)
        return result["result"].get("value")

    async def picture(self, path):
        """Write a screenshot."""
        Path(path).write_bytes(base64.b64decode((await self.command("Page.captureScreenshot"))["data"]))


async def _until(condition, what):
    deadline_s = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline_s, f"waited {DEADLINE_S} s for: {what()}"
        await asyncio.sleep(0.02)
