"""Pictures through an engine in full batches, several at a time where the engine takes several."""

from __future__ import annotations

from collections import deque
from concurrent.futures import Executor, Future
from contextlib import suppress
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from regraft.engines.contract import Engine
from regraft.errors import DataError

_Name = TypeVar("_Name")


def run_finite(engine: Engine, pixels_BHWC: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The engine's features of a batch, float32 [B, D]; raises DataError where a number is not finite."""
    features_BD = engine.run(pixels_BHWC)
    if not np.isfinite(features_BD).all():
        raise DataError("the network gives numbers that are not finite; its weights do not fit this preprocessing "
                        "or are damaged")
    return features_BD


class Forward(Generic[_Name]):
    """Named pictures in, named features out, in the same order.

    Runs go to the threads of ``pool``, which decode meanwhile: so no core waits, and none has two masters. At most
    ``engine.concurrent`` batches are on their way; whoever brings more waits for the oldest.
    """

    def __init__(self, engine: Engine, pool: Executor) -> None:
        self._engine = engine
        self._pool = pool
        self._waiting: list[tuple[_Name, NDArray[np.uint8]]] = []
        self._running: deque[tuple[list[_Name], Future[NDArray[np.float32]]]] = deque()
        self._ready: list[tuple[_Name, NDArray[np.float32]]] = []

    def put(self, name: _Name, pixels_HWC: NDArray[np.uint8]) -> None:
        """Take one picture; raises what the engine raises on an earlier one."""
        self._waiting.append((name, pixels_HWC))
        if len(self._waiting) == self._engine.batch:
            self._run()

    def ready(self) -> list[tuple[_Name, NDArray[np.float32]]]:
        """Features that have come since the last call, float32 [D] each."""
        while self._running and self._running[0][1].done():
            self._land()
        ready, self._ready = self._ready, []
        return ready

    def finish(self) -> list[tuple[_Name, NDArray[np.float32]]]:
        """Run what waits; all features that are left."""
        if self._waiting:
            self._run()
        while self._running:
            self._land()
        return self.ready()

    def salvage(self) -> list[tuple[_Name, NDArray[np.float32]]]:
        """Features of the batches on their way, but of those that fail: after a failure no work is to be lost."""
        while self._running:
            with suppress(Exception):
                self._land()
        return self.ready()

    def _run(self) -> None:
        while len(self._running) >= self._engine.concurrent:
            self._land()
        names = [name for name, _ in self._waiting]
        batch_BHWC = np.stack([pixels for _, pixels in self._waiting])
        self._waiting = []
        self._running.append((names, self._pool.submit(run_finite, self._engine, batch_BHWC)))

    def _land(self) -> None:
        names, running = self._running.popleft()
        self._ready += zip(names, running.result(), strict=True)
