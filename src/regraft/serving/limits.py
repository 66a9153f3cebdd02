"""What the server takes and how long it works: every limit in one record, and the memory that bodies may fill."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from regraft.serving.problems import ProblemError

#: Bodies of this many largest requests fit into memory together.
_LARGEST_BODIES = 8


@dataclass(frozen=True)
class Limits:
    """The server's limits.

    Attributes
    ----------
    body:
        Bytes of one request's body.
    images:
        Pictures in one request.
    pixels:
        Pixels of one picture.
    queue:
        Pictures that are decoded, wait or are answered at a time, of all requests together.
    batch:
        Pictures that go to the network together.
    deadline, upload:
        Seconds from the whole body to the answer, and from the headers to the whole body.
    """

    body: int
    images: int
    pixels: int
    queue: int
    batch: int
    deadline: float
    upload: float


class Memory:
    """Bytes of bodies that are read or answered at this moment, within a bound."""

    def __init__(self, body: int) -> None:
        self.most = _LARGEST_BODIES * body
        self.held = 0

    @contextmanager
    def share(self) -> Iterator[Share]:
        """The part of one request; given back at the end."""
        share = Share(self)
        try:
            yield share
        finally:
            self.held -= share.held


class Share:
    """What one request holds of the memory."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self.held = 0

    def take(self, count: int) -> None:
        """Hold so many bytes more; raises ProblemError where all requests together would hold too many."""
        if self._memory.held + count > self._memory.most:
            raise ProblemError("busy", "the bodies of other requests fill the memory", retry_after=1)
        self._memory.held += count
        self.held += count
