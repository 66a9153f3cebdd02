"""Pure functions of probabilities and labels; the tests hold them against scikit-learn's."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray
from scipy.special import bdtr, stdtrit

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


def surprise(P_NK: NDArray[np.floating], y_N: NDArray[np.int32]) -> NDArray[np.float64]:
    """Negative log-probability of the right class of each image, nats, float64 [N]."""
    right = P_NK[np.arange(len(y_N)), y_N].astype(np.float64)
    return -np.log(np.clip(right, _SMALLEST, 1))


def log_loss(P_NK: NDArray[np.floating], y_N: NDArray[np.int32]) -> float:
    """Mean negative log-probability of the right class, nats."""
    return float(surprise(P_NK, y_N).mean())


def confusion(y_N: NDArray[np.int32], answers_N: NDArray[np.int64], classes: int) -> NDArray[np.int64]:
    """Counts int64 [K, K]: row the right class, column the answer."""
    return np.bincount(y_N.astype(np.int64) * classes + answers_N, minlength=classes**2).reshape(classes, classes)


def class_figures(matrix_KK: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Precision, recall and F1 of each class from a confusion matrix, float64 [K]; NaN where undefined."""
    right, given, answered = matrix_KK.diagonal(), matrix_KK.sum(1), matrix_KK.sum(0)
    with np.errstate(invalid="ignore"):
        return right / answered, right / given, 2 * right / (given + answered)


def top_k(P_NK: NDArray[np.floating], y_N: NDArray[np.int32], k: int) -> float:
    """Share of images whose right class is among the ``k`` most probable; of equal ones the first counts as larger."""
    right_N1 = P_NK[np.arange(len(y_N)), y_N][:, None]
    before_NK = np.arange(P_NK.shape[1]) < y_N[:, None]
    ahead_N = ((right_N1 < P_NK) | ((right_N1 == P_NK) & before_NK)).sum(1)
    return float((ahead_N < k).mean())


def brier(P_NK: NDArray[np.floating], y_N: NDArray[np.int32]) -> NDArray[np.float64]:
    """Squared distance of each image's probabilities from the truth, summed over classes: float64 [N], 0 to 2."""
    right_N = P_NK[np.arange(len(y_N)), y_N].astype(np.float64)
    squares_N: NDArray[np.float64] = np.einsum("nk,nk->n", P_NK, P_NK).astype(np.float64)
    return squares_N - 2 * right_N + 1


#: Equal-width bins of the expected calibration error.
BINS = 15


def calibration_error(P_NK: NDArray[np.floating], y_N: NDArray[np.int32]) -> float:
    """Expected calibration error (Guo et al., ICML 2017): what confidence and accuracy differ by, over 15 bins."""
    confidence_N, right_N = P_NK.max(1).astype(np.float64), P_NK.argmax(1) == y_N
    bin_N = np.clip(np.ceil(confidence_N * BINS).astype(np.int64) - 1, 0, BINS - 1)
    gap_B = np.bincount(bin_N, confidence_N - right_N, BINS)
    return float(np.abs(gap_B).sum() / len(y_N))


