"""A quick measurement of features: a few fixed heads by cross-validation, the better one told, answer by answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from regraft.heads.choose import FLOOR, STRENGTHS, Candidate, divide, held_out
from regraft.heads.linear import Blocks
from regraft.heads.shared import join
from regraft.heads.solver import OneOf, softmax
from regraft.heads.threads import in_threads
from regraft.metrics import paired_difference
from regraft.records.heads import HeadSettings

#: Each image is answered once, by a head that was fitted on the other four fifths.
FOLDS = 5


@dataclass(frozen=True)
class Probe:
    """The best of a few heads, and its answer to each image by a head that never saw it.

    The same answers chose the head, so the accuracy flatters a little, and all networks and readouts alike.

    Attributes
    ----------
    settings:
        The head.
    rows:
        Images that were held out once, int64 [M]: all but those that are the only ones of their class or group.
    right:
        Whether each was answered rightly, bool [M].
    log_loss:
        Mean negative log-probability of the right class, nats.
    """

    settings: HeadSettings
    rows: NDArray[np.int64]
    right: NDArray[np.bool_]
    log_loss: float

    @property
    def accuracy(self) -> float:
        """Share of right answers."""
        return float(self.right.mean())


def lead(first_N: NDArray[np.bool_], second_N: NDArray[np.bool_]) -> tuple[float, float, float]:
    """Accuracy of the first answers less that of the second, on the same images; 95 % interval: value, low, high."""
    if len(first_N) != len(second_N):
        raise ValueError("a lead needs the answers of both to the same images")
    counts = (first_N & second_N, second_N & ~first_N, first_N & ~second_N, ~first_N & ~second_N)
    both, only_second, only_first, neither = (int(found.sum()) for found in counts)
    return paired_difference(both, only_second, only_first, neither)


def joined(names: Sequence[str]) -> Candidate:
    """The last layer with the latest four stages and the class scores, each place counting the same."""
    *stages, last, logits = names
    return Candidate((last, *reversed(stages[-4:]), logits), "equal")


@dataclass(frozen=True)
class Answers:
    """A head, and its probabilities [M, K] for images int64 [M] that heads like it did not learn from."""

    settings: HeadSettings
    rows: NDArray[np.int64]
    P_MK: NDArray[np.floating]
    log_loss: float


def measure(blocks: Blocks, y_N: NDArray[np.int32], groups_N: NDArray[np.int32] | None, classes: int,
            heads: Sequence[Candidate], seed: int) -> Probe | None:
    """The head with the lowest log-loss on held-out images; None where no image can be held out.

    The same labels, groups and seed give the same folds, so that two probes can be compared image by image.
    """
    found = answers(blocks, y_N, groups_N, classes, heads, seed, FOLDS)
    if found is None:
        return None
    return Probe(found.settings, found.rows, found.P_MK.argmax(1) == y_N[found.rows], found.log_loss)


def answers(blocks: Blocks, y_N: NDArray[np.int32], groups_N: NDArray[np.int32] | None, classes: int,
            heads: Sequence[Candidate], seed: int, number: int, views: int = 1) -> Answers | None:
    """The answers behind :func:`measure`, from so many folds.

    Of several ``views`` the blocks hold all rows of one after all rows of the other; heads learn from all of them, and
    answer the first.
    """
    divisions = divide(y_N, groups_N, number, seed)
    if not divisions:
        return None
    rows = np.concatenate([held for _, held in divisions])
    order, y_M = np.argsort(rows), y_N[rows]
    y_of_all = np.tile(y_N, views)

    def of_fold(job: tuple[Candidate, int]) -> list[NDArray[np.floating]]:
        train, held = divisions[job[1]]
        learn = np.concatenate([train + view * len(y_N) for view in range(views)])
        here = join(blocks, job[0].readouts, job[0].weighting, learn, held)
        found = held_out(OneOf(y_of_all[learn], classes), here, job[0], STRENGTHS)
        return [softmax(scores_MK) for scores_MK, _ in found]

    found = in_threads(of_fold, [(head, fold) for head in heads for fold in range(len(divisions))])
    best: Answers | None = None
    for at, head in enumerate(heads):
        of_head = found[at * len(divisions):(at + 1) * len(divisions)]
        for strength, parts in zip(STRENGTHS, zip(*of_head, strict=True), strict=True):
            P_MK = np.concatenate(parts)
            loss = float(-np.log(np.maximum(P_MK[np.arange(len(y_M)), y_M], FLOOR)).mean())
            if best is None or loss < best.log_loss:
                best = Answers(head.at(strength), rows[order], P_MK[order], loss)
    return best
