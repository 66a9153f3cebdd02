"""A plane on which images lie beside those that the network finds alike: the first two principal components."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from regraft.heads.directions import leading
from regraft.records.review import FeatureMap

#: More images than this make a map no clearer.
MOST = 2_000

#: Numbers that may be held for it.
_NUMBERS = 8_000_000

#: Rounds in which the components are refined.
_ROUNDS = 4


def map_rows(count: int, width: int, seed: int) -> NDArray[np.int64]:
    """Which of so many images with so many numbers each a map shows, int64, ascending."""
    most = min(MOST, max(2, _NUMBERS // width))
    if count <= most:
        return np.arange(count)
    return np.sort(np.random.default_rng(seed).choice(count, most, replace=False))


def feature_map(X_ND: NDArray[np.float32], rows_N: NDArray[np.int64], labels: tuple[str, ...]) -> FeatureMap:
    """The map of N images with features [N, D], in the order of ``rows_N``.

    Numbers that differ more count no more: each is scaled to unit variance first.
    """
    Z_ND = X_ND - X_ND.mean(0, dtype=np.float64).astype(np.float32)
    spread_D = np.sqrt(np.einsum("nd,nd->d", Z_ND, Z_ND) / np.float32(len(Z_ND)))
    if not spread_D.all():
        Z_ND, spread_D = Z_ND[:, spread_D > 0], spread_D[spread_D > 0]
    Z_ND /= spread_D
    total = float(np.vdot(Z_ND, Z_ND))
    if not total:
        flat = (0.0,) * len(rows_N)
        return FeatureMap(tuple(rows_N.tolist()), labels, flat, flat, 0.0)
    XY_N2, explained = _principal(Z_ND)
    XY_N2 /= np.abs(XY_N2).max()
    x, y = (tuple(np.round(column, 4).tolist()) for column in XY_N2.T)
    return FeatureMap(tuple(rows_N.tolist()), labels, x, y, explained / total)


def _principal(Z_ND: NDArray[np.float32]) -> tuple[NDArray[np.float32], float]:
    """Coordinates [N, 2] along the first two components, and the squares they hold."""
    axes_DQ, squares_Q = leading(Z_ND, 2, _ROUNDS)
    XY_N2 = Z_ND @ axes_DQ
    if XY_N2.shape[1] < 2:
        XY_N2 = np.column_stack([XY_N2, np.zeros(len(XY_N2))])
    return XY_N2, len(Z_ND) * float(squares_Q.sum())
