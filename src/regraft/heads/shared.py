"""What heads on several readouts of the same images have in common, computed once for all of them.

Joined readouts are standardised rows side by side, each times a factor. So the products of joined rows with each other
(their Gram matrix) are a weighted sum of those of single readouts; with fewer images than numbers, they are all that a
fit needs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from regraft.heads.linear import Blocks, Standardisation, nearest_mean
from regraft.heads.solver import Problem, Targets
from regraft.heads.threads import in_threads
from regraft.records.heads import Weighting

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Joined:
    """Coordinates of N images to learn from, float32 [N, R], and of M held-out ones, float32 [M, R].

    Standardised numbers of joined readouts; or their ``products`` with those of the N images (R = N). Either way the
    scores of held-out images are ``held_MR @ V_RK + b_K``.
    """

    train_NR: Array
    held_MR: Array
    products: bool

    def problem(self, targets: Targets) -> Problem:
        """What fits on the N images solve."""
        return Problem.of_products(self.train_NR, targets) if self.products else Problem(self.train_NR, targets)

    def nearest_mean(self, y_N: NDArray[np.int32], classes: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Weights [R, K] and bias [K] of the nearest class mean."""
        if not self.products:
            return nearest_mean(self.train_NR, y_N, classes)
        means_NK = np.equal.outer(y_N, np.arange(classes)) / np.maximum(np.bincount(y_N, minlength=classes), 1)
        return means_NK, -0.5 * np.einsum("nk,nk->k", means_NK, self.train_NR @ means_NK)


class Shared:
    """Readouts of images to learn from and of held-out ones, standardised on the former, ready to be joined."""

    def __init__(self, blocks: Blocks, readouts: Sequence[str], train: NDArray[np.int64], held: NDArray[np.int64],
                 products: bool) -> None:
        """With ``products`` those of all readouts are computed, for joined ones of more numbers than ``train`` rows."""

        def standardised(name: str) -> tuple[Array, Array]:
            of_train = {name: blocks[name][train]}
            standard = Standardisation.of(of_train, [name], "equal")
            standard.apply_in_place(of_train[name])
            return of_train[name], standard.apply(blocks, [name], held)

        self._rows = dict(zip(readouts, in_threads(standardised, readouts), strict=True))
        self._products: Mapping[str, tuple[Array, Array]] = {}
        if products:
            multiplied = in_threads(lambda name: _multiplied(*self._rows[name]), readouts)
            self._products = dict(zip(readouts, multiplied, strict=True))

    def joined(self, readouts: Sequence[str], weighting: Weighting) -> Joined:
        """The images in some of the readouts together."""
        widths = [self._rows[name][0].shape[1] for name in readouts]
        share_R = [width / sum(widths) if weighting == "by_width" else 1 / len(readouts) for width in widths]
        if self._products and sum(widths) > len(self._rows[readouts[0]][0]):
            train_NN, held_MN = (sum(np.float32(share) * self._products[name][part]
                                     for name, share in zip(readouts, share_R, strict=True)) for part in range(2))
            return Joined(np.asarray(train_NN), np.asarray(held_MN), products=True)
        train_NR, held_MR = (np.concatenate([np.float32(share**0.5) * self._rows[name][part]
                                             for name, share in zip(readouts, share_R, strict=True)], 1)
                             for part in range(2))
        return Joined(train_NR, held_MR, products=False)


def join(blocks: Blocks, readouts: Sequence[str], weighting: Weighting, train: NDArray[np.int64],
         held: NDArray[np.int64]) -> Joined:
    """Readouts joined for one head alone, as standardised numbers."""
    return Shared(blocks, readouts, train, held, products=False).joined(readouts, weighting)


def _multiplied(train_NR: Array, held_MR: Array) -> tuple[Array, Array]:
    return train_NR @ train_NR.T, held_MR @ train_NR.T
