"""Multinomial logistic regression over a path of L2 strengths, warm-started and preconditioned.

Minimises ``mean cross-entropy + strength / 2 x |V|^2`` over weights V and an unpenalised bias, by L-BFGS in its
compact form (Byrd, Nocedal & Schnabel, Math. Programming 63, 1994). The Hessian it starts from is the products of the
rows by the mean curvature of their losses at the start, ``diag(p) - p p^T``, as if each row had that one (a Kronecker
product, as in Martens & Grosse, ICML 2015): so it knows which classes are taken for each other. 5 to 25 steps then do
at any strength, where plain L-BFGS takes hundreds. It is inverted on the leading directions of the rows and taken for
round on the others (Frangella, Tropp & Udell, SIAM J. Matrix Anal. Appl. 44, 2023), where the penalty outweighs what
the rows vary.

With fewer rows than columns (N < R) the rows may be replaced by those of the Cholesky factor of their Gram matrix: the
same distances, hence the same penalised fit, in N instead of R coordinates.

All in numpy: scipy brings a second BLAS, whose waiting threads would take the cores from numpy's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from regraft.heads.directions import leading

#: A fit is done when a Newton-like step promises to lower the loss by less than half of this (nats); an optimum
#: for reporting, as near as sums in float32 can tell.
TOLERANCE = 5e-8

#: The same where fits are only compared with each other: scores differ in the fourth digit.
ROUGH = 1e-4

_MAX_STEPS = 200
_STEPS_AT_ONCE = 64
_TRIES = 6
_MEMORY = 10
_SUFFICIENT = 1e-4

#: Relative rounding error of a loss; what is smaller is neither an increase nor a decrease.
_NOISE = 1e-7

#: A direction among the classes counts in the preconditioner at least this share of the mean: its curvature may come
#: back.
_LEAST_SHARE = 0.1

#: With fewer rows a class, directions among the classes cost more than they spare.
_ROWS_OF_A_CLASS = 16

#: Leading directions of the preconditioner, of few rows one for each so many, and the most rows that are looked at for
#: them: it is a help on the way, not where the way ends.
_LEADING = 128
_ROWS_OF_ONE = 8
_LOOKED_AT = 2_048

#: Steps that a path takes by and large: what coordinates cost is weighed against what they save on so many.
_STEPS_OF_A_PATH = 64
_FULL_SPEED = 64

#: Below this size LAPACK factors and inverts as fast as two halves and their products.
_SMALL = 96

#: Columns up to which rows are short.
_SHORT = 64

#: Added to the diagonal of a Gram matrix, as a share of its mean: what float32 needs to factor it.
_RIDGE = 1e-4

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Fit:
    """Weights float32 [R, K] and bias float32 [K] at one strength."""

    strength: float
    V_RK: Array
    b_K: Array
    steps: int


def softmax(logits_NK: NDArray[np.floating]) -> NDArray[np.floating]:
    """Probabilities of logits, the type kept."""
    exp: NDArray[np.floating] = np.exp(logits_NK - logits_NK.max(1, keepdims=True))
    exp /= exp.sum(1, keepdims=True)
    return exp


def sigmoid(logits: NDArray[np.floating]) -> NDArray[np.floating]:
    """Probability of each logit by itself, the type kept."""
    # The half on either side of 0 that can't overflow.
    small = np.exp(-np.abs(logits))
    probabilities: NDArray[np.floating] = np.where(logits >= 0, 1 / (1 + small), small / (1 + small))
    return probabilities


@dataclass(frozen=True)
class Curvature:
    """Mean curvature of the losses of rows by their K scores.

    ``along_K`` float32 along each of the orthonormal columns of ``directions_KK``; along the scores themselves without.
    """

    along_K: Array
    directions_KK: Array | None = None


class Targets(Protocol):
    """What the scores of N rows are to become: how far they are from it, and which way it lies."""

    def bias(self) -> NDArray[np.floating]:
        """Where a fit without weights would start, [K]."""

    def probabilities(self, scores_NK: Array) -> tuple[Array, float]:
        """Probabilities [N, K] of scores, and the mean loss (nats)."""

    def residual(self, P_NK: Array) -> Array:
        """The gradient of each row's loss by its scores, [N, K]; a new array."""

    def curvature(self, P_NK: Array) -> Curvature:
        """Of the losses by the scores, at these probabilities."""


