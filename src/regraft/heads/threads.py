"""Many small problems side by side."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import threadpoolctl

_T = TypeVar("_T")
_R = TypeVar("_R")

_nested = threading.local()


def in_threads(function: Callable[[_T], _R], items: Sequence[_T]) -> list[_R]:
    """Results in order, one thread a core and one core a thread; inside a worker, one after the other.

    The matrices are small: several problems side by side use the cores, several cores in one problem wait for
    each other. One alone has them all.
    """
    if getattr(_nested, "busy", False) or len(items) == 1:
        return [function(item) for item in items]

    def run(item: _T) -> _R:
        _nested.busy = True
        return function(item)

    with threadpoolctl.threadpool_limits(1), ThreadPoolExecutor(os.cpu_count()) as executor:
        return list(executor.map(run, items))
