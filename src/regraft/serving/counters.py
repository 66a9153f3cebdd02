"""What is counted and measured, for Prometheus."""

from __future__ import annotations

import time
from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MEDIA_TYPE = CONTENT_TYPE_LATEST


class Counters:
    """The figures of one server; ``model`` and ``digest`` say what it serves."""

    def __init__(self, model: str, digest: str) -> None:
        self._registry = CollectorRegistry()
        Info("regraft_model", "What is served", registry=self._registry).info({"model": model, "digest": digest})
        self.requests = Counter("regraft_requests", "Requests by address and status", ["route", "status"],
                                registry=self._registry)
        self.seconds = Histogram("regraft_request_seconds", "From a request's head to its answer's end", ["route"],
                                 registry=self._registry)
        self.images = Counter("regraft_images", "Pictures that were answered or can't be read", ["outcome"],
                              registry=self._registry)
        self.batches = Histogram("regraft_batch_images", "Pictures that went to the network together",
                                 buckets=(1, 2, 4, 8, 16, 32, 64), registry=self._registry)
        self._inside = Gauge("regraft_images_inside", "Pictures that are decoded, wait or are answered now",
                             registry=self._registry)
        self.answered_requests = self.answered_images = 0

    def watch(self, inside: Callable[[], int]) -> None:
        """Ask for the number of pictures inside whenever the figures are read."""
        self._inside.set_function(inside)

    def count(self, readable: int, unreadable: int) -> None:
        """Count the pictures of one request."""
        self.images.labels("answered").inc(readable)
        self.images.labels("unreadable").inc(unreadable)
        self.answered_requests += 1
        self.answered_images += readable + unreadable

    def text(self) -> bytes:
        """The figures in Prometheus' text format."""
        return generate_latest(self._registry)


class Counting:
    """Counts every request, also those that are refused before they reach a route."""

    def __init__(self, app: ASGIApp, counters: Counters) -> None:
        self._app = app
        self._counters = counters

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status = time.perf_counter(), 0

        async def counted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, counted)
        finally:
            route = getattr(scope.get("route"), "path", "other")
            self._counters.requests.labels(route, str(status or 500)).inc()
            self._counters.seconds.labels(route).observe(time.perf_counter() - started)
