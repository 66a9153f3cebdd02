"""How alike two small grey pictures are once one is laid over the other: whole, mirrored, or as a part of it.

Pictures are float32 [P, S, S], P pairs at a time. A window is the part of a picture between four margins, shares of the
side cut off at the left, top, right and bottom: float32 [P, 4].
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

Pictures = NDArray[np.float32]

_Number = TypeVar("_Number", bound=np.generic)

#: Side that windows are compared at.
_SIDE = 24

#: Largest margin that is searched, as a share of the side.
_MOST = 0.22

#: Where the search for a window begins: evenly from all sides, and from two sides that meet in a corner.
_STARTS_M4 = np.array([(0.05, 0.05, 0.05, 0.05), (0.1, 0.1, 0.1, 0.1), (0.1, 0.1, 0.0, 0.0), (0.0, 0.0, 0.1, 0.1),
                       (0.1, 0.0, 0.0, 0.1), (0.0, 0.1, 0.1, 0.0)], np.float32)

#: Steps of the search, coarse to fine, and how far below the least correlation of a part a pair may still lie before
#: one: further away it is given up. On 10,000 images of six sets this found what the whole search finds, in less than
#: half its time, with half of these distances too.
_STEPS = ((0.05, 0.4), (0.025, 0.2), (0.0125, 0.1))


def correlation(a_PSS: Pictures, b_PSS: Pictures) -> NDArray[np.float32]:
    """Pearson's correlation of the pixels of each pair, [P]; 0 where a picture is of one colour."""
    a, b = (x.reshape(len(x), -1) - x.mean((1, 2))[:, None] for x in (a_PSS, b_PSS))
    norm = np.sqrt((a * a).sum(1) * (b * b).sum(1))
    return np.where(norm > 1e-3, (a * b).sum(1) / np.maximum(norm, 1e-3), 0).astype(np.float32)


def mirrored(pictures_PSS: NDArray[_Number]) -> NDArray[_Number]:
    """Left and right exchanged."""
    return pictures_PSS[:, :, ::-1]


def part_of(whole_PSS: Pictures, part_PSS: Pictures, least: float) -> NDArray[np.float32]:
    """The best correlation of each ``part`` with a window of its ``whole``, [P]; the search ends early below ``least``.

    Each margin moves in turn as long as the pictures become more alike, from several starts.
    """
    part = _windows(part_PSS, np.zeros((len(part_PSS), 4), np.float32))
    first = np.stack([correlation(_windows(whole_PSS, np.tile(start, (len(part), 1))), part) for start in _STARTS_M4])
    margins = _STARTS_M4[first.argmax(0)]
    best: NDArray[np.float32] = first.max(0)
    for step, distance in _STEPS:
        rows = np.flatnonzero(best >= least - distance)
        if not len(rows):
            break
        margins[rows], best[rows] = _moved(whole_PSS[rows], part[rows], margins[rows], best[rows], step)
    return best


def _moved(whole_PSS: Pictures, part_PSS: Pictures, margins_P4: NDArray[np.float32], best_P: NDArray[np.float32],
           step: float) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Margins after each has moved by a step, twice, where that is better; and the correlations there."""
    for _ in range(2):
        for side in range(4):
            for change in (-step, step):
                moved = margins_P4.copy()
                moved[:, side] = np.clip(moved[:, side] + change, 0, _MOST)
                found = correlation(_windows(whole_PSS, moved), part_PSS)
                better = found > best_P
                margins_P4[better], best_P[better] = moved[better], found[better]
    return margins_P4, best_P


def _windows(pictures_PSS: Pictures, margins_P4: NDArray[np.float32]) -> Pictures:
    """The parts between the margins, at ``_SIDE`` pixels, [P, _SIDE, _SIDE]."""
    size = pictures_PSS.shape[1]
    across = _weights(margins_P4[:, 0], margins_P4[:, 2], size)
    down = _weights(margins_P4[:, 1], margins_P4[:, 3], size)
    windows: Pictures = np.matmul(np.matmul(down, pictures_PSS), across.transpose(0, 2, 1))
    return windows


def _weights(first_P: NDArray[np.float32], last_P: NDArray[np.float32], size: int) -> NDArray[np.float32]:
    """Triangle weights [P, _SIDE, size] that resample a line of pixels between two margins."""
    # Margins lie on a grid, so that many pairs share theirs.
    (first, last), same_P = np.unique(np.stack([first_P, last_P]), axis=1, return_inverse=True)
    return _weights_of(first, last, size)[same_P]


def _weights_of(first_P: NDArray[np.float32], last_P: NDArray[np.float32], size: int) -> NDArray[np.float32]:
    width = (1 - first_P - last_P) * size / _SIDE
    centres = first_P[:, None] * size + (np.arange(_SIDE) + 0.5) * width[:, None]
    distance = np.abs(np.arange(size) + 0.5 - centres[:, :, None])
    weights = np.maximum(0, 1 - distance / np.maximum(width, 1)[:, None, None])
    weights /= weights.sum(2, keepdims=True)
    return weights.astype(np.float32)
