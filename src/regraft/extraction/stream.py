"""A pass that keeps nothing: for features too large for the store, written where they go at once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import numpy as np
from numpy.typing import NDArray

from regraft.data.view import view0
from regraft.engines.contract import Engine
from regraft.errors import ImageError
from regraft.extraction.extract import refuse_too_many, workers
from regraft.extraction.forward import Forward
from regraft.extraction.ordered import ordered_map
from regraft.progress import Progress
from regraft.records.images import ImageIndex, Quarantined
from regraft.records.preprocessing import Preprocessing


class Stream:
    """The features of an index's readable images, a batch at a time.

    Once :meth:`blocks` is at its end, ``rows`` holds the row of the index of each image that was read, ``digests``
    the digest of its pixels, ``quarantined`` the others.
    """

    def __init__(self, index: ImageIndex, engine: Engine, rules: Preprocessing, progress: Progress,
                 max_quarantined: float) -> None:
        self.rows: list[int] = []
        self.digests: list[bytes] = []
        self.quarantined: tuple[Quarantined, ...] = ()
        self._index = index
        self._engine = engine
        self._rules = rules
        self._progress = progress
        self._share = max_quarantined

    def blocks(self, shape: tuple[int, ...]) -> Iterator[NDArray[np.float32]]:
        """Features of one image after another, float32 [1, *shape].

        Raises DataError at the end if too many images can't be read.
        """
        errors: list[Quarantined] = []
        with (workers() as pool, self._progress.task("reading images", len(self._index)) as task,
              closing(ordered_map(self._look, range(len(self._index)), pool=pool)) as seen_in_order):
            forward: Forward[int] = Forward(self._engine, pool)
            for row, pixels, digest in seen_in_order:
                if isinstance(pixels, str):
                    errors.append(Quarantined(self._index.paths[row], pixels))
                else:
                    self.rows.append(row)
                    self.digests.append(digest)
                    forward.put(row, pixels)
                for _, features_D in forward.ready():
                    yield features_D.reshape(1, *shape)
                task.advance()
            for _, features_D in forward.finish():
                yield features_D.reshape(1, *shape)
        self.quarantined = tuple(errors)
        refuse_too_many(self.quarantined, len(self._index), self._share)

    def _look(self, row: int) -> tuple[int, NDArray[np.uint8] | str, bytes]:
        """Pixels and their digest, or why there are none."""
        try:
            view = view0(self._index.file(row), self._rules)
            return row, view.pixels, view.digest
        except ImageError as error:
            return row, error.reason, b""
