"""Temperature scaling: a probability that means what it says (Guo et al., ICML 2017)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp, softmax

from regraft import metrics

#: Smallest probability whose logarithm is taken.
_TINY = 1e-300

#: Temperatures that are looked through, as natural logarithms.
_RANGE = (-3.0, 3.0)


def tempered(P_NK: NDArray[np.floating], temperature: float) -> NDArray[np.float64]:
    """Probabilities float64 [N, K] of the same logits divided by a temperature."""
    if temperature == 1:
        return P_NK.astype(np.float64, copy=False)
    logits_NK = np.log(np.maximum(P_NK, _TINY, dtype=np.float64))
    calibrated: NDArray[np.float64] = softmax(logits_NK / temperature, axis=1)
    return calibrated


def fit_temperature(P_NK: NDArray[np.floating], y_N: NDArray[np.int32]) -> float:
    """The temperature with the lowest log-loss on held-out answers; 1 where none is lower.

    One image more is counted, whose class nobody knows (as Platt did, 1999): without it, answers that are all right
    would ask for a temperature of 0.
    """
    logits_NK = np.log(np.maximum(P_NK, _TINY, dtype=np.float64))
    unsure = 1 / (len(y_N) + 1)
    target = (1 - unsure) * logits_NK[np.arange(len(y_N)), y_N].mean() + unsure * logits_NK.mean()

    def loss(log_temperature: float) -> float:
        scale = np.exp(-log_temperature)
        return float(logsumexp(logits_NK * scale, axis=1).mean() - target * scale)

    found = float(np.exp(minimize_scalar(loss, bounds=_RANGE, method="bounded").x))
    return found if metrics.log_loss(tempered(P_NK, found), y_N) < metrics.log_loss(P_NK, y_N) else 1.0
