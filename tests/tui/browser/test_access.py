"""Who may use the page: the server of the UI, and requests of browsers, other sites and other users."""

import asyncio
import re
import sys
from http.cookies import SimpleCookie
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from gradscope.errors import UsageError

aiohttp = pytest.importorskip("aiohttp", reason="the extra 'web' is not installed")
pytest.importorskip("textual_serve", reason="the extra 'web' is not installed")


from gradscope_tui.browser.server import open_listener
from support.browser import served

WAITING = "import sys; print('__GANGLION__', flush=True); sys.stdin.buffer.read(1)"
NO_PROCESS = [sys.executable, "-c", "raise SystemExit('a process was started')"]


@pytest.fixture
async def open_server():
    async with served(NO_PROCESS) as (server, client):
        yield server, client


async def _cookie(server, client):
    """Use the link and return the headers of the session."""
    async with client.get(server.link) as answer:
        assert answer.status == 200
        (cookie,) = SimpleCookie(answer.headers["Set-Cookie"]).values()
        return {"Cookie": f"{cookie.key}={cookie.value}"}, cookie


def _page(server):
    return server.link.partition("?")[0]


def _origin(server):
    return "http://" + urlsplit(server.link).netloc


async def _status(client, url, headers=None, method="GET"):
    async with client.request(method, url, headers=headers or {}) as answer:
        return answer.status


async def test_without_the_cookie_nothing_is_served(open_server):
    server, client = open_server
    page = _page(server)
    for path in ("", "ws", "page.js", "static/js/textual.js", "static/", "nothing"):
        assert await _status(client, page + path) == 403
        assert await _status(client, page + path, {"Cookie": "gradscope=guess"}) == 403
        assert await _status(client, page + path, {"Cookie": "gradscope="}) == 403
    assert await _status(client, _origin(server) + "/") == 403
    with pytest.raises(aiohttp.WSServerHandshakeError, match="403"):
        await client.ws_connect(page + "ws", headers={"Origin": _origin(server)})


async def test_the_link_works_once_and_its_cookie_is_for_this_server_only(open_server):
    server, client = open_server
    assert await _status(client, _page(server) + "?token=wrong") == 403
    assert await _status(client, _page(server) + "?token=") == 403
    assert (
        await _status(client, server.link, method="HEAD") == 403
    )  # a preview of a link does not use it up
    link = server.link
    headers, cookie = await _cookie(server, client)
    assert cookie["httponly"]
    assert cookie["samesite"] == "Strict"
    assert _page(server).endswith(cookie["path"])
    assert len(cookie["path"]) > 12  # unknown to other servers of the same name
    assert not cookie["max-age"]
    assert not cookie["expires"]
    async with client.get(link) as answer:
        assert answer.status == 403
        assert "This link has been used" in await answer.text()
    assert await _status(client, link, headers) == 200  # the same browser may load it again
    assert cookie.value not in link


async def test_another_site_that_resolves_to_this_machine_is_refused(open_server):
    server, client = open_server
    headers, _ = await _cookie(server, client)
    port = urlsplit(server.link).port
    for host in ("evil.example", f"evil.example:{port}", "127.0.0.1.evil.example", "localhost@evil.example",
                 f"localhost:{port};script-src *", "0.0.0.0", "127.0.0.2", ""):  # fmt: skip
        async with client.get(_page(server), headers=headers | {"Host": host}) as answer:
            assert answer.status in (400, 403)
            assert "evil" not in str(answer.headers)
    for host in (f"localhost:{port}", "127.0.0.1:9000", "[::1]:80"):  # 9000: forwarded by ssh -L
        assert await _status(client, _page(server), headers | {"Host": host}) == 200


async def test_a_page_of_another_origin_cannot_connect(open_server):
    server, client = open_server
    headers, _ = await _cookie(server, client)
    port = urlsplit(server.link).port
    for origin in ("http://evil.example", f"https://127.0.0.1:{port}", "http://127.0.0.1:1", "null", None,
                   f"http://localhost:{port}"):  # fmt: skip
        given = headers | ({"Origin": origin} if origin else {})
        with pytest.raises(aiohttp.WSServerHandshakeError, match="403"):
            await client.ws_connect(_page(server) + "ws", headers=given)
        if origin:
            assert await _status(client, _page(server), given) == 403
    assert await _status(client, _page(server), headers | {"Origin": _origin(server)}) == 200


async def test_the_page_asks_no_other_site(open_server):
    server, client = open_server
    headers, _ = await _cookie(server, client)
    async with client.get(_page(server), headers=headers) as answer:
        text, policy = await answer.text(), answer.headers["Content-Security-Policy"]
    assert "gradscope: &lt;run&gt;" in text
    assert re.findall(r"\w+://[^/\"]*", text) == [_origin(server).replace("http", "ws")]
    for file in {
        *re.findall(r"(?:href|src)=\"([^\"]+)\"", text),
        *re.findall(r"url\(\"(.*?)\"\)", text),
    }:
        if file != "data:,":
            assert await _status(client, _page(server) + file, headers) == 200, file
    assert "default-src 'none'; script-src 'self';" in policy
    async with client.get(_origin(server)) as refused:
        assert "default-src 'none'" in refused.headers["Content-Security-Policy"]
        assert refused.headers["Referrer-Policy"] == "no-referrer"


@pytest.mark.parametrize(
    "message", ["garbage", "{}", "[]", "3", '["stdin"]', '["resize", 1]', '["stdin", 5]']
)
async def test_a_message_that_the_page_does_not_send_ends_the_page(message, caplog):
    async with served([sys.executable, "-c", WAITING]) as (server, client):
        headers, _ = await _cookie(server, client)
        headers["Origin"] = _origin(server)
        async with client.ws_connect(_page(server) + "ws", headers=headers) as page:
            await page.send_str(message)
            assert (await page.receive(timeout=30)).type == aiohttp.WSMsgType.CLOSE
            async with asyncio.timeout(30):
                while server._open:
                    await asyncio.sleep(0.01)
    assert "Traceback" not in caplog.text


async def test_the_page_is_closed_if_a_process_cannot_start(open_server, capfd):
    server, client = open_server
    headers, _ = await _cookie(server, client)
    async with client.ws_connect(
        _page(server) + "ws", headers=headers | {"Origin": _origin(server)}
    ) as page:
        message = await page.receive(timeout=30)
    assert message.type in (aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSED)
    assert "a process was started" in capfd.readouterr().out


@pytest.mark.skipif(not Path("/proc/net/if_inet6").exists(), reason="this machine has no IPv6")
async def test_it_serves_the_other_loopback_address():
    async with served(NO_PROCESS, "::1") as (server, client):
        assert urlsplit(server.link).hostname == "::1"
        headers, _ = await _cookie(server, client)
        assert await _status(client, _page(server), headers) == 200
        assert server.ssh_line("host") == f"ssh -L {server.port}:[::1]:{server.port} host"


def test_an_address_that_others_can_reach_is_refused():
    for host in ("0.0.0.0", "::", "192.168.0.1", "example.org", ""):
        with pytest.raises(UsageError, match=r"for this machine only.*ssh -L"):
            open_listener(host, 0)


def test_a_port_in_use_is_said():
    with open_listener("localhost", 0) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(
            UsageError, match=rf"port {port} of 127.0.0.1 \(Address already in use\); choose"
        ):
            open_listener("127.0.0.1", port)
