"""The directions in which rows differ most."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

#: Directions that are looked for besides the wanted ones, to find these better.
_SPARE = 16

#: Columns that add less than this share to those before them are left to QR.
_INDEPENDENT = 1e-5


def leading(X_ND: NDArray[np.float32], count: int, rounds: int = 1) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The first few principal directions of rows that are centred: axes [D, Q], and mean squares along them [Q].

    Q is ``count``, or less where there are fewer columns. By subspace iteration from a fixed draw (Halko, Martinsson &
    Tropp, SIAM Review 53, 2011); of directions that hardly differ in what they hold, more ``rounds`` find better ones.
    """
    width = X_ND.shape[1]
    drawn_DS = np.random.default_rng(0).standard_normal((width, min(count + _SPARE, width)), np.float32)
    axes_DS = _orthonormal(X_ND.T @ (X_ND @ drawn_DS))
    for _ in range(rounds - 1):
        axes_DS = _orthonormal(X_ND.T @ (X_ND @ axes_DS))
    rows_NS = X_ND @ axes_DS
    squares_S, turn_SS = np.linalg.eigh(rows_NS.T @ rows_NS / np.float32(len(X_ND)))
    squares_Q: NDArray[np.float32] = np.maximum(squares_S[::-1][:count], 0)
    return axes_DS @ turn_SS[:, ::-1][:, :count], squares_Q


def _orthonormal(Y_DS: NDArray[np.float32]) -> NDArray[np.float32]:
    """Orthonormal columns that span what the given ones do.

    By the Cholesky factor of their products in double precision, in a third of the time of numpy's QR; where they are
    too nearly dependent for it, by that.
    """
    wide_DS = Y_DS.astype(np.float64)
    try:
        factor_SS = np.linalg.cholesky(wide_DS.T @ wide_DS)
    except np.linalg.LinAlgError:
        factor_SS = np.zeros((1, 1))
    if factor_SS.diagonal().min() <= _INDEPENDENT * factor_SS.diagonal().max():
        axes_DS: NDArray[np.float32] = np.linalg.qr(Y_DS)[0]
        return axes_DS
    return (wide_DS @ np.linalg.inv(factor_SS).T).astype(np.float32)
