"""Predictions to figures, each with the name of the split it was measured on."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from regraft import metrics
from regraft.errors import DataError
from regraft.records.images import Quarantined
from regraft.records.results import ClassFigures, Evaluation, Interval, Majority


def judge(P_NK: NDArray[np.float64], y_N: NDArray[np.int32], classes: Sequence[str], *, split: str, method: str,
          majority: int, seen: int = 0, repeats: int = 1, unreadable: Sequence[Quarantined] = (),
          note: str = "") -> Evaluation:
    """Figures of N answers.

    With ``repeats``, rows are answers and each image has that many; intervals count images, not answers.
    """
    if not len(y_N):
        raise DataError(f"no readable image in {split}, so there is nothing to measure")
    answers = P_NK.argmax(1)
    matrix = metrics.confusion(y_N, answers, len(classes))
    precision, recall, f1 = metrics.class_figures(matrix)
    n = len(y_N) // repeats
    present = matrix.sum(1) > 0
    return Evaluation(
        accuracy=Interval(*metrics.wilson(float((answers == y_N).mean()) * n, n)),
        n=n, split=split, seen_in_training=seen, method=method,
        repeats=repeats,
        balanced_accuracy=float(recall[present].mean()), macro_f1=float(f1[present].mean()),
        log_loss=metrics.log_loss(P_NK, y_N),
        majority=Majority(classes[majority], float((y_N == majority).mean())),
        classes=tuple(
            ClassFigures(name, int(matrix[k].sum()) // repeats, _number(precision[k]), _number(recall[k]),
                         _number(f1[k]))
            for k, name in enumerate(classes)),
        confusion=tuple(tuple(int(count) for count in row) for row in matrix),
        quarantined=len(unreadable), unreadable=tuple(unreadable), note=note,
    )


def _number(value: float) -> float | None:
    return None if math.isnan(value) else float(value)
