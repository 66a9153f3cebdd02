"""A head on frozen features: whatever it was fitted as, it is weights and a bias on raw readouts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from regraft.errors import DataError
from regraft.heads.solver import TOLERANCE, Fit, fit_path, softmax
from regraft.records.heads import HeadSettings, Weighting

#: One array [N, D_r] a readout; rows are the same images in all of them.
Blocks = Mapping[str, NDArray[np.float32]]


def apart(X_ND: NDArray[np.float32], widths: Mapping[str, int]) -> Blocks:
    """The readouts that joined ones [N, D] consist of, in the order of their widths; no copies."""
    ends = np.cumsum(list(widths.values()))
    return dict(zip(widths, np.split(X_ND, ends[:-1], axis=1), strict=True))


#: How many images the average variance of a readout counts for beside each number's own.
_PRIOR_IMAGES = 10


@dataclass(frozen=True)
class Standardisation:
    """Mean and factor of each of the D joined numbers; applied rows have a mean squared length of 1."""

    mean_D: NDArray[np.float64]
    factor_D: NDArray[np.float64]

    @classmethod
    def of(cls, blocks: Blocks, readouts: Sequence[str], weighting: Weighting) -> Standardisation:
        """Estimated on all rows of the blocks."""
        means, factors = [], []
        width = sum(blocks[name].shape[1] for name in readouts)
        for name in readouts:
            X_ND = blocks[name]
            mean = X_ND.mean(0, dtype=np.float64)
            variance = np.maximum(_mean_square(X_ND) - mean**2, 0)
            # A number that never changes says nothing; rounding must not turn it into noise.
            alive = variance > 1e-10 * np.maximum(mean**2, variance.max(initial=0.0))
            # Of a handful of images a variance is a guess: lean on the average of the readout's numbers.
            typical = variance[alive].mean() if alive.any() else 1.0
            leaned = (len(X_ND) * variance + _PRIOR_IMAGES * typical) / (len(X_ND) + _PRIOR_IMAGES)
            share = width if weighting == "by_width" else len(readouts) * X_ND.shape[1]
            means.append(mean)
            factors.append(np.where(alive, 1 / np.sqrt(leaned * share), 0))
        return cls(np.concatenate(means), np.concatenate(factors))

    def apply(self, blocks: Blocks, readouts: Sequence[str], rows: NDArray[np.int64] | slice) -> NDArray[np.float32]:
        """Joined, standardised rows, float32 [n, D]."""
        count = len(next(iter(blocks.values()))[rows])
        Z_ND = np.empty((count, len(self.mean_D)), np.float32)
        at = 0
        for name in readouts:
            X = blocks[name]
            columns = slice(at, at + X.shape[1])
            np.subtract(X[rows], self.mean_D[columns].astype(np.float32), out=Z_ND[:, columns])
            Z_ND[:, columns] *= self.factor_D[columns].astype(np.float32)
            at += X.shape[1]
        return Z_ND

    def apply_in_place(self, X_ND: NDArray[np.float32]) -> None:
        """Standardise joined rows where they are: of many images there is no room for a second copy."""
        X_ND -= self.mean_D.astype(np.float32)
        X_ND *= self.factor_D.astype(np.float32)

    def fold(self, V_DK: NDArray[np.floating], b_K: NDArray[np.floating], settings: HeadSettings) -> LinearHead:
        """The head on raw readouts that does what V and b do on standardised ones."""
        W_DK = self.factor_D[:, None] * V_DK.astype(np.float64)
        return LinearHead(settings, W_DK.astype(np.float32), (b_K - self.mean_D @ W_DK).astype(np.float32))


def _mean_square(X_ND: NDArray[np.float32]) -> NDArray[np.float64]:
    """Mean of the squares of each column, in blocks: no copy of X in double precision."""
    total = np.zeros(X_ND.shape[1])
    for start in range(0, len(X_ND), 1024):
        block = X_ND[start:start + 1024].astype(np.float64)
        total += np.einsum("nd,nd->d", block, block)
    return total / max(len(X_ND), 1)


@dataclass(frozen=True)
class LinearHead:
    """Weights float32 [D, K] and bias float32 [K] on the joined raw readouts named in ``settings``."""

    settings: HeadSettings
    W_DK: NDArray[np.float32]
    b_K: NDArray[np.float32]

    def __post_init__(self) -> None:
        if self.W_DK.ndim != 2 or self.b_K.shape != self.W_DK.shape[1:]:
            raise DataError(f"a head's weights {list(self.W_DK.shape)} and bias {list(self.b_K.shape)} do not fit")
        if not (np.isfinite(self.W_DK).all() and np.isfinite(self.b_K).all()):
            raise DataError("a head's weights must be finite")

    def tempered(self, temperature: float) -> LinearHead:
        """The head whose logits are divided by a temperature."""
        if temperature == 1:
            return self
        scale = np.float32(1 / temperature)
        return replace(self, W_DK=self.W_DK * scale, b_K=self.b_K * scale)

    @property
    def shape(self) -> tuple[int, int]:
        """Width of the joined readouts, number of classes."""
        return self.W_DK.shape[0], self.W_DK.shape[1]

    def logits(self, features_ND: NDArray[np.float32]) -> NDArray[np.float64]:
        """Class scores float64 [N, K]. Row by row: an image's answer does not depend on its company."""
        W, b = self.W_DK.astype(np.float64), self.b_K.astype(np.float64)
        if features_ND.shape[1:] != W.shape[:1]:
            raise DataError(f"features of width {features_ND.shape[1]} for a head of width {len(W)}")
        out = np.empty((len(features_ND), W.shape[1]))
        for i, row in enumerate(features_ND):
            out[i] = row.astype(np.float64) @ W + b
        return out

    def probabilities(self, features_ND: NDArray[np.float32]) -> NDArray[np.float64]:
        """Class probabilities float64 [N, K]."""
        return softmax(self.logits(features_ND)).astype(np.float64, copy=False)


