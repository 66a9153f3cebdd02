"""Where a training's batches come from: activations kept in the store, or pictures read and run anew.

Both give the same for the same view of an image: the tensor at the cut, and the pooled readouts before it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from regraft.extraction.ordered import ordered_map
from regraft.extraction.store import Space

#: The tensor at the cut among the readouts of a space.
AT_CUT = "cut"


@dataclass(frozen=True)
class Batch:
    """Some images in one view each.

    ``activation`` [B, ...] is what is alive at the cut (B x 0 where nothing behind it is run); ``frozen`` [B, D]
    are the pooled readouts before it.
    """

    rows: NDArray[np.int64]
    activation: Tensor
    frozen: Tensor


class Batches(Protocol):
    """Gives batches in a given order."""

    def epoch(self, batches: Sequence[NDArray[np.int64]], views: Sequence[NDArray[np.int64]]) -> Iterator[Batch]:
        """One batch for each array of rows; ``views`` says in which view each image is wanted."""


class Kept:
    """Batches from the store: one space a view, ``located[view]`` says where each row's numbers lie."""

    def __init__(self, spaces: dict[int, Space], located: dict[int, NDArray[np.int64]], readouts: Sequence[str],
                 shape: tuple[int, ...] | None) -> None:
        self._spaces = spaces
        self._located = located
        self._readouts = tuple(readouts)
        self._shape = shape

    def epoch(self, batches: Sequence[NDArray[np.int64]], views: Sequence[NDArray[np.int64]]) -> Iterator[Batch]:
        """See :class:`Batches`. The next batch is read while the one before it is worked on."""
        wanted = list(zip(batches, views, strict=True))
        yield from ordered_map(lambda pair: self._read(*pair), wanted, workers=1, ahead=2)

    def _read(self, rows: NDArray[np.int64], views: NDArray[np.int64]) -> Batch:
        names = [*self._readouts, *([AT_CUT] if self._shape is not None else [])]
        joined: NDArray[np.float32] | None = None
        for view in np.unique(views):
            where = np.flatnonzero(views == view)
            part = self._spaces[int(view)].read(self._located[int(view)][rows[where]], names)
            if joined is None:
                joined = np.empty((len(rows), part.shape[1]), np.float32)
            joined[where] = part
        assert joined is not None
        return _split(rows, torch.from_numpy(joined), self._shape)


class Fresh:
    """Batches from the pictures: each is read, turned into its view and run through the frozen part."""

    def __init__(self, pixels: Callable[[int, int], NDArray[np.uint8]], prepare: Callable[[Tensor], Tensor],
                 prefix: Callable[[Tensor], Tensor] | None, shape: tuple[int, ...] | None,
                 workers: int | None = None) -> None:
        self._pixels = pixels
        self._prepare = prepare
        self._prefix = prefix
        self._shape = shape
        self._workers = workers

    def epoch(self, batches: Sequence[NDArray[np.int64]], views: Sequence[NDArray[np.int64]]) -> Iterator[Batch]:
        """See :class:`Batches`. Pictures are read some way ahead."""
        wanted = [(int(row), int(view)) for rows, of in zip(batches, views, strict=True)
                  for row, view in zip(rows, of, strict=True)]
        pictures = ordered_map(lambda pair: self._pixels(*pair), wanted, self._workers)
        try:
            for rows in batches:
                x = self._prepare(torch.from_numpy(np.stack([next(pictures) for _ in rows])))
                if self._prefix is None:
                    yield Batch(rows, x, x.new_zeros((len(rows), 0)))
                else:
                    with torch.no_grad():
                        joined = self._prefix(x)
                    yield _split(rows, joined, self._shape)
        finally:
            pictures.close()


def _split(rows: NDArray[np.int64], joined: Tensor, shape: tuple[int, ...] | None) -> Batch:
    """Pooled readouts and, last, the tensor at the cut, told apart."""
    if shape is None:
        return Batch(rows, joined[:, :0], joined)
    width = int(np.prod(shape))
    return Batch(rows, joined[:, -width:].reshape(len(rows), *shape), joined[:, :-width])
