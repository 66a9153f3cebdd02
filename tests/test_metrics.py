"""Figures equal those of scikit-learn and torchmetrics, on random and on real predictions."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
import torch
from numpy.typing import NDArray
from sklearn import metrics as reference
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from torchmetrics.functional import classification as torch_reference

from regraft import evaluation, metrics
from regraft.records.results import Evaluation

Predictions = tuple[NDArray[np.float64], NDArray[np.int32]]


def random_predictions(classes: int, n: int, seed: int) -> Predictions:
    rng = np.random.default_rng(seed)
    y = rng.integers(0, classes, n).astype(np.int32)
    P = rng.dirichlet(np.ones(classes), n)
    P[np.arange(n), y] += rng.random(n)
    return P / P.sum(1, keepdims=True), y


def real_predictions() -> Predictions:
    """Answers for half of scikit-learn's real digits, of a small model of the other half."""
    X, y = load_digits(return_X_y=True)
    model = LogisticRegression(C=1e-4, max_iter=500).fit(X[:900], y[:900])
    return model.predict_proba(X[900:]), y[900:].astype(np.int32)


@pytest.fixture(scope="module", params=["two classes", "seven", "forty", "digits"])
def judged(request: pytest.FixtureRequest) -> tuple[Evaluation, Predictions]:
    made = {"two classes": (2, 300, 0), "seven": (7, 500, 1), "forty": (40, 900, 2)}
    P, y = random_predictions(*made[request.param]) if request.param in made else real_predictions()
    classes = [f"c{k}" for k in range(P.shape[1])]
    return evaluation.judge(P, y, classes, split="all", method="", majority=0), (P, y)


def test_figures_equal_scikit_learns(judged: tuple[Evaluation, Predictions]) -> None:
    found, (P, y) = judged
    answers, K = P.argmax(1), P.shape[1]
    hot = np.eye(K)[y]
    assert found.balanced_accuracy == pytest.approx(reference.balanced_accuracy_score(y, answers), abs=1e-6)
    assert found.macro_precision == pytest.approx(
        reference.precision_score(y, answers, average="macro", zero_division=0), abs=1e-6)
    assert found.macro_f1 == pytest.approx(reference.f1_score(y, answers, average="macro"), abs=1e-6)
    assert found.roc_auc == pytest.approx(reference.roc_auc_score(hot, P, average="macro"), abs=1e-6)
    assert found.average_precision == pytest.approx(
        reference.average_precision_score(hot, P, average="macro"), abs=1e-6)
    assert found.log_loss == pytest.approx(reference.log_loss(y, P, labels=range(K)), abs=1e-6)
    assert found.brier == pytest.approx(((P - hot) ** 2).sum(1).mean(), abs=1e-6)
    if K > 5:
        assert found.top5 is not None
        assert found.top5.value == pytest.approx(
            reference.top_k_accuracy_score(y, P, k=5, labels=range(K)), abs=1e-6)
    for k, of_class in enumerate(found.classes):
        assert of_class.roc_auc == pytest.approx(reference.roc_auc_score(y == k, P[:, k]), abs=1e-6)
        assert of_class.average_precision == pytest.approx(
            reference.average_precision_score(y == k, P[:, k]), abs=1e-6)


def test_figures_equal_torchmetrics(judged: tuple[Evaluation, Predictions]) -> None:
    found, (P, y) = judged
    given, right, K = torch.from_numpy(P), torch.from_numpy(y).long(), P.shape[1]
    for value, name, options in (
            (found.accuracy.value, "accuracy", {"average": "micro"}), (found.balanced_accuracy, "recall", {}),
            (found.macro_precision, "precision", {}), (found.macro_f1, "f1_score", {}), (found.roc_auc, "auroc", {}),
            (found.average_precision, "average_precision", {}),
            (found.calibration_error, "calibration_error", {"n_bins": 15})):
        expected = getattr(torch_reference, f"multiclass_{name}")(given, right, num_classes=K, **options)
        assert value == pytest.approx(float(expected), abs=1e-6), name


def test_equal_scores_share_a_threshold() -> None:
    scores, positive = np.array([0.5, 0.5, 0.5, 0.1]), np.array([True, False, True, False])
    assert metrics.average_precision(scores, positive) == pytest.approx(
        reference.average_precision_score(positive, scores))
    assert metrics.roc_auc(scores, positive) == pytest.approx(reference.roc_auc_score(positive, scores))


def test_intervals_of_the_bootstrap_hold_the_truth(judged: tuple[Evaluation, Predictions]) -> None:
    """Each brackets its figure, and is as wide as the standard error of a mean says."""
    found, (P, y) = judged
    assert set(found.intervals) == {"balanced_accuracy", "macro_f1", "log_loss", "brier"}
    for name, (low, high) in found.intervals.items():
        assert low < getattr(found, name) < high
    low, high = found.intervals["log_loss"]
    error = metrics.surprise(P, y).std() / np.sqrt(len(y))
    assert (high - low) / (2 * 1.96 * error) == pytest.approx(1, abs=0.12)


def test_intervals_count_images_and_not_answers() -> None:
    P, y = random_predictions(3, 200, 5)
    once = evaluation.judge(P, y, ["a", "b", "c"], split="all", method="", majority=0)
    twice = evaluation.judge(np.tile(P, (2, 1)), np.tile(y, 2), ["a", "b", "c"], split="all", method="", majority=0,
                             repeats=2, images_N=np.tile(np.arange(200), 2))
    assert twice.intervals["brier"] == pytest.approx(once.intervals["brier"])
    assert [c.recall_interval for c in twice.classes] == [c.recall_interval for c in once.classes]


def test_a_mean_difference_is_students() -> None:
    first, second = np.array([0.3, 0.5, 0.9, 0.2]), np.array([0.1, 0.4, 0.5, 0.3])
    value, low, high = metrics.mean_difference(first, second)
    known = scipy.stats.ttest_rel(first, second).confidence_interval(0.95)
    assert (value, low, high) == pytest.approx((0.15, known.low, known.high))
