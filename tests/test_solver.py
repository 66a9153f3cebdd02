from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from regraft.heads.directions import leading
from regraft.heads.solver import ROUGH, TOLERANCE, Fit, OneOf, fit_path, softmax

Floats = NDArray[np.float32]
Labels = NDArray[np.int32]

# rows, columns, classes: more rows than columns and fewer, two classes and many
SHAPES = [(300, 20, 2), (60, 200, 2), (400, 50, 30), (150, 400, 30)]


def blobs(n: int, d: int, classes: int, spread: float = 1.5) -> tuple[Floats, Labels]:
    """Overlapping classes, centred, with a mean squared row length of 1; every class has a row."""
    rng = np.random.default_rng(n + d + classes)
    y = np.concatenate([np.arange(classes), rng.integers(0, classes, n - classes)]).astype(np.int32)
    X = rng.standard_normal((classes, d))[y] + spread * rng.standard_normal((n, d))
    X *= 1 / np.arange(1, d + 1) ** 0.5  # like features: a few strong directions, many weak ones
    X -= X.mean(0)
    return (X / np.sqrt((X**2).sum(1).mean())).astype(np.float32), y


def last(Z: Floats, y: Labels, classes: int, *strengths: float, tolerance: float = TOLERANCE) -> Fit:
    *_, fit = fit_path(Z, y, classes, strengths, last_tolerance=tolerance)
    return fit


def probabilities(Z: Floats, fit: Fit) -> NDArray[np.floating]:
    return softmax(Z @ fit.V_RK + fit.b_K)


@pytest.mark.parametrize("strength", [1e-2, 1e-4, 1e-5])
@pytest.mark.parametrize(("n", "d", "classes"), SHAPES)
def test_agrees_with_scikit_learn(n: int, d: int, classes: int, strength: float) -> None:
    Z, y = blobs(n, d, classes)
    reference = LogisticRegression(C=1 / (strength * n), tol=1e-6, max_iter=20_000)
    if classes == 2:
        # Two columns of weights share the penalty that scikit-learn puts on their difference.
        reference.set_params(C=2 / (strength * n))
    reference.fit(Z.astype(np.float64), y)
    fit = last(Z, y, classes, 1e-3, strength)
    np.testing.assert_allclose(probabilities(Z, fit), reference.predict_proba(Z), atol=1e-3)


@pytest.mark.parametrize(("n", "d", "classes"), SHAPES)
def test_a_warm_start_ends_where_a_cold_one_does(n: int, d: int, classes: int) -> None:
    Z, y = blobs(n, d, classes)
    warm, cold = last(Z, y, classes, 1e-2, 1e-3, 1e-4), last(Z, y, classes, 1e-4)
    np.testing.assert_allclose(probabilities(Z, warm), probabilities(Z, cold), atol=1e-3)


@pytest.mark.parametrize(("n", "d", "classes"), SHAPES)
def test_a_start_on_other_rows_ends_where_a_cold_one_does(n: int, d: int, classes: int) -> None:
    Z, y = blobs(n, d, classes)
    half = last(Z[::2], y[::2], classes, 1e-3, 1e-4)
    *_, started = fit_path(Z, y, classes, [1e-4], TOLERANCE, half)
    # Each may lie 1e-3 beside the optimum.
    np.testing.assert_allclose(probabilities(Z, started), probabilities(Z, last(Z, y, classes, 1e-4)), atol=2e-3)


