"""Pictures of several requests go to the network together: one worker, which never waits while there is work."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from regraft.records.results import Prediction

#: Names and pixels, uint8 [B, S, S, 3], to a prediction for each.
Answer = Callable[[Sequence[str], NDArray[np.uint8]], Sequence[Prediction]]

#: How long the worker waits for pictures that are about to come, in seconds.
_GATHER = 0.003


@dataclass(frozen=True)
class _Waiting:
    """A picture in the queue: its name, its pixels, and who waits for its answer."""

    name: str
    pixels_SS3: NDArray[np.uint8]
    answer: asyncio.Future[Prediction]


class Batcher:
    """A queue in front of the network.

    Parameters
    ----------
    network:
        What answers.
    most:
        Pictures that go to it together.
    coming:
        How many pictures are being decoded, which makes waiting for them worth while.
    done:
        Told how many were answered together.
    """

    def __init__(self, network: Answer, most: int, coming: Callable[[], int], done: Callable[[int], None]) -> None:
        self._network = network
        self._most = most
        self._coming = coming
        self._done = done
        self._queue: asyncio.Queue[_Waiting] = asyncio.Queue()
        self._thread = ThreadPoolExecutor(1, "regraft-network")

    async def answer(self, name: str, pixels_SS3: NDArray[np.uint8]) -> Prediction:
        """The prediction for one picture; who is cancelled takes no time of the network any more."""
        answer: asyncio.Future[Prediction] = asyncio.get_running_loop().create_future()
        self._queue.put_nowait(_Waiting(name, pixels_SS3, answer))
        return await answer

    async def work(self) -> None:
        """Answer until cancelled."""
        try:
            while True:
                batch = [one for one in await self._gathered() if not one.answer.done()]
                if batch:
                    await self._answer(batch)
        finally:
            self._thread.shutdown(wait=False, cancel_futures=True)

    async def _gathered(self) -> list[_Waiting]:
        """What waits, up to a batch; a little later where more is about to come."""
        batch = [await self._queue.get()]
        self._take(batch)
        if len(batch) < self._most and self._coming():
            await asyncio.sleep(_GATHER)
            self._take(batch)
        return batch

    def _take(self, batch: list[_Waiting]) -> None:
        while len(batch) < self._most and not self._queue.empty():
            batch.append(self._queue.get_nowait())

    async def _answer(self, batch: list[_Waiting]) -> None:
        pixels_BSS3 = np.stack([one.pixels_SS3 for one in batch])
        try:
            predictions = await asyncio.get_running_loop().run_in_executor(
                self._thread, self._network, [one.name for one in batch], pixels_BSS3)
        except Exception as error:  # Whatever the network raises belongs to those who wait; the worker goes on.
            for one in batch:
                if not one.answer.done():
                    one.answer.set_exception(error)
            return
        self._done(len(batch))
        for one, prediction in zip(batch, predictions, strict=True):
            if not one.answer.done():
                one.answer.set_result(prediction)
