"""How connections end: slow ones after a while, refused ones only once their client could read why."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import h11
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

from regraft.serving.problems import ProblemError

#: Seconds in which a request's whole head must arrive.
HEAD_SECONDS = 10.0

#: How long a refused body is still read and thrown away, in seconds.
_LINGER = 0.5


class TimedProtocol(H11Protocol):
    """HTTP/1.1 in which every connection comes to an end, and whoever can still listen hears why.

    uvicorn waits for a first head for ever, and for a next one as long as any byte arrives; it leaves a client that
    has sent everything and closed its side without an answer.
    """

    _waiting: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """A client has connected."""
        super().connection_made(transport)
        self._wait()

    def handle_events(self) -> None:
        """Bytes have arrived."""
        super().handle_events()
        if self._request is not None and not self._request.response_complete:
            self._stop_waiting()

    def on_response_complete(self) -> None:
        """An answer was sent whole."""
        self._wait()
        super().on_response_complete()

    def eof_received(self) -> bool | None:  # type: ignore[override]
        """The client sends nothing more: what is whole is answered, what is cut off is refused."""
        if self._request is None or self._request.response_started:
            return None
        if self._request.more_body:
            self.send_400_response("the body ends before its length")
            return None
        self._request.keep_alive = False
        return True

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP, and close."""
        answer = ProblemError("malformed", msg).response()
        start = h11.Response(status_code=answer.status_code, headers=[*answer.raw_headers, (b"connection", b"close")])
        for part in (start, h11.Data(data=bytes(answer.body)), h11.EndOfMessage()):
            self.transport.write(self.conn.send(part) or b"")
        self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """The client has gone."""
        self._stop_waiting()
        super().connection_lost(exc)

    @property
    def _request(self) -> RequestResponseCycle | None:
        """The request at hand, or the last one; None before the first."""
        return self.cycle

    def _wait(self) -> None:
        self._stop_waiting()
        self._waiting = self.loop.call_later(HEAD_SECONDS, self.transport.close)

    def _stop_waiting(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None


class Lingering:
    """Ends a connection whose request was answered before its body was read.

    The answer goes out at once. The body is then read and thrown away for a moment, for a connection closed over
    unread bytes takes the answer with it.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not _has_body(Headers(scope=scope)):
            await self._app(scope, receive, send)
            return
        unread = True

        async def noted() -> Message:
            nonlocal unread
            message = await receive()
            unread = message["type"] == "http.request" and message.get("more_body", False)
            return message

        async def lingering(message: Message) -> None:
            if message["type"] == "http.response.start" and unread:
                MutableHeaders(scope=message)["Connection"] = "close"
            last = message["type"] == "http.response.body" and not message.get("more_body", False)
            if last and unread:
                await send({**message, "more_body": True})
                await _drain(noted, lambda: unread)
                message = {"type": "http.response.body", "body": b""}
            await send(message)

        await self._app(scope, noted, lingering)


def _has_body(headers: Headers) -> bool:
    return "transfer-encoding" in headers or headers.get("content-length", "0") != "0"


async def _drain(receive: Receive, unread: Callable[[], bool]) -> None:
    try:
        async with asyncio.timeout(_LINGER):
            while unread():
                await receive()
    except TimeoutError:
        pass