@dataclass(frozen=True)
class OneOf:
    """One class a row: ``y_N`` int32 among ``classes``; the loss is the cross-entropy."""

    y_N: NDArray[np.int32]
    classes: int

    def bias(self) -> NDArray[np.floating]:
        """Logarithms of the shares; a class without rows has no best bias, half a row is as good as any."""
        counts = np.bincount(self.y_N, minlength=self.classes)
        share: NDArray[np.floating] = np.log(np.maximum(counts, 0.5) / len(self.y_N))
        return share

    def probabilities(self, scores_NK: Array) -> tuple[Array, float]:
        """The softmax, and the mean cross-entropy."""
        # numpy is slow along short rows: of few classes, scores lie class by class while they are worked on.
        P_KN = np.ascontiguousarray(scores_NK.T) if self.classes <= _SHORT else scores_NK.T.copy("K")
        P_KN -= P_KN.max(0)
        right_N = P_KN[self.y_N, np.arange(len(self.y_N))]
        np.exp(P_KN, out=P_KN)
        total_N = P_KN.sum(0)
        P_KN /= total_N
        return P_KN.T, float((np.log(total_N) - right_N).mean(dtype=np.float64))

    def residual(self, P_NK: Array) -> Array:
        """``p - y``."""
        G_NK = P_NK.copy("K")
        G_NK[np.arange(len(self.y_N)), self.y_N] -= 1
        return G_NK

    def curvature(self, P_NK: Array) -> Curvature:
        """The mean of ``diag(p) - p p^T`` over the rows; of two classes, or few rows a class, its diagonal."""
        # Between two classes there is one direction alone; steps a bit too long do better there.
        if self.classes == 2 or len(P_NK) < _ROWS_OF_A_CLASS * self.classes:
            return Curvature((P_NK.sum(0) - np.einsum("nk,nk->k", P_NK, P_NK)) / np.float32(len(P_NK)))
        mean_KK = P_NK.T @ P_NK
        np.subtract(np.diag(P_NK.sum(0)), mean_KK, out=mean_KK)
        mean_KK /= np.float32(len(P_NK))
        return Curvature(*np.linalg.eigh(mean_KK))


def fit_path(Z_NR: Array, y_N: NDArray[np.int32], classes: int, strengths: Sequence[float],
             last_tolerance: float = ROUGH, start: Fit | None = None) -> Iterator[Fit]:
    """Fits of one class a row; see :func:`fit_targets`."""
    return fit_targets(Z_NR, OneOf(y_N, classes), strengths, last_tolerance, start)


def fit_targets(Z_NR: Array, targets: Targets, strengths: Sequence[float], last_tolerance: float = ROUGH,
                start: Fit | None = None) -> Iterator[Fit]:
    """Fits at each strength; see :meth:`Problem.path`."""
    return Problem(Z_NR, targets).path(strengths, last_tolerance, start)


class Problem:
    """Rows float32 [N, R] and what their scores are to become; all fits run in the same coordinates.

    The rows should be centred and have a mean squared length near 1.
    """

    def __init__(self, Z_NR: Array, targets: Targets) -> None:
        self._targets = targets
        self._bias_K = targets.bias()
        self._space = _space(Z_NR, len(self._bias_K))

    @classmethod
    def of_products(cls, gram_NN: Array, targets: Targets) -> Problem:
        """The problem of rows of which only the products with each other are known, float32 [N, N].

        Weights of its fits, [N, K], are what products with these rows are multiplied with.
        """
        made = cls.__new__(cls)
        made._targets = targets
        made._bias_K = targets.bias()
        made._space = _space_of_products(gram_NN, None)
        return made

    def path(self, strengths: Sequence[float], last_tolerance: float = ROUGH, start: Fit | None = None,
             ) -> Iterator[Fit]:
        """Fits at each strength in the given order (strong to weak is fastest), each started from the one before.

        All are rough but the last one, which is brought to ``last_tolerance``. The first is started from ``start``, a
        fit of these or of similar rows, where there is one.
        """
        space, targets = self._space, self._targets
        X_PK = np.zeros((space.size + 1, len(self._bias_K)), np.float32)
        X_PK[-1] = self._bias_K
        if start is not None:
            X_PK[:-1], X_PK[-1] = space.coefficients(start.V_RK), start.b_K
        for number, strength in enumerate(strengths, start=1):
            tolerance = last_tolerance if number == len(strengths) else ROUGH
            X_PK, steps = _optimum(space, targets, X_PK, strength, tolerance)
            yield Fit(strength, space.weights(X_PK[:-1]), X_PK[-1].copy(), steps)


