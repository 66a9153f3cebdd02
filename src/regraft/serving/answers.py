"""From bytes to predictions within the limits: what is let in gets its answer in time, the rest hears so at once."""

from __future__ import annotations

import asyncio
import dataclasses
import math
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from regraft.data.view import view0
from regraft.errors import ImageError
from regraft.records.results import Prediction
from regraft.runtime import OnnxModel
from regraft.serving.batching import Batcher
from regraft.serving.counters import Counters
from regraft.serving.limits import Limits
from regraft.serving.problems import ProblemError
from regraft.serving.uploads import Upload

_S = TypeVar("_S")
_T = TypeVar("_T")

#: Of the deadline, the share that the pictures inside may be expected to take: expectations are off by as much.
_PLANNED = 0.5

#: How much the newest measurement counts in the expected time of a picture.
_NEWEST = 0.2


class Answers:
    """A model that answers pictures of many requests at once, within limits."""

    def __init__(self, model: OnnxModel, limits: Limits, counters: Counters) -> None:
        self._classes = model.classes
        self._limits = limits
        self._rules = dataclasses.replace(
            model.preprocessing, max_pixels=min(limits.pixels, model.preprocessing.max_pixels))
        self._decoders = ThreadPoolExecutor(os.cpu_count() or 1, "regraft-decode")
        self._decoding = 0
        self._inside = 0
        self._counters = counters
        self._batcher = Batcher(model.answerer().answer, limits.batch, lambda: self._decoding, self._answered)
        self._pace = 0.0  # seconds a picture
        self._last = 0.0  # when the newest answer was ready, or the work began
        counters.watch(lambda: self._inside)

    @asynccontextmanager
    async def working(self) -> AsyncIterator[None]:
        """Warm the network up, and answer as long as the context lasts."""
        size = self._rules.size
        worker = asyncio.create_task(self._batcher.work())
        blank = np.zeros((size, size, 3), np.uint8)
        await self._batcher.answer("", blank)  # the first run is slower: memory is laid out in it
        started = time.monotonic()
        await self._batcher.answer("", blank)
        self._pace = time.monotonic() - started
        try:
            yield
        finally:
            worker.cancel()
            self._decoders.shutdown(wait=False, cancel_futures=True)

    def require_room(self, images: int = 1) -> None:
        """Raise ProblemError where so many more pictures could not be answered in time."""
        full = self._inside + images > self._limits.queue
        expected = (self._inside + images) * self._pace
        # One request alone is tried however slow the network is.
        if full or (self._inside and expected > _PLANNED * self._limits.deadline):
            raise ProblemError("busy", f"{self._inside:,} pictures are being answered already",
                          retry_after=self._seconds_until_room())

    def _seconds_until_room(self) -> int:
        return max(1, math.ceil(self._inside * self._pace))

    async def predict(self, uploads: Sequence[Upload]) -> list[Prediction]:
        """A prediction for each picture, in order; an unreadable one is answered with its ``error``."""
        return await self._in_time(self._prediction, uploads)

    async def probabilities(self, pixels_NSS3: NDArray[np.uint8]) -> NDArray[np.float64]:
        """Probabilities [N, K] of pictures that are the network's pixels already."""
        predictions = await self._in_time(lambda pixels: self._batcher.answer("", pixels), list(pixels_NSS3))
        return np.array([[(p.probabilities or {})[name] for name in self._classes] for p in predictions])

    async def _in_time(self, answer: Callable[[_S], Awaitable[_T]], sources: Sequence[_S]) -> list[_T]:
        """The answers to all sources, within the deadline and the queue."""
        try:
            with self._places(len(sources)):
                async with asyncio.timeout(self._limits.deadline):
                    return await asyncio.gather(*map(answer, sources))
        except TimeoutError:
            raise ProblemError("late", f"the answer was not ready within {self._limits.deadline:g} seconds",
                          retry_after=self._seconds_until_room()) from None

    @contextmanager
    def _places(self, count: int) -> Iterator[None]:
        self.require_room(count)
        if not self._inside:
            self._last = time.monotonic()
        self._inside += count
        try:
            yield
        finally:
            self._inside -= count

    async def _prediction(self, upload: Upload) -> Prediction:
        seen = await self._decoded(bytes(upload.data))
        if isinstance(seen, str):
            return Prediction(upload.name, error=seen)
        return await self._batcher.answer(upload.name, seen)

    async def _decoded(self, data: bytes) -> NDArray[np.uint8] | str:
        """Pixels, or why there are none."""
        self._decoding += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._decoders, self._look, data)
        finally:
            self._decoding -= 1

    def _look(self, data: bytes) -> NDArray[np.uint8] | str:
        try:
            return view0(data, self._rules).pixels
        except ImageError as error:
            return error.reason

    def _answered(self, count: int) -> None:
        """Keep the pace: seconds a picture takes, decoding included, while there is work."""
        now = time.monotonic()
        self._counters.batches.observe(count)
        self._pace += _NEWEST * ((now - self._last) / count - self._pace)
        self._last = now
