"""Work on many things by several threads, with results in order and a bounded number of them waiting."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import TypeVar

from regraft.engines.processor import cores

#: Decoded images that may wait for the network, for each decoding thread: bounds memory.
_QUEUE = 8

_T = TypeVar("_T")
_R = TypeVar("_R")


def ordered_map(function: Callable[[_T], _R], items: Sequence[_T], workers: int | None = None,
                ahead: int | None = None, pool: Executor | None = None) -> Generator[_R]:
    """Results in order, computed by one thread a core (or ``workers``; 0 for none), a bounded number ahead.

    With ``pool``, its threads compute them, between other work.
    """
    workers = cores() if workers is None else workers
    if workers == 0:
        yield from map(function, items)
        return
    ahead = workers * _QUEUE if ahead is None else ahead
    waiting: deque[Future[_R]] = deque()
    own = None if pool is not None else ThreadPoolExecutor(workers, thread_name_prefix="regraft-decode")
    executor = pool or own
    assert executor is not None
    try:
        for item in items:
            waiting.append(executor.submit(function, item))
            if len(waiting) >= ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()
        if own is not None:
            own.shutdown(wait=True, cancel_futures=True)