@dataclass(frozen=True)
class _Space:
    """The coordinates a fit runs in: rows C [N, P], their leading directions, and the way back.

    Coefficients and gradients are [P + 1, K], the last row being the bias. ``axes`` [P, Q] are orthonormal,
    ``variances`` [Q] the mean squares of the rows along them, ``rest`` the same along any other direction. C is the
    given rows; or, ``factored``, the lower Cholesky factor of their products, ``rows_NR`` being the given rows, unless
    their products alone are known.
    """

    C_NP: Array
    axes_PQ: Array
    variances_Q: Array
    rest: np.float32
    factored: bool = False
    rows_NR: Array | None = None

    @property
    def size(self) -> int:
        """P."""
        return int(self.C_NP.shape[1])

    def scores(self, X_PK: Array) -> Array:
        """Logits [N, K]."""
        scores: Array = self.C_NP @ X_PK[:-1]
        scores += X_PK[-1]
        return scores

    def preconditioner(self, curvature: Curvature, strength: float) -> Callable[[Array], Array]:
        """A rough inverse Hessian, to be applied to gradients, for rows of this mean curvature."""
        w_K, turn_KK = curvature.along_K, curvature.directions_KK
        others_K = 1 / (self.rest * w_K + np.float32(strength))
        leading_QK = 1 / (self.variances_Q[:, None] * w_K + np.float32(strength)) - others_K

        def apply(g_PK: Array) -> Array:
            if turn_KK is not None:
                g_PK = g_PK @ turn_KK
            direction_PK = np.empty_like(g_PK)
            np.multiply(g_PK[:-1], others_K, out=direction_PK[:-1])
            direction_PK[:-1] += self.axes_PQ @ (leading_QK * (self.axes_PQ.T @ g_PK[:-1]))
            np.divide(g_PK[-1], w_K, out=direction_PK[-1])
            return direction_PK if turn_KK is None else direction_PK @ turn_KK.T

        return apply

    def coefficients(self, V_RK: Array) -> Array:
        """Coefficients without the bias of weights [R, K]: those of the same scores."""
        if not self.factored:
            return V_RK
        return self.C_NP.T @ V_RK if self.rows_NR is None else _solved(self.C_NP, self.rows_NR @ V_RK)

    def weights(self, V_PK: Array) -> Array:
        """Weights [R, K] of the coefficients without the bias."""
        if not self.factored:
            return V_PK.copy()
        weights_NK = _solved(self.C_NP, V_PK, transposed=True)
        return weights_NK if self.rows_NR is None else self.rows_NR.T @ weights_NK


def _space(Z_NR: Array, columns: int) -> _Space:
    n, r = Z_NR.shape
    # Operations, each for every row; a product with few columns takes as long as one with more.
    saved = 4 * _STEPS_OF_A_PATH * max(columns, _FULL_SPEED) * (r - n)
    if saved <= 2 * n * (r + n):
        return _Space(Z_NR, *_directions(Z_NR))
    return _space_of_products(Z_NR @ Z_NR.T, Z_NR)


