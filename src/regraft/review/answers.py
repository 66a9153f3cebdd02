"""The answers for one split, looked through: what was confused, what is doubtful, how sure it was."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from regraft import metrics
from regraft.records.answers import Answers
from regraft.records.results import Interval
from regraft.records.review import Answered, Bin, Confused, PrecisionRecall, Review

#: A page shows no more: what was confused, wrong answers, examples, doubtful labels, curves.
_PAIRS, _MISTAKES, _EXAMPLES, _DOUBTFUL, _CURVES = 20, 400, 12, 24, 6

#: A label is doubtful where the model gives it less than the first, and another class at least the second.
_HARDLY, _RATHER = 0.1, 0.5

_BINS = 10

#: Points of a curve of precision and recall.
_POINTS = 100


def review(answers: Answers, *, learned: bool = False) -> Review:
    """Look through the answers; ``learned`` tells that the model was fitted on these very images.

    Images that it has learned from say nothing about their labels, so none of them is called doubtful.
    """
    P_NK, y_N = answers.P_NK, answers.y_N
    best_N = P_NK.argmax(1)
    top_N, own_N = P_NK[np.arange(len(y_N)), best_N], P_NK[np.arange(len(y_N)), y_N]
    wrong = np.flatnonzero(best_N != y_N)
    right = np.flatnonzero(best_N == y_N)

    def listed(positions: NDArray[np.int64]) -> tuple[Answered, ...]:
        return tuple(Answered(int(answers.rows_N[i]), answers.paths[int(i)], answers.split,
                              answers.classes[y_N[i]], answers.classes[best_N[i]], float(top_N[i]), float(own_N[i]))
                     for i in positions)

    mistakes = wrong[np.argsort(own_N[wrong], kind="stable")]
    matrix_KK = metrics.confusion(y_N, best_N, len(answers.classes))
    doubtful = mistakes[(own_N[mistakes] < _HARDLY) & (top_N[mistakes] >= _RATHER)]
    return Review(
        split=answers.split, method=answers.method, n=len(y_N), wrong=len(wrong),
        pairs=_pairs(matrix_KK, answers.classes),
        mistakes=listed(mistakes[:_MISTAKES]),
        sure=listed(_in_turn(right[np.argsort(-top_N[right], kind="stable")], y_N)[:_EXAMPLES]),
        unsure=listed(np.argsort(top_N, kind="stable")[:_EXAMPLES]),
        doubtful=() if learned else listed(doubtful[:_DOUBTFUL]),
        bins=_bins(top_N, best_N == y_N), curves=_curves(answers))


def _in_turn(positions: NDArray[np.int64], y_N: NDArray[np.int32]) -> NDArray[np.int64]:
    """The first of every class, then the second of every class, and so on."""
    seen: dict[int, int] = {}
    turn = np.empty(len(positions), np.int64)
    for at, label in enumerate(y_N[positions].tolist()):
        turn[at] = seen[label] = seen.get(label, -1) + 1
    ordered: NDArray[np.int64] = positions[np.argsort(turn, kind="stable")]
    return ordered


def _pairs(matrix_KK: NDArray[np.int64], classes: tuple[str, ...]) -> tuple[Confused, ...]:
    of_K = matrix_KK.sum(1)
    off_KK = matrix_KK.copy()
    np.fill_diagonal(off_KK, 0)
    order = np.argsort(-off_KK, axis=None, kind="stable")[:_PAIRS]
    cells = [divmod(int(cell), len(classes)) for cell in order]
    return tuple(Confused(classes[i], classes[j], int(off_KK[i, j]), int(of_K[i])) for i, j in cells if off_KK[i, j])


def _bins(top_N: NDArray[np.float32], right_N: NDArray[np.bool_]) -> tuple[Bin, ...]:
    """Answers by probability, in ten equal steps; steps without any are left out."""
    step_N = np.minimum((top_N * _BINS).astype(np.int64), _BINS - 1)
    found = []
    for step in np.unique(step_N):
        inside = step_N == step
        n = int(inside.sum())
        found.append(Bin(step / _BINS, (step + 1) / _BINS, n, float(top_N[inside].mean(dtype=np.float64)),
                         Interval(*metrics.wilson(int(right_N[inside].sum()), n))))
    return tuple(found)


def _curves(answers: Answers) -> tuple[PrecisionRecall, ...]:
    """Of the classes with the smallest areas; of two classes, of the second, as the first's tells the same."""
    area_K = metrics.one_vs_rest(metrics.average_precision, answers.P_NK.astype(np.float64), answers.y_N)
    if len(area_K) == 2:
        area_K[0] = np.nan
    return tuple(_curve(answers.classes[k], answers.P_NK[:, k], answers.y_N == k, float(area_K[k]))
                 for k in _worst(area_K))


def label_curves(classes: Sequence[str], P_NK: NDArray[np.float64], Y_NK: NDArray[np.bool_],
                 ) -> tuple[PrecisionRecall, ...]:
    """Of the labels with the smallest areas, where an image has any number of them."""
    area_K = metrics.ranked(P_NK, Y_NK)(np.ones(len(P_NK)))
    return tuple(_curve(classes[k], P_NK[:, k], Y_NK[:, k], float(area_K[k])) for k in _worst(area_K))


def _worst(area_K: NDArray[np.float64]) -> list[int]:
    return [k for k in np.argsort(area_K, kind="stable")[:_CURVES].tolist() if not np.isnan(area_K[k])]


def _curve(label: str, score_N: NDArray[np.floating], own_N: NDArray[np.bool_], area: float) -> PrecisionRecall:
    from sklearn.metrics import precision_recall_curve

    precision, recall, _ = precision_recall_curve(own_N, score_N)
    keep = np.unique(np.linspace(0, len(recall) - 1, min(_POINTS, len(recall))).astype(int))
    return PrecisionRecall(label, area, tuple(precision[keep].tolist()), tuple(recall[keep].tolist()))
