"""Who may ask: the header Host against rebinding of names, Origin against other pages, a token against other people."""

from __future__ import annotations

import hmac
import re
from collections.abc import Collection, MutableMapping
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from regraft.serving.problems import ProblemError

#: What this machine calls itself.
LOOPBACK = ("localhost", "127.0.0.1", "[::1]")

#: Open to everybody who reaches the server: pages without data, and whether it is alive.
OPEN = frozenset({"/", "/docs", "/openapi.json", "/health", "/v2/health/live", "/v2/health/ready"})

_HOST = re.compile(r"(?P<name>\[[0-9a-f:.]+\]|[^\s:/@\[\]]+)(:\d{1,5})?")

_HEADERS = {
    "X-Content-Type-Options": "nosniff", "X-Frame-Options": "DENY", "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Resource-Policy": "same-origin",
}

#: For everything but the pages, which bring a policy of their own.
_POLICY = "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"


class Guard:
    """Refuses foreign hosts, pages and people before anything else happens; sets the headers of every answer.

    ``hosts`` are the names that the server answers for, of any port: a tunnel may change it.
    """

    def __init__(self, app: ASGIApp, hosts: Collection[str], token: str | None) -> None:
        self._app = app
        self._hosts = frozenset(host.lower() for host in hosts)
        self._token = token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                _secure(message)
            await send(message)

        problem = self._problem(scope)
        await (self._app if problem is None else problem.response())(scope, receive, guarded)

    def _problem(self, scope: MutableMapping[str, Any]) -> ProblemError | None:
        headers = Headers(scope=scope)
        host = headers.get("host", "").lower()
        named = _HOST.fullmatch(host)
        if named is None or named["name"] not in self._hosts:
            return ProblemError("host", "this server does not answer for that host; --allow-host adds one")
        origins = headers.getlist("origin")
        if any(origin.lower() not in (f"http://{host}", f"https://{host}") for origin in origins):
            return ProblemError("origin", "the request comes from a page of another origin")
        if scope["method"] not in ("GET", "HEAD") and headers.get("sec-fetch-site", "none") not in (
                "none", "same-origin"):
            return ProblemError("origin", "the request comes from a page of another site")
        if self._token is not None and scope["path"] not in OPEN and not self._known(headers):
            return ProblemError("token", "send the header Authorization: Bearer TOKEN",
                           headers={"WWW-Authenticate": "Bearer"})
        return None

    def _known(self, headers: Headers) -> bool:
        scheme, _, given = headers.get("authorization", "").partition(" ")
        return scheme.lower() == "bearer" and hmac.compare_digest(
            given.strip().encode(), (self._token or "").encode())


def _secure(message: Message) -> None:
    headers = MutableHeaders(scope=message)
    for name, value in _HEADERS.items():
        headers[name] = value
    headers.setdefault("Content-Security-Policy", _POLICY)
    headers.setdefault("Cache-Control", "no-store")