def _space_of_products(gram_NN: Array, rows_NR: Array | None) -> _Space:
    """Coordinates of rows with these products with each other, which are overwritten."""
    # A Gram matrix of centred rows has no full rank; in float32 its factor needs this much to stand on.
    factor_NN = _ridged_factor(gram_NN, _RIDGE * max(float(gram_NN.trace()) / len(gram_NN), _RIDGE))
    return _Space(factor_NN, *_directions(factor_NN), True, rows_NR)


def _directions(C_NP: Array) -> tuple[Array, Array, np.float32]:
    """Leading directions of the rows [P, Q], their mean squares along these [Q], and along any other direction."""
    C_NP = C_NP[::-(-len(C_NP) // _LOOKED_AT)]
    axes_PQ, variances_Q = leading(C_NP, min(_LEADING, -(-len(C_NP) // _ROWS_OF_ONE)))
    total = np.vdot(C_NP, C_NP) / np.float32(len(C_NP))
    rest = max(total - variances_Q.sum(), np.float32(0)) / np.float32(max(C_NP.shape[1] - len(variances_Q), 1))
    return axes_PQ, variances_Q, np.float32(min(rest, variances_Q.min()))


def _ridged_factor(H_PP: Array, ridge: float) -> Array:
    """The lower Cholesky factor of ``H + ridge``, which H becomes, for a positive semi-definite H.

    Where one direction outweighs all others (images that hardly differ), rounding exceeds the ridge; it is then
    raised until the matrix can be factored. Raises LinAlgError only for what is no finite matrix.
    """
    diagonal = np.diag_indices_from(H_PP)
    bare = H_PP[diagonal].copy()
    while True:
        H_PP[diagonal] = bare + np.float32(ridge)
        try:
            factor: Array = np.linalg.cholesky(H_PP)
        except np.linalg.LinAlgError:
            if not ridge <= bare.max():
                raise
            ridge *= 10
        else:
            return factor


def _solved(L_PP: Array, B_PK: Array, transposed: bool = False) -> Array:
    """``L^-1 B``, or ``L^-T B``, for a lower triangular L; by halves, as nearly all of it is matrix products then."""
    size = len(L_PP)
    if size <= _SMALL:
        solved: Array = np.linalg.solve(L_PP.T if transposed else L_PP, B_PK)
        return solved
    half = size // 2
    first, below, second = L_PP[:half, :half], L_PP[half:, :half], L_PP[half:, half:]
    if transposed:
        lower = _solved(second, B_PK[half:], True)
        return np.concatenate([_solved(first, B_PK[:half] - below.T @ lower, True), lower])
    upper = _solved(first, B_PK[:half])
    return np.concatenate([upper, _solved(second, B_PK[half:] - below @ upper)])


@dataclass(frozen=True)
class _Point:
    """Coefficients, scores [N, K], and what follows from them."""

    X_PK: Array
    scores_NK: Array
    P_NK: Array
    loss: float

    @classmethod
    def at(cls, X_PK: Array, scores_NK: Array, targets: Targets, strength: float) -> _Point:
        P_NK, loss = targets.probabilities(scores_NK)
        return cls(X_PK, scores_NK, P_NK, loss + 0.5 * strength * _dot(X_PK[:-1], X_PK[:-1]))

    def gradient(self, space: _Space, targets: Targets, strength: float) -> Array:
        G_NK = targets.residual(self.P_NK)
        G_NK /= np.float32(len(G_NK))
        gradient = np.empty_like(self.X_PK)
        np.multiply(self.X_PK[:-1], np.float32(strength), out=gradient[:-1])
        gradient[:-1] += space.C_NP.T @ G_NK
        gradient[-1] = G_NK.sum(0)
        return gradient

    def curvature(self, targets: Targets) -> Curvature:
        """Of the rows; never next to nothing."""
        bare = targets.curvature(self.P_NK)
        least = max(_LEAST_SHARE * float(bare.along_K.mean()), 1e-5)
        return replace(bare, along_K=np.maximum(bare.along_K, np.float32(least)))


def _dot(a: Array, b: Array) -> float:
    return float(np.vdot(a, b))


class _Memory:
    """The last few steps with the changes of the gradient along them."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        flat = (_MEMORY, int(np.prod(shape)))
        self.S = np.empty(flat, np.float32)
        self.Y = np.empty(flat, np.float32)
        self.products = np.zeros((_MEMORY, _MEMORY))
        self.added = 0

    def add(self, step: Array, change: Array) -> None:
        """Remember a pair, unless rounding has taken its curvature."""
        if _dot(step, change) <= 0:
            return
        slot = self.added % _MEMORY
        self.S[slot], self.Y[slot] = step.ravel(), change.ravel()
        self.added += 1
        used = min(self.added, _MEMORY)
        self.products[:used, slot] = self.S[:used] @ self.Y[slot]
        self.products[slot, :used] = self.Y[:used] @ self.S[slot]

    def direction(self, g_PK: Array, preconditioner: Callable[[Array], Array]) -> Array:
        """Inverse Hessian times gradient."""
        if not self.added:
            return preconditioner(g_PK)
        used = min(self.added, _MEMORY)
        order = np.arange(self.added - used, self.added) % _MEMORY
        back = np.argsort(order)
        R = np.triu(self.products[np.ix_(order, order)])
        a = np.linalg.solve(R, (self.S[:used] @ g_PK.ravel())[order])
        q = g_PK.ravel() - a[back].astype(np.float32) @ self.Y[:used]
        d = preconditioner(q.reshape(g_PK.shape))
        b = np.linalg.solve(R.T, R.diagonal() * a - (self.Y[:used] @ d.ravel())[order])
        return d + (b[back].astype(np.float32) @ self.S[:used]).reshape(d.shape)


def _optimum(space: _Space, targets: Targets, X_PK: Array, strength: float, tolerance: float,
             ) -> tuple[Array, int]:
    """Coefficients at the optimum, and the number of steps from X to there."""
    total = 0
    while total < _MAX_STEPS:
        X_PK, steps, converged = _descend(space, targets, X_PK, strength, tolerance)
        total += steps
        # A fresh start that finds no lower loss has come as far as float32 goes.
        if converged or steps == 0:
            break
    return X_PK, total


def _descend(space: _Space, targets: Targets, X_PK: Array, strength: float, tolerance: float,
             ) -> tuple[Array, int, bool]:
    """A few steps from X with one preconditioner: coefficients, number of steps, whether that is the optimum.

    Starting anew, with the curvatures of where one has come to, also sheds what rounding has added up to.
    """
    point = _Point.at(X_PK, space.scores(X_PK), targets, strength)
    gradient = point.gradient(space, targets, strength)
    preconditioner = space.preconditioner(point.curvature(targets), strength)
    memory = _Memory(X_PK.shape)
    for steps in range(_STEPS_AT_ONCE):
        d = memory.direction(gradient, preconditioner)
        promise = _dot(gradient, d)
        if abs(promise) <= tolerance:
            return point.X_PK, steps, True
        following = _search(space, targets, point, d, promise, strength) if promise > 0 else None
        if following is None:
            return point.X_PK, steps, False
        new_gradient = following.gradient(space, targets, strength)
        memory.add(following.X_PK - point.X_PK, new_gradient - gradient)
        point, gradient = following, new_gradient
    return point.X_PK, _STEPS_AT_ONCE, False


def _search(space: _Space, targets: Targets, point: _Point, d_PK: Array, promise: float, strength: float,
            ) -> _Point | None:
    """The first point along -d that lowers the loss enough, from a full step downwards; None if there is none."""
    scores_d_NK = space.scores(d_PK)
    length = 1.0
    for _ in range(_TRIES):
        t = np.float32(length)
        X_PK = point.X_PK - t * d_PK
        new = _Point.at(X_PK, point.scores_NK - t * scores_d_NK, targets, strength)
        if new.loss <= point.loss - _SUFFICIENT * length * promise + min(_NOISE * point.loss, 0.1 * promise):
            return new
        # The lowest point of the parabola through both losses and the slope.
        lowest = 0.5 * promise * length**2 / (new.loss - point.loss + promise * length)
        length = min(max(lowest, 0.1 * length), 0.5 * length)
    return None
