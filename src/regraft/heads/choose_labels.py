"""Choose readouts, weighting and strength for several labels an image, as :mod:`regraft.heads.choose` does for one.

A candidate's score is the mean log-loss over held-out images and labels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from regraft.data import label_splits
from regraft.heads.choose import (
    CHOOSING_ROWS,
    FINALISTS,
    FLOOR,
    INNER_SHARE,
    LEAST_HELD,
    Candidate,
    Division,
    Found,
    candidates,
    score,
    search,
    unmeasured,
)
from regraft.heads.independent import AnyOf, fit_independent
from regraft.heads.linear import Blocks
from regraft.heads.shared import join
from regraft.heads.solver import ROUGH, Targets, sigmoid
from regraft.heads.threads import in_threads
from regraft.records.heads import Choice


def choose(blocks: Blocks, Y_NK: NDArray[np.bool_], divisions: Sequence[Division], by: str, names: Sequence[str],
           finalists: int = FINALISTS, seed: int = 0) -> Found:
    """The head with the lowest held-out log-loss over the divisions; ``Y_NK`` says which labels an image has.

    The two rounds are those of :func:`regraft.heads.choose.choose`.
    """
    if sum(len(held) for _, held in divisions) < LEAST_HELD:
        return Found(Choice(replace(unmeasured(names), kind="independent"),
                            "experience with other sets: there are too few images to measure it"))
    offered = [replace(c, kind="independent") for c in candidates(names, few=False)]
    return search(blocks, AnyLabels(Y_NK), offered, divisions, by, finalists, seed)


@dataclass(frozen=True)
class AnyLabels:
    """Any number of labels an image, bool [N, K]: a :class:`regraft.heads.choose.Task`."""

    Y_NK: NDArray[np.bool_]

    def targets(self, rows: NDArray[np.int64]) -> Targets:
        """Their labels."""
        return AnyOf(self.Y_NK[rows])

    def judge(self, scores_MK: NDArray[np.floating], rows: NDArray[np.int64]) -> tuple[float, float]:
        """Mean log-loss over images and labels of the sigmoid of scores, and the share of right yes or no."""
        P_MK, Y_MK = sigmoid(scores_MK), self.Y_NK[rows]
        own_MK = np.where(Y_MK, P_MK, 1 - P_MK)
        return float(-np.log(np.maximum(own_MK, FLOOR)).mean(dtype=np.float64)), float((own_MK > 0.5).mean())


def strengthened(blocks: Blocks, Y_NK: NDArray[np.bool_], division: Division, found: Found) -> Found:
    """The same head for more images than it was chosen on: its strength is measured anew, the best one is weaker."""
    chosen = found.choice.chosen
    candidate = Candidate(chosen.readouts, chosen.weighting, chosen.kind)
    strengths = [chosen.strength * factor for factor in (3.0, 1.0, 1 / 3, 1 / 10)]
    joined = join(blocks, candidate.readouts, candidate.weighting, *division)
    anew = score(AnyLabels(Y_NK), joined, division, candidate, strengths, found.start)
    best = min(anew.tried, key=lambda tried: tried.log_loss).settings
    return Found(replace(found.choice, chosen=best), anew.fit)


def choosing_rows(Y_NK: NDArray[np.bool_], rows: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """At most about 2,000 of the rows, stratified, for choosing."""
    if len(rows) <= CHOOSING_ROWS:
        return rows
    return rows[label_splits.holdout(Y_NK[rows], None, CHOOSING_ROWS / len(rows), seed)]


def divide(Y_NK: NDArray[np.bool_], groups_N: NDArray[np.int32] | None, number: int, seed: int) -> list[Division]:
    """Stratified, grouped folds as divisions; empty where no image can be held out."""
    fold_N = label_splits.folds(Y_NK, groups_N, number, seed)
    return [(np.flatnonzero(fold_N != fold), np.flatnonzero(fold_N == fold))
            for fold in range(number) if (fold_N == fold).any()]


def cross_validate(blocks: Blocks, Y_NK: NDArray[np.bool_], groups_N: NDArray[np.int32] | None, names: Sequence[str], *,
                   number: int, repeats: int, seed: int, done: Callable[[], None],
                   ) -> list[tuple[NDArray[np.int64], NDArray[np.float64]]]:
    """Held-out rows and their probabilities for each fold of each repeat, every choice made inside the fold."""

    def one_fold(job: tuple[int, Division]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        inner_seed, (train, held) = job
        inner = label_splits.holdout(Y_NK[train], None if groups_N is None else groups_N[train], INNER_SHARE,
                                     inner_seed)
        rows = np.arange(len(train))
        of_train = {name: block[train] for name, block in blocks.items()}
        divisions = [(rows[~inner], rows[inner])] if inner.any() else []
        found = choose(of_train, Y_NK[train], divisions, "a part of the fold", names, 1, inner_seed)
        head = fit_independent(of_train, Y_NK[train], found.choice.chosen, ROUGH, found.start)
        P_MK = head.probabilities(np.concatenate([blocks[name][held] for name in head.settings.readouts], 1))
        done()
        return held, P_MK

    return in_threads(one_fold, [(seed + repeat, division) for repeat in range(repeats)
                                 for division in divide(Y_NK, groups_N, number, seed + 1000 * (repeat + 1))])
