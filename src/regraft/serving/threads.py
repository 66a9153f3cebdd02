"""Threads that work behind the loop that takes requests: it hears and refuses at once while every core is busy."""

from __future__ import annotations

import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

#: How much less of the processor they get where the loop wants it too (nice value).
_BEHIND = 5


def workers(count: int, name: str) -> ThreadPoolExecutor:
    """So many threads of lower priority; what they start (the network's own threads) has it too."""
    return ThreadPoolExecutor(count, name, initializer=_step_back)


def _step_back() -> None:
    if sys.platform == "linux":  # where each thread has a priority of its own
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _BEHIND)
