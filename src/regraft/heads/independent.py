"""Several labels an image: a logistic regression for each label, all of them solved together.

They share the standardised readouts and the L2 strength, and nothing else: the loss is the sum of theirs.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from regraft.heads.linear import Blocks, LinearHead, Standardisation, strengths_to
from regraft.heads.solver import TOLERANCE, Array, Curvature, Fit, fit_targets, sigmoid
from regraft.records.heads import HeadSettings


@dataclass(frozen=True)
class IndependentHead(LinearHead):
    """A linear head whose K answers do not exclude each other."""

    def probabilities(self, features_ND: NDArray[np.float32]) -> NDArray[np.float64]:
        """The probability of each label by itself, float64 [N, K]."""
        return sigmoid(self.logits(features_ND)).astype(np.float64, copy=False)


@dataclass(frozen=True)
class AnyOf:
    """Which of K labels each row has, bool [N, K]; see :class:`regraft.heads.solver.Targets`.

    A label that all rows have, or none, can't be learned: it keeps the bias of half a row, and no weights.
    """

    Y_NK: NDArray[np.bool_]

    @cached_property
    def _Y_NK(self) -> Array:
        return self.Y_NK.astype(np.float32)

    @cached_property
    def _learned_K(self) -> NDArray[np.bool_]:
        counts_K = self.Y_NK.sum(0)
        learned_K: NDArray[np.bool_] = (counts_K > 0) & (counts_K < len(self.Y_NK))
        return learned_K

    def bias(self) -> NDArray[np.floating]:
        """Log-odds of the shares."""
        n = len(self.Y_NK)
        counts_K = np.clip(self.Y_NK.sum(0), 0.5, n - 0.5)
        odds: NDArray[np.floating] = np.log(counts_K / (n - counts_K))
        return odds

    def probabilities(self, scores_NK: Array) -> tuple[Array, float]:
        """The sigmoid, and the binary cross-entropies: mean over rows of their sum over labels."""
        small_NK = np.exp(-np.abs(scores_NK))
        loss_NK = np.maximum(scores_NK, 0) + np.log1p(small_NK) - self._Y_NK * scores_NK
        P_NK = np.where(scores_NK >= 0, np.float32(1), small_NK) / (1 + small_NK)
        return P_NK, float(loss_NK.sum(dtype=np.float64) / len(scores_NK))

    def residual(self, P_NK: Array) -> Array:
        """``p - y``; 0 of a label that is not learned."""
        residual: Array = (P_NK - self._Y_NK) * self._learned_K
        return residual

    def curvature(self, P_NK: Array) -> Curvature:
        """Mean ``p (1 - p)`` over the rows, for each label."""
        return Curvature((P_NK * (1 - P_NK)).mean(0))


def fit_independent(blocks: Blocks, Y_NK: NDArray[np.bool_], settings: HeadSettings, tolerance: float = TOLERANCE,
                    start: Fit | None = None) -> IndependentHead:
    """Fit a head of the given settings on all rows of the blocks, ``start`` being one on similar rows."""
    standard = Standardisation.of(blocks, settings.readouts, settings.weighting)
    Z_ND = standard.apply(blocks, settings.readouts, slice(None))
    *_, fit = fit_targets(Z_ND, AnyOf(Y_NK), strengths_to(settings.strength, start), tolerance, start)
    head = standard.fold(fit.V_RK, fit.b_K, settings)
    return IndependentHead(settings, head.W_DK, head.b_K)