def fit_head(blocks: Blocks, y_N: NDArray[np.int32], classes: int, settings: HeadSettings,
             tolerance: float = TOLERANCE, start: Fit | None = None) -> LinearHead:
    """Fit a head of the given settings on all rows of the blocks, ``start`` being one on similar rows."""
    standard = Standardisation.of(blocks, settings.readouts, settings.weighting)
    Z_ND = standard.apply(blocks, settings.readouts, slice(None))
    if settings.kind == "nearest_mean":
        V_DK, b_K = nearest_mean(Z_ND, y_N, classes)
        return standard.fold(V_DK * settings.strength, b_K * settings.strength, settings)
    fit = fit_at(Z_ND, y_N, classes, settings.strength, tolerance, start)
    return standard.fold(fit.V_RK, fit.b_K, settings)


def fit_at(Z_ND: NDArray[np.float32], y_N: NDArray[np.int32], classes: int, strength: float,
           tolerance: float = TOLERANCE, start: Fit | None = None) -> Fit:
    """The optimum at one strength, on standardised rows."""
    *_, fit = fit_path(Z_ND, y_N, classes, strengths_to(strength, start), tolerance, start)
    return fit


def strengths_to(strength: float, start: Fit | None) -> list[float]:
    """From strong to weak in few steps: a cold start at a weak penalty takes longer than the way there."""
    if start is not None:
        return [strength]
    return [s for s in (1e-2, 1e-3, 1e-4, 1e-5) if s > 3 * strength] + [strength]


def nearest_mean(Z_ND: NDArray[np.float32], y_N: NDArray[np.int32], classes: int,
                 ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Weights [D, K] and bias [K] of the nearest class mean.

    The scores are minus half the squared distance to each mean, up to a number common to all classes.
    """
    counts = np.maximum(np.bincount(y_N, minlength=classes), 1)
    means_KD = np.zeros((classes, Z_ND.shape[1]))
    np.add.at(means_KD, y_N, Z_ND)
    means_KD /= counts[:, None]
    return means_KD.T, -0.5 * np.einsum("kd,kd->k", means_KD, means_KD)
