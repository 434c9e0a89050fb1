"""The server of the page: textual-serve's, for this machine only, with access by one link."""

import asyncio
import html
import os
import shlex
import socket
from collections.abc import Awaitable, Callable, Sequence
from importlib import resources
from string import Template

from aiohttp import web
from textual_serve.server import Server, to_int

from gradscope.errors import UsageError
from gradscope_tui.browser.access import Access, security_headers
from gradscope_tui.browser.app_process import AppProcess

__all__ = ["BrowserServer", "open_listener"]

_SHUTDOWN_S = 5.0
_WRONG_MESSAGE = (AssertionError, AttributeError, LookupError, TypeError, ValueError)
"""What textual-serve raises for a message that is not one of its page."""

_USED = (
    "This link has been used, or is not complete. Open the page in the browser that used it, "
    "or start gradscope watch --web again."
)


def open_listener(host: str, port: int) -> socket.socket:
    """Return a listening socket of this machine only; port 0 is any free one.

    Raises UsageError for another interface, or if the port is in use.
    """
    if host not in ("127.0.0.1", "::1", "localhost"):
        raise UsageError(
            f"expected --host 127.0.0.1 or ::1, got {host!r}: the page is for this machine only. From another one, "
            "forward the port: ssh -L PORT:127.0.0.1:PORT HOST"
        )
    family = socket.AF_INET6 if host == "::1" else socket.AF_INET
    address = "127.0.0.1" if host == "localhost" else host
    try:
        return socket.create_server((address, port), family=family)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise UsageError(
            f"cannot listen on port {port} of {address} ({reason}); choose another with --port, or leave it out"
        ) from None


class BrowserServer(Server):
    """Serves one page; each page that is open has a process of the UI.

    command: the arguments of that process. listener: what `open_listener` returned; it is closed when `serve` ends.
    """

    def __init__(self, command: Sequence[str], listener: socket.socket, title: str) -> None:
        host, port = listener.getsockname()[:2]
        self._address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        super().__init__(shlex.join(command), host, port, title)
        self._listener = listener
        self._access = Access()
        self._open: dict[web.WebSocketResponse, AppProcess] = {}

    @property
    def link(self) -> str:
        """The address to open. It works once."""
        return f"http://{self._address}{self._access.link}"

    def ssh_line(self, host: str) -> str:
        """Return the command that forwards the port from another machine."""
        return f"ssh -L {self.port}:{self._address} {host}"

    def serve(self, debug: bool = False) -> None:  # noqa: ARG002 - textual-serve's signature
        """Serve until SIGINT or SIGTERM. All processes of the UI have ended when it returns."""
        web.run_app(
            self._make_app(),
            sock=self._listener,
            print=None,
            access_log=None,
            shutdown_timeout=_SHUTDOWN_S,
        )

    async def _make_app(self) -> web.Application:
        app = web.Application(middlewares=[self._guard])
        prefix = self._access.prefix
        app.add_routes(
            [
                web.get(prefix, self.handle_index, allow_head=False),
                web.get(f"{prefix}page.js", self.handle_script, allow_head=False),
                web.get(f"{prefix}ws", self.handle_websocket, allow_head=False),
                web.static(f"{prefix}static", self.statics_path),
            ]
        )
        app.on_response_prepare.append(_add_headers)
        app.on_shutdown.append(self.on_shutdown)
        return app

    @web.middleware
    async def _guard(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        """Refuse a request of another site, and one without the cookie or the link."""
        is_websocket = "Upgrade" in request.headers
        origin = request.headers.get("Origin")
        if text := self._access.refusal(request.headers.get("Host"), origin, is_websocket=is_websocket):
            return web.Response(status=403, text=text)
        if self._access.is_known(request.cookies):
            return await handler(request)
        cookie = None
        if request.method == "GET" and request.path == self._access.prefix:
            cookie = self._access.exchange(request.query.get("token", ""))
        if cookie is None:
            return web.Response(status=403, text=_USED)
        # A page of our own, and not a redirect: after a link on another site, the cookie would not be sent with it.
        text = f'<link rel="icon" href="data:,"><meta http-equiv="refresh" content="0; url={self._access.prefix}">'
        response = web.Response(text=text, content_type="text/html")
        response.set_cookie(**cookie)
        return response

    async def handle_index(self, request: web.Request) -> web.Response:
        """Return the page."""
        websocket = f"ws://{request.headers['Host']}{self._access.prefix}ws"
        values = {"title": html.escape(self.title), "websocket": html.escape(websocket)}
        text = Template(_read("page.html")).substitute(values)
        return web.Response(text=text, content_type="text/html")

    async def handle_script(self, request: web.Request) -> web.Response:  # noqa: ARG002 - aiohttp's signature
        """Return the page's own script."""
        return web.Response(text=_read("page.js"), content_type="text/javascript")

    async def handle_websocket(self, request: web.Request) -> web.WebSocketResponse:
        """Run a process of the UI as long as the page is open."""
        websocket = web.WebSocketResponse(heartbeat=15)
        await websocket.prepare(request)
        process = AppProcess(
            self.command,
            write_bytes=websocket.send_bytes,
            write_str=websocket.send_str,
            close=websocket.close,
            download_manager=self.download_manager,
        )
        self._open[websocket] = process
        try:
            await process.start(
                to_int(request.query.get("width", ""), 80), to_int(request.query.get("height", ""), 24)
            )
            await self._process_messages(websocket, process)
        except _WRONG_MESSAGE:
            pass  # not from our page: the connection ends
        finally:
            await process.stop()
            self._open.pop(websocket)
        return websocket

    async def on_shutdown(self, app: web.Application) -> None:  # noqa: ARG002 - textual-serve's signature
        """End all processes of the UI."""
        pages = list(self._open.items())
        await asyncio.gather(*(process.stop() for _, process in pages))
        await asyncio.gather(*(websocket.close() for websocket, _ in pages))


async def _add_headers(request: web.Request, response: web.StreamResponse) -> None:
    response.headers.update(security_headers(request.headers.get("Host")))


def _read(name: str) -> str:
    return resources.files("gradscope_tui.browser").joinpath(name).read_text(encoding="utf-8")