@pytest.mark.parametrize("shape", [(500, 400), (200, 700), (50, 400), (300, 20)])
def test_leading_directions_hold_what_the_best_do(shape: tuple[int, int]) -> None:
    n, d = shape
    X = np.random.default_rng(n).standard_normal(shape) / np.arange(1, d + 1) ** 0.5
    X = (X - X.mean(0)).astype(np.float32)
    axes, squares = leading(X, 32, rounds=3)
    best = np.linalg.svd(X.astype(np.float64), compute_uv=False)[:32] ** 2 / n
    assert axes.shape == (d, min(32, d))
    np.testing.assert_allclose(axes.T @ axes, np.eye(len(squares)), atol=1e-4)
    np.testing.assert_allclose(squares.sum(), best.sum(), rtol=0.02)
    np.testing.assert_allclose(((X @ axes) ** 2).mean(0), squares, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("strength", [1e-3, 1e-5])
def test_fewer_rows_than_columns_is_the_same_fit(strength: float) -> None:
    Z, y = blobs(80, 60, 5)
    wide = np.concatenate([Z, np.zeros((80, 60), np.float32)], 1)
    primal, dual = last(Z, y, 5, strength), last(wide, y, 5, strength)
    assert dual.V_RK.shape == (120, 5)
    np.testing.assert_allclose(probabilities(Z, primal), probabilities(wide, dual), atol=1e-3)


@pytest.mark.parametrize("d", [30, 300])
def test_rough_is_close_to_the_optimum(d: int) -> None:
    Z, y = blobs(200, d, 6)
    rough, fine = (probabilities(Z, last(Z, y, 6, 1e-3, 1e-4, tolerance=t)) for t in (ROUGH, TOLERANCE))
    rows = np.arange(len(y))
    assert np.log(rough[rows, y]).mean() == pytest.approx(np.log(fine[rows, y]).mean(), abs=5e-3)


@pytest.mark.parametrize("d", [10, 200])
@pytest.mark.parametrize("strength", [1e-3, 1e-7])
def test_separable_rows_and_a_class_with_one_row(d: int, strength: float) -> None:
    Z, y = blobs(100, d, 4, spread=0.01)
    y[y == 3] = 2
    y[0] = 3
    fit = last(Z, y, 4, 1e-2, 1e-4, strength)
    assert np.isfinite(fit.V_RK).all()
    assert np.isfinite(probabilities(Z, fit)).all()


@pytest.mark.parametrize("d", [10, 200])
def test_a_class_without_rows_is_not_predicted(d: int) -> None:
    Z, y = blobs(100, d, 4)
    P = probabilities(Z, last(Z, y, 5, 1e-3, 1e-5))
    assert (P[:, 4] < 1e-2).all()


def test_columns_without_content() -> None:
    fit = last(np.zeros((20, 3), np.float32), np.arange(20, dtype=np.int32) % 4, 4, 1e-4)
    np.testing.assert_allclose(softmax(fit.b_K[None]), 0.25, atol=1e-4)
    assert not fit.V_RK.any()


@pytest.mark.parametrize(("n", "d", "classes"), SHAPES)
def test_twice_is_the_same_to_the_bit(n: int, d: int, classes: int) -> None:
    Z, y = blobs(n, d, classes)
    one, two = last(Z, y, classes, 1e-2, 1e-4), last(Z, y, classes, 1e-2, 1e-4)
    assert one.V_RK.tobytes() == two.V_RK.tobytes()
    assert one.b_K.tobytes() == two.b_K.tobytes()


def test_each_strength_is_yielded_in_order() -> None:
    Z, y = blobs(100, 20, 3)
    fits = list(fit_path(Z, y, 3, (1e-2, 1e-3)))
    assert [fit.strength for fit in fits] == [1e-2, 1e-3]
    assert np.abs(fits[0].V_RK).sum() < np.abs(fits[1].V_RK).sum()
    assert all(fit.V_RK.dtype == fit.b_K.dtype == np.float32 for fit in fits)


@pytest.mark.parametrize("shape", [(700, 1500), (1500, 300)])
def test_images_that_hardly_differ(shape: tuple[int, int]) -> None:
    """One direction outweighs all others by far more than float32 can tell."""
    rng = np.random.default_rng(0)
    n, d = shape
    y = (np.arange(n) % 3).astype(np.int32)
    Z = np.outer(rng.normal(size=10)[np.arange(n) % 10] + y, np.ones(d))
    Z -= Z.mean(0)
    Z = (Z / np.sqrt((Z**2).sum(1).mean())).astype(np.float32)
    for fit in fit_path(Z, y, 3, (1e-3, 1e-6)):
        assert np.isfinite(fit.V_RK).all()
        assert ((Z @ fit.V_RK + fit.b_K).argmax(1) == y).mean() > 0.4


def test_curvature_knows_which_classes_are_taken_for_each_other() -> None:
    rng = np.random.default_rng(0)
    P = softmax(rng.standard_normal((200, 4)) * 3)
    found = OneOf(P.argmax(1).astype(np.int32), 4).curvature(P.astype(np.float32))
    turn = found.directions_KK
    assert turn is not None
    wanted = np.mean([np.diag(p) - np.outer(p, p) for p in P], axis=0)
    np.testing.assert_allclose((turn * found.along_K) @ turn.T, wanted, atol=1e-6)


def test_of_few_rows_a_class_the_curvature_of_each_class_alone() -> None:
    P = softmax(np.random.default_rng(0).standard_normal((30, 4)))
    found = OneOf(P.argmax(1).astype(np.int32), 4).curvature(P.astype(np.float32))
    assert found.directions_KK is None
    np.testing.assert_allclose(found.along_K, (P * (1 - P)).mean(0), atol=1e-6)


def test_classes_that_cannot_be_told_apart_take_few_steps() -> None:
    # One class in halves at random, beside eight others. With a curvature for each class alone it takes 43 steps.
    Z, y = blobs(2_000, 50, 9)
    y = np.where((y == 0) & (np.random.default_rng(1).random(len(y)) < 0.5), 9, y).astype(np.int32)
    fit = last(Z, y, 10, 1e-4)
    reference = LogisticRegression(C=1 / (1e-4 * len(Z)), tol=1e-6, max_iter=20_000).fit(Z.astype(np.float64), y)
    np.testing.assert_allclose(probabilities(Z, fit), reference.predict_proba(Z), atol=1e-3)
    assert fit.steps <= 35