def roc_auc(scores_N: NDArray[np.floating], positive_N: NDArray[np.bool_]) -> float:
    """Share of pairs of a positive and a negative in which the positive scores higher; NaN without either."""
    positives = int(positive_N.sum())
    negatives = len(positive_N) - positives
    if not positives or not negatives:
        return math.nan
    _, place_N, counts = np.unique(scores_N, return_inverse=True, return_counts=True)
    ranks_N = (np.cumsum(counts) - (counts - 1) / 2)[place_N]  # equal scores share the mean of their ranks
    return float((ranks_N[positive_N].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def average_precision(scores_N: NDArray[np.floating], positive_N: NDArray[np.bool_]) -> float:
    """Precision at each threshold, weighted with the recall that it adds; NaN without a positive."""
    if not positive_N.any():
        return math.nan
    order = np.argsort(-scores_N, kind="stable")
    scores, hits = scores_N[order], np.cumsum(positive_N[order])
    last = np.append(np.flatnonzero(np.diff(scores)), len(scores) - 1)  # equal scores share a threshold
    precision, recall = hits[last] / (last + 1), hits[last] / hits[-1]
    return float((np.diff(recall, prepend=0.0) * precision).sum())


def one_vs_rest(figure: Callable[[NDArray[np.floating], NDArray[np.bool_]], float], P_NK: NDArray[np.floating],
                y_N: NDArray[np.int32]) -> NDArray[np.float64]:
    """A figure of each class against all others, float64 [K]; one class at a time, to hold no second matrix."""
    return np.array([figure(P_NK[:, k], y_N == k) for k in range(P_NK.shape[1])])


def ranked(P_NK: NDArray[np.floating], Y_NK: NDArray[np.bool_],
           ) -> Callable[[NDArray[np.float64]], NDArray[np.float64]]:
    """Average precision of each column, float64 [K], for rows that count as often as the given weights [N] say.

    As :func:`average_precision`, for many weights of the same scores: they are sorted once. NaN without a positive.
    """
    order_NK = np.argsort(-P_NK, axis=0, kind="stable")
    scores_NK, own_NK = np.take_along_axis(P_NK, order_NK, 0), np.take_along_axis(Y_NK, order_NK, 0)
    places_NK = np.broadcast_to(np.arange(len(P_NK))[:, None], P_NK.shape).copy()
    places_NK[:-1][scores_NK[1:] == scores_NK[:-1]] = len(P_NK)
    last_NK = np.minimum.accumulate(places_NK[::-1], axis=0)[::-1]  # equal scores share a threshold

    def weighted(weight_N: NDArray[np.float64]) -> NDArray[np.float64]:
        weight_NK = weight_N[order_NK]
        gain_NK = weight_NK * own_NK
        hits_NK = gain_NK.cumsum(0)
        precision_NK = hits_NK / np.maximum(weight_NK.cumsum(0), np.finfo(np.float64).tiny)
        with np.errstate(invalid="ignore"):
            found_K: NDArray[np.float64] = (gain_NK * np.take_along_axis(precision_NK, last_NK, 0)).sum(0) / hits_NK[-1]
        return found_K

    return weighted


def label_loss(P_NK: NDArray[np.floating], Y_NK: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Mean binary log-loss over the labels of each image, nats, float64 [N]."""
    own_NK = np.where(Y_NK, P_NK, 1 - P_NK).astype(np.float64)
    loss_N: NDArray[np.float64] = -np.log(np.clip(own_NK, _SMALLEST, 1)).mean(1)
    return loss_N


def label_calibration_error(P_NK: NDArray[np.floating], Y_NK: NDArray[np.bool_]) -> float:
    """What the probability of a label and the share of images that have it differ by, over 15 equal-width bins."""
    P_L, own_L = P_NK.ravel().astype(np.float64), Y_NK.ravel()
    bin_L = np.clip(np.ceil(P_L * BINS).astype(np.int64) - 1, 0, BINS - 1)
    return float(np.abs(np.bincount(bin_L, P_L - own_L, BINS)).sum() / len(P_L))


#: Resamples of a bootstrap, and the most images that are drawn for all of them together.
_RESAMPLES = 1_000
_MOST_DRAWN = 20_000_000
_LEAST_RESAMPLES = 100

#: Numbers of resamples that are worked on together: as many as a core's own memory holds.
_TOGETHER = 30_000


def bootstrap(figures: Callable[[NDArray[np.float64]], Mapping[str, NDArray[np.float64]]], images: int, seed: int = 0,
              each: int = 1) -> dict[str, tuple[float, float]]:
    """95 % percentile intervals of figures of weighted images (Efron, Ann. Stat. 7, 1979), seeded.

    ``figures`` takes how often each image was drawn in R resamples, float64 [R, N], and gives R values of each figure.
    1,000 resamples, fewer above 20,000 images, or where as many numbers, ``each`` of an image, are looked at.
    """
    draw = np.random.default_rng(seed)
    count = max(_LEAST_RESAMPLES, min(_RESAMPLES, _MOST_DRAWN // max(images * each, 1)))
    lot = max(1, _TOGETHER // images)
    parts = [figures(_drawn(draw, min(lot, count - first), images)) for first in range(0, count, lot)]
    return {name: (float(low), float(high)) for name in parts[0]
            for low, high in [np.quantile(np.concatenate([part[name] for part in parts]), (0.025, 0.975))]}


def _drawn(draw: np.random.Generator, resamples: int, images: int) -> NDArray[np.float64]:
    """How often each image is drawn in each resample, float64 [R, N]."""
    drawn_RN = draw.integers(0, images, (resamples, images))
    drawn_RN += images * np.arange(resamples)[:, None]
    return np.bincount(drawn_RN.ravel(), minlength=resamples * images).reshape(resamples, images).astype(np.float64)


def paired_difference(both: int, first: int, second: int, neither: int) -> tuple[float, float, float]:
    """Share right of the second less that of the first, on the same images: value, low, high.

    Counts of images that both, only the first, only the second and neither answered rightly. Newcombe's 95 % interval
    for paired shares (Stat. Med. 17, 1998, method 10).
    """
    n = both + first + second + neither
    (p2, low2, high2), (p1, low1, high1) = wilson(both + second, n), wilson(both + first, n)
    margins = (both + first) * (second + neither) * (both + second) * (first + neither)
    product = both * neither - first * second
    corrected = max(product - n / 2, 0) if product > 0 else product
    phi = corrected / math.sqrt(margins) if margins else 0.0

    def reach(own: float, other: float) -> float:
        return math.sqrt(max(own**2 - 2 * phi * own * other + other**2, 0))

    difference = p2 - p1
    return difference, difference - reach(p2 - low2, high1 - p1), difference + reach(high2 - p2, p1 - low1)


def mean_difference(first_N: NDArray[np.float64], second_N: NDArray[np.float64]) -> tuple[float, float, float]:
    """Mean of the first less that of the second, for the same two images or more; Student's 95 % interval."""
    apart = first_N - second_N
    n, mean = len(apart), float(apart.mean())
    reach = float(stdtrit(n - 1, 0.975) * apart.std(ddof=1) / math.sqrt(n))
    return mean, mean - reach, mean + reach


def mcnemar(first: int, second: int) -> float:
    """Exact two-sided p-value that two models are equally often right, by the images that only one got right."""
    return min(1.0, 2 * float(bdtr(min(first, second), first + second, 0.5)))
