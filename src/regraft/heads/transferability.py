"""Scores of how well features fit labels without fitting a head: shown beside a measured probe, never trusted.

Studies do not agree on which of them ranks networks well, or whether any does; a cross-validated probe does better.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

#: Rounds of the fixed point that LogME's two precisions are found by, and the relative change that ends it.
_ROUNDS, _SETTLED = 11, 1e-3


def h_score(X_ND: NDArray[np.float32], y_N: NDArray[np.int32]) -> float:
    """Regularised H-score (Bao et al., ICIP 2019; Ibrahim et al., 2021), at most the number of classes less one.

    ``tr(C^-1 (1 - a) B)``: how much of the features' covariance C, shrunk by Ledoit and Wolf's a, is the covariance B
    of the class means. Without shrinking, fewer images than features would always give the largest value.
    """
    X = X_ND.astype(np.float64) - X_ND.mean(0, dtype=np.float64)
    shrinkage = ledoit_wolf(X)
    U, singular, _ = np.linalg.svd(X, full_matrices=False)
    variance_R = singular**2 / len(X)
    labels, counts = np.unique(y_N, return_counts=True)
    sums_KR = np.stack([U[y_N == label].sum(0) for label in labels])
    between_R = variance_R * (sums_KR**2 / counts[:, None]).sum(0)
    shrunk_R = (1 - shrinkage) * variance_R + shrinkage * variance_R.sum() / X.shape[1]
    return float(((1 - shrinkage) * between_R / np.maximum(shrunk_R, np.finfo(np.float64).tiny)).sum())


def ledoit_wolf(X_ND: NDArray[np.float64]) -> float:
    """Share of the mean variance to mix into the covariance of centred rows (J. Multivariate Analysis 88, 2004)."""
    n, d = X_ND.shape
    gram = X_ND @ X_ND.T if n < d else X_ND.T @ X_ND
    squared = float((gram**2).sum()) / n**2  # Frobenius norm of the covariance
    spread = squared - (float(gram.trace()) / n) ** 2 / d
    noise = (float((np.einsum("nd,nd->n", X_ND, X_ND) ** 2).mean()) - squared) / n
    return min(1.0, noise / spread) if spread > 0 else 1.0


def log_me(X_ND: NDArray[np.float32], y_N: NDArray[np.int32]) -> float:
    """LogME (You et al., ICML 2021): log evidence of the labels under Bayesian linear regression, nats an image.

    Each class's membership is regressed, and the mean over classes taken; the precisions of weights (alpha) and of
    noise (beta) maximise the evidence.
    """
    X = X_ND.astype(np.float64)
    n, d = X.shape
    U, singular, _ = np.linalg.svd(X, full_matrices=False)
    sigma = singular**2
    labels = np.unique(y_N)
    return float(np.mean([_evidence(U, sigma, (y_N == label).astype(np.float64), n, d) for label in labels]))


def _evidence(U_NR: NDArray[np.float64], sigma_R: NDArray[np.float64], t_N: NDArray[np.float64], n: int, d: int,
              ) -> float:
    """Largest log evidence of one target of n numbers on d features, divided by n."""
    z_R = (U_NR.T @ t_N) ** 2
    outside = max(float(t_N @ t_N - z_R.sum()), 0.0)  # of the target, in no direction of the features
    alpha = beta = 1.0
    for _ in range(_ROUNDS):
        ratio = alpha / beta
        gamma = float((sigma_R / (sigma_R + ratio)).sum())
        weights = float((sigma_R * z_R / (sigma_R + ratio) ** 2).sum())
        residual = float((z_R / (1 + sigma_R / ratio) ** 2).sum()) + outside
        alpha, beta = gamma / max(weights, 1e-10), (n - gamma) / max(residual, 1e-10)
        if abs(alpha / beta - ratio) <= _SETTLED * ratio:
            break
    ratio = alpha / beta
    weights = float((sigma_R * z_R / (sigma_R + ratio) ** 2).sum())
    residual = float((z_R / (1 + sigma_R / ratio) ** 2).sum()) + outside
    evidence = (d * np.log(alpha) + n * np.log(beta) - beta * residual - alpha * weights - n * np.log(2 * np.pi)
                - np.log(alpha + beta * sigma_R).sum() - (d - len(sigma_R)) * np.log(alpha)) / 2
    return float(evidence) / n
