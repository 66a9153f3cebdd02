"""Labels that the pictures speak against, by answers of heads that did not learn from the picture in question."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from regraft.heads import choose, probe
from regraft.heads.linear import Blocks
from regraft.inspection.shortcuts import LEAST_IMAGES

#: A label is called a likely error where another class has at least this probability ...
_CONVINCING = 0.7

#: ... and the label's own at most this.
_DENIED = 0.1

_FOLDS = 5

#: Of very many images a head that learned from two thirds doubts about the same ones as one that learned from more.
_FEWER_FOLDS = 3


@dataclass(frozen=True)
class HeldOut:
    """Answers of the probe to images it did not learn from: positions int64 [M], probabilities [M, K]."""

    rows: NDArray[np.int64]
    P_MK: NDArray[np.float64]


def held_out(blocks: Blocks, readouts: Sequence[str], y_N: NDArray[np.int32], groups_N: NDArray[np.int32] | None,
             classes: int, seed: int, repeats: int, done: Callable[[], None]) -> HeldOut | None:
    """Cross-validated probabilities on joined readouts, the mean of the repeats; None where nothing can be held out."""
    answers = choose.cross_validate(blocks, y_N, groups_N, classes, readouts, number=_FOLDS, repeats=repeats,
                                    seed=seed, done=done, only=tuple(readouts))
    if not answers:
        return None
    total_NK, times_N = np.zeros((len(y_N), classes)), np.zeros(len(y_N))
    for rows, P in answers:
        total_NK[rows] += P
        times_N[rows] += 1
    rows = np.flatnonzero(times_N)
    return HeldOut(rows, total_NK[rows] / times_N[rows, None])


def number_of_fits(repeats: int) -> int:
    """How often :func:`held_out` calls ``done`` at most."""
    return _FOLDS * repeats


def held_out_of_many(blocks: Blocks, readouts: Sequence[str], y_N: NDArray[np.int32],
                     groups_N: NDArray[np.int32] | None, classes: int, seed: int) -> HeldOut | None:
    """The same of very many images, for a fifth of the time: fewer folds, whose answers choose the strength too."""
    found = probe.answers(blocks, y_N, groups_N, classes, [choose.Candidate(tuple(readouts))], seed, _FEWER_FOLDS)
    return None if found is None else HeldOut(found.rows, found.P_MK.astype(np.float64))


@dataclass(frozen=True)
class Doubts:
    """How much the picture speaks against its label, for M images.

    ``score`` lies in [0, 1], ``suggested`` is the likeliest other class, ``likely`` marks what should be looked at.
    """

    rows: NDArray[np.int64]
    score_M: NDArray[np.float64]
    suggested_M: NDArray[np.int64]
    likely_M: NDArray[np.bool_]


def doubts(answers: HeldOut, y_N: NDArray[np.int32]) -> Doubts:
    """The most doubtful label first.

    The score is half of one plus how far the likeliest other class stands above the label's own: 1 where the label
    can't be right, 0 where nothing else can (the margin of Northcutt et al., Confident Learning, 2021).
    """
    y = y_N[answers.rows]
    each = np.arange(len(y))
    own = answers.P_MK[each, y]
    rest = answers.P_MK.copy()
    rest[each, y] = -1
    suggested = rest.argmax(1)
    other = rest[each, suggested]
    enough = np.bincount(y_N, minlength=answers.P_MK.shape[1]) >= LEAST_IMAGES
    order = np.argsort(own - other, kind="stable")
    likely = (other >= _CONVINCING) & (own <= _DENIED) & enough[y] & enough[suggested]
    return Doubts(answers.rows[order], (0.5 + (other - own) / 2)[order].clip(0, 1), suggested[order], likely[order])
