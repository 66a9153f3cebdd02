"""Multinomial logistic regression over a path of L2 strengths, warm-started and preconditioned.

Minimises ``mean cross-entropy + strength / 2 x |V|^2`` over weights V and an unpenalised bias. L-BFGS runs in
coordinates in which the curvature at the uniform prediction (Böhning's bound, Ann. Inst. Stat. Math. 44, 1992,
scaled) is the identity, so that 5 to 20 steps do at any strength where plain L-BFGS takes hundreds.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cholesky, lapack
from scipy.optimize import minimize

#: Largest gradient entry, in preconditioned coordinates, at which a fit is done; an optimum for reporting.
TOLERANCE = 1e-4

#: The same where fits are only compared with each other: scores differ in the fourth digit.
ROUGH = 2e-3

_MAX_STEPS = 200
_REMEMBERED = 20


@dataclass(frozen=True)
class Fit:
    """Weights float32 [R, K] and bias float32 [K] at one strength."""

    strength: float
    V_RK: NDArray[np.float32]
    b_K: NDArray[np.float32]
    steps: int


def softmax(logits_NK: NDArray[np.floating]) -> NDArray[np.floating]:
    """Probabilities of logits, the type kept."""
    exp = np.exp(logits_NK - logits_NK.max(1, keepdims=True))
    return exp / exp.sum(1, keepdims=True)


def fit_path(Z_NR: NDArray[np.float32], y_N: NDArray[np.int32], classes: int, strengths: Sequence[float],
             last_tolerance: float = ROUGH) -> Iterator[Fit]:
    """Fits at each strength in the given order (strong to weak is fastest), each started from the one before.

    All are rough but the last one, which is brought to ``last_tolerance``.

    ``Z_NR`` should be centred and have a mean squared row length near 1.
    """
    n, r = Z_NR.shape
    Y_NK = np.zeros((n, classes), np.float32)
    Y_NK[np.arange(n), y_N] = 1
    gram_RR = (Z_NR.T @ Z_NR) / np.float32(n)
    curvature = 0.5 / classes
    V_RK, b_K = np.zeros((r, classes), np.float32), np.log(np.maximum(Y_NK.mean(0), 0.5 / n))
    for number, strength in enumerate(strengths, start=1):
        tolerance = last_tolerance if number == len(strengths) else ROUGH
        V_RK, b_K, steps = _fit(Z_NR, Y_NK, gram_RR, curvature, strength, V_RK, b_K, tolerance)
        yield Fit(strength, V_RK, b_K, steps)


def _fit(Z_NR: NDArray[np.float32], Y_NK: NDArray[np.float32], gram_RR: NDArray[np.float32], curvature: float,
         strength: float, V_RK: NDArray[np.float32], b_K: NDArray[np.float32], tolerance: float,
         ) -> tuple[NDArray[np.float32], NDArray[np.float32], int]:
    n, r = Z_NR.shape
    k = Y_NK.shape[1]
    into, out_of = _preconditioner(gram_RR, curvature, strength)
    bias_scale = np.float32(curvature**0.5)

    def weights(x: NDArray[np.float64]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        x32 = x.astype(np.float32)
        return into.T @ x32[: r * k].reshape(r, k), x32[r * k:] / bias_scale

    def loss_and_gradient(x: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        V, b = weights(x)
        logits = Z_NR @ V
        logits += b
        logits -= logits.max(1, keepdims=True)
        right = np.einsum("nk,nk->n", logits, Y_NK)
        np.exp(logits, out=logits)
        total = logits.sum(1, keepdims=True)
        loss = float((np.log(total[:, 0]) - right).mean(dtype=np.float64))
        logits /= total
        logits -= Y_NK
        logits /= np.float32(n)
        gradient = into @ (Z_NR.T @ logits + np.float32(strength) * V)
        flat = np.concatenate([gradient.ravel(), logits.sum(0) / bias_scale])
        penalty = 0.5 * strength * float(np.einsum("rk,rk->", V, V, dtype=np.float64))
        return loss + penalty, flat.astype(np.float64)

    start = np.concatenate([(out_of.T @ V_RK).ravel(), b_K * bias_scale]).astype(np.float64)
    found = minimize(loss_and_gradient, start, jac=True, method="L-BFGS-B",
                     options={"maxiter": _MAX_STEPS, "gtol": tolerance, "ftol": 1e-3 * tolerance,
                              "maxcor": _REMEMBERED})
    V, b = weights(found.x)
    return V, b, int(found.nit)


def _preconditioner(gram_RR: NDArray[np.float32], curvature: float, strength: float,
                    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Inverse and factor of the lower Cholesky factor of ``curvature x gram + strength``, both [R, R]."""
    H = gram_RR * np.float32(curvature)
    H[np.diag_indices_from(H)] += np.float32(strength)
    # Rounding in fp32 can push the smallest eigenvalue of a weakly penalised gram below zero.
    H[np.diag_indices_from(H)] += np.float32(1e-6 * H.diagonal().max())
    factor = cholesky(H, lower=True, check_finite=False)
    inverse, _ = lapack.strtri(factor, lower=1)
    return np.ascontiguousarray(np.tril(inverse)), factor
