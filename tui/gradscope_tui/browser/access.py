"""Who may use the page: a link that works once sets a cookie, and only this server's own page may send requests."""

import hmac
import re
import secrets
from collections.abc import Mapping

__all__ = ["Access", "security_headers"]

_OUR_HOST = re.compile(r"(127\.0\.0\.1|localhost|\[::1\])(:\d+)?", re.ASCII)
"""A request with another name in `Host` comes from a site that resolves to this machine. The port may differ."""

_COOKIE = "gradscope"


class Access:
    """The secrets of one server.

    prefix: the folder of all pages. Browsers send a cookie to every port of a name, but only below its path,
    so other servers of this machine do not receive it.
    """

    def __init__(self) -> None:
        self.prefix = f"/{secrets.token_urlsafe(12)}/"
        self._token = secrets.token_urlsafe(32)
        self._session = secrets.token_urlsafe(32)

    @property
    def link(self) -> str:
        """The path and query of the link that works once."""
        return f"{self.prefix}?token={self._token}"

    def refusal(self, host: str | None, origin: str | None, *, is_websocket: bool) -> str:
        """Return why a request is refused by the address that the browser shows; "" if it is not.

        host, origin: the headers of a request. The origin names the page that sent the request.
        """
        if not _OUR_HOST.fullmatch(host or ""):
            return f"This server answers to 127.0.0.1 and localhost, not to {host!r}."
        if origin != f"http://{host}" and (is_websocket or origin is not None):
            return f"Only the page of this server may connect to it, not one of {origin!r}."
        return ""

    def is_known(self, cookies: Mapping[str, str]) -> bool:
        """Return whether a request has the cookie."""
        return _are_equal(cookies.get(_COOKIE, ""), self._session)

    def exchange(self, token: str) -> dict[str, object] | None:
        """Return the cookie for the token of the link, as arguments of `set_cookie`; None if it is wrong or used."""
        if not self._token or not _are_equal(token, self._token):
            return None
        self._token = ""
        return {
            "name": _COOKIE,
            "value": self._session,
            "path": self.prefix,
            "httponly": True,
            "samesite": "Strict",
        }


def _are_equal(one: str, other: str) -> bool:
    return hmac.compare_digest(one.encode("utf-8", "surrogateescape"), other.encode())


def security_headers(host: str | None) -> dict[str, str]:
    """Return the headers that forbid the page everything but this server."""
    policy = {
        "default-src": "'none'",
        "script-src": "'self'",
        "style-src": "'self' 'unsafe-inline'",  # the terminal makes style elements for its colours
        "font-src": "'self'",
        "img-src": "'self' data:",
        "connect-src": f"'self' ws://{host}" if _OUR_HOST.fullmatch(host or "") else "'self'",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
    }
    return {
        "Content-Security-Policy": "; ".join(f"{key} {value}" for key, value in policy.items()),
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cross-Origin-Resource-Policy": "same-origin",
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
        "Cache-Control": "no-store",
    }
