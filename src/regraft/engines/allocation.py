"""What becomes of memory that tensors leave."""

from __future__ import annotations

import ctypes
import functools
import sys

# Names and values of glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
_MOST = 2**31 - 1


@functools.cache
def keep_freed_memory() -> None:
    """Let the C library keep large blocks that are freed, for the next of their size; where it is glibc.

    PyTorch takes and leaves the same large tensors in every step on a processor. Left to itself, glibc gives each back
    to the system and fetches it again page by page, which took a quarter of an epoch of full fine-tuning (LOG.md). The
    process then stays as large as it was at its largest.
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl, for one, has none
    if mallopt is not None:
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, _MOST)
