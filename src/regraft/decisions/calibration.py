"""Temperature scaling: a probability that means what it says (Guo et al., ICML 2017)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar

from regraft import metrics
from regraft.heads.solver import sigmoid, softmax

#: Smallest probability whose logarithm is taken.
_TINY = 1e-300

#: Gain in nats, over all images, that chance alone reaches one time in twenty: half of chi-square's 3.84.
_TELLING = 1.92

#: Temperatures that are looked through, as natural logarithms.
_RANGE = (-3.0, 3.0)


def tempered(P_NK: NDArray[np.floating], temperature: float) -> NDArray[np.float64]:
    """Probabilities float64 [N, K] of the same logits divided by a temperature."""
    if temperature == 1:
        return P_NK.astype(np.float64, copy=False)
    logits_NK = np.log(np.maximum(P_NK, _TINY, dtype=np.float64))
    return softmax(logits_NK / temperature).astype(np.float64, copy=False)


def fit_temperature(P_NK: NDArray[np.floating], y_N: NDArray[np.int32], repeats: int = 1) -> float:
    """The temperature with the lowest log-loss on held-out answers, ``repeats`` of each image.

    It is 1 where a likelihood ratio test at 5 % can't tell it from 1: what is fitted to chance makes probabilities
    worse as often as better.

    One image more is counted, whose class nobody knows (as Platt did, 1999): without it, answers that are all right
    would ask for a temperature of 0.
    """
    found = smoothed_temperature(P_NK, y_N, 1 / (len(y_N) + 1))
    gain = metrics.log_loss(P_NK, y_N) - metrics.log_loss(tempered(P_NK, found), y_N)
    return found if gain * len(y_N) / repeats > _TELLING else 1.0


def smoothed_temperature(P_NK: NDArray[np.floating], y_N: NDArray[np.int32], smoothing: float) -> float:
    """The temperature with the lowest log-loss where each label gives the share ``smoothing`` to all classes evenly."""
    logits_NK = np.log(np.maximum(P_NK, _TINY, dtype=np.float64))
    highest_N = logits_NK.max(1)
    below_NK = logits_NK - highest_N[:, None]
    target = (1 - smoothing) * logits_NK[np.arange(len(y_N)), y_N].mean() + smoothing * logits_NK.mean()

    def loss(log_temperature: float) -> float:
        scale = np.exp(-log_temperature)
        total_N = np.log(np.exp(below_NK * scale).sum(1)) + highest_N * scale
        return float(total_N.mean() - target * scale)

    return float(np.exp(minimize_scalar(loss, bounds=_RANGE, method="bounded").x))


def tempered_labels(P_NK: NDArray[np.floating], temperature: float) -> NDArray[np.float64]:
    """Probabilities float64 [N, K] of the same logits, each label by itself, divided by a temperature."""
    if temperature == 1:
        return P_NK.astype(np.float64, copy=False)
    return sigmoid(_log_odds(P_NK) / temperature).astype(np.float64, copy=False)


def fit_label_temperature(P_NK: NDArray[np.floating], Y_NK: NDArray[np.bool_], repeats: int = 1) -> float:
    """One temperature for all labels, that of the lowest log-loss on held-out answers; 1 where chance explains it."""

    def loss(log_temperature: float) -> float:
        return float(metrics.label_loss(tempered_labels(P_NK, float(np.exp(log_temperature))), Y_NK).mean())

    found = minimize_scalar(loss, bounds=_RANGE, method="bounded").x
    gain = (loss(0.0) - loss(found)) * Y_NK.size
    return float(np.exp(found)) if gain / repeats > _TELLING else 1.0


def _log_odds(P_NK: NDArray[np.floating]) -> NDArray[np.float64]:
    inside_NK = np.clip(P_NK.astype(np.float64), _TINY, 1 - np.finfo(np.float64).epsneg)
    odds_NK: NDArray[np.float64] = np.log(inside_NK) - np.log1p(-inside_NK)
    return odds_NK
