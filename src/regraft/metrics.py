"""Pure functions of probabilities and labels; the tests hold them against scikit-learn's."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

#: Standard normal quantile of a two-sided 95 % interval.
_Z95 = 1.959963984540054

#: Probabilities are clipped here before the logarithm (scikit-learn's rule for float64).
_SMALLEST = float(np.finfo(np.float64).eps)


def wilson(right: float, n: int) -> tuple[float, float, float]:
    """Share ``right / n`` with Wilson's 95 % interval (J. Am. Stat. Assoc. 22, 1927): value, low, high."""
    if n <= 0:
        raise ValueError("an interval needs at least one image")
    p = right / n
    centre = (p + _Z95**2 / (2 * n)) / (1 + _Z95**2 / n)
    half = _Z95 / (1 + _Z95**2 / n) * math.sqrt(p * (1 - p) / n + _Z95**2 / (4 * n**2))
    return p, max(0.0, min(p, centre - half)), min(1.0, max(p, centre + half))


def log_loss(P_NK: NDArray[np.float64], y_N: NDArray[np.int32]) -> float:
    """Mean negative log-probability of the right class, nats."""
    right = P_NK[np.arange(len(y_N)), y_N]
    return float(-np.log(np.clip(right, _SMALLEST, 1)).mean())


def confusion(y_N: NDArray[np.int32], answers_N: NDArray[np.int64], classes: int) -> NDArray[np.int64]:
    """Counts int64 [K, K]: row the right class, column the answer."""
    return np.bincount(y_N.astype(np.int64) * classes + answers_N, minlength=classes**2).reshape(classes, classes)


def class_figures(matrix_KK: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Precision, recall and F1 of each class from a confusion matrix, float64 [K]; NaN where undefined."""
    right, given, answered = matrix_KK.diagonal(), matrix_KK.sum(1), matrix_KK.sum(0)
    with np.errstate(invalid="ignore"):
        return right / answered, right / given, 2 * right / (given + answered)


def paired_difference(first_N: NDArray[np.bool_], second_N: NDArray[np.bool_]) -> tuple[float, float, float]:
    """Accuracy of the first less that of the second on the same images, with its 95 % interval: value, low, high.

    Agresti and Min's interval (Statistics in Medicine 24, 2005): half an image is added to each of the four ways in
    which two answers can be right or wrong, so that a handful of images gives no false certainty.
    """
    n = len(first_N)
    if n != len(second_N) or not n:
        raise ValueError("a difference needs the answers of both for the same images, and at least one image")
    gained, lost = int((first_N & ~second_N).sum()), int((second_N & ~first_N).sum())
    more, less, total = gained + 0.5, lost + 0.5, n + 2
    centre = (more - less) / total
    half = _Z95 * math.sqrt(more + less - (more - less) ** 2 / total) / total
    value = (gained - lost) / n
    return value, max(-1.0, min(value, centre - half)), min(1.0, max(value, centre + half))
