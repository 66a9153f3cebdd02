"""The confusion of classes: a table where it can be read as one, a picture of cells, or a picture alone."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

#: Up to so many classes a table of numbers is readable; up to so many, cells with names beside them.
AS_TABLE, AS_CELLS = 16, 150

#: Shades that the style sheet has.
SHADES = 8

#: Side of a cell and size of its margin for names.
CELL, MARGIN = 10.0, 110.0

#: Pixels of the picture of very many classes.
_PIXELS = 700


@dataclass(frozen=True)
class Cell:
    """One count: which classes, how many, what share of the row, which shade (0 none to 8)."""

    truth: int
    answer: int
    count: int
    share: float
    shade: int


@dataclass(frozen=True)
class Matrix:
    """The cells that are not empty; ``picture`` instead of them where there are too many classes to name."""

    classes: tuple[str, ...]
    cells: tuple[Cell, ...]
    picture: str = ""

    @property
    def rows(self) -> list[list[Cell]]:
        """All cells, row by row."""
        found = {(cell.truth, cell.answer): cell for cell in self.cells}
        span = range(len(self.classes))
        return [[found.get((i, j), Cell(i, j, 0, 0.0, 0)) for j in span] for i in span]


def matrix(classes: Sequence[str], confusion: Sequence[Sequence[int]]) -> Matrix:
    """How to show the confusion of so many classes."""
    counts_KK = np.array(confusion, np.int64)
    share_KK = counts_KK / np.maximum(counts_KK.sum(1, keepdims=True), 1)
    if len(classes) > AS_CELLS:
        return Matrix(tuple(classes), (), _picture(share_KK))
    cells = tuple(Cell(int(i), int(j), int(counts_KK[i, j]), float(share_KK[i, j]),
                       1 + min(SHADES - 1, int(share_KK[i, j] * SHADES)))
                  for i, j in np.argwhere(counts_KK))
    return Matrix(tuple(classes), cells)


def _picture(share_KK: np.ndarray) -> str:
    """A ``data:`` address of shares as opacity of one colour: where classes are many, the largest of each block."""
    block = -(-len(share_KK) // _PIXELS)
    side = -(-len(share_KK) // block)
    padded = np.zeros((side * block, side * block))
    padded[:len(share_KK), :len(share_KK)] = share_KK
    largest = padded.reshape(side, block, side, block).max((1, 3))
    alpha = np.rint(255 * np.sqrt(largest)).astype(np.uint8)  # a single mistake is to be seen too
    pixels = np.zeros((side, side, 4), np.uint8)
    pixels[..., :3] = (47, 111, 183)
    pixels[..., 3] = alpha
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "png", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
