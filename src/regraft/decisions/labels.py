"""Several labels an image: from probabilities to labels, and how the thresholds are chosen on held-out answers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from regraft.records.labels import LabelsPrediction

#: The threshold of a label that too few held-out images have to choose one on, and how many are too few.
DEFAULT_THRESHOLD = 0.5
LEAST_POSITIVES = 5


def given(P_NK: NDArray[np.floating], thresholds: Sequence[float]) -> NDArray[np.bool_]:
    """Which labels each image gets, bool [N, K]."""
    given_NK: NDArray[np.bool_] = np.asarray(thresholds) <= P_NK
    return given_NK


def f1_threshold(P_N: NDArray[np.floating], own_N: NDArray[np.bool_]) -> float:
    """The threshold of the highest F1 on held-out answers, in the middle between two of them; of equals next to 0.5.

    0.5 where fewer than five of the images have the label.
    """
    total = int(own_N.sum())
    if total < LEAST_POSITIVES:
        return DEFAULT_THRESHOLD
    order = np.argsort(-P_N, kind="stable")
    scores, hits = P_N[order].astype(np.float64), np.cumsum(own_N[order])
    last = np.append(np.flatnonzero(np.diff(scores)), len(scores) - 1)
    f1 = 2 * hits[last] / (last + 1 + total)
    middle = (scores[last] + np.append(scores[last[1:]], 0.0)) / 2
    best = np.flatnonzero(f1 == f1.max())
    return float(middle[best[np.abs(middle[best] - DEFAULT_THRESHOLD).argmin()]])


def label_predictions(names: Sequence[str], P_NK: NDArray[np.float64], classes: Sequence[str],
                      thresholds: Sequence[float]) -> list[LabelsPrediction]:
    """The answer for each of N images: the labels from their thresholds on, the most probable first."""
    found = []
    for name, row_K, given_K in zip(names, P_NK, given(P_NK, thresholds), strict=True):
        order = [k for k in np.argsort(-row_K, kind="stable").tolist() if given_K[k]]
        found.append(LabelsPrediction(
            name, classes[order[0]] if order else None, float(row_K[order[0]]) if order else None,
            {label: float(p) for label, p in zip(classes, row_K, strict=True)},
            labels=tuple(classes[k] for k in order)))
    return found
