"""Predictions to figures, each with the name of the split it was measured on."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from regraft import metrics
from regraft.decisions.labels import given
from regraft.decisions.rules import ASKED, decide, label_sets
from regraft.errors import DataError
from regraft.records.base import shown
from regraft.records.decisions import DecisionRule, Threshold
from regraft.records.images import Quarantined
from regraft.records.labels import LabelFigures, LabelsEvaluation
from regraft.records.results import ClassFigures, Decided, Evaluation, Interval, Majority, OperatingPoint, Slice

#: Classes from which on the five most probable are worth telling.
_TOP = 5


def judge(P_NK: NDArray[np.float64], y_N: NDArray[np.int32], classes: Sequence[str], *, split: str, method: str,
          majority: int, seen: int = 0, repeats: int = 1, images_N: NDArray[np.int64] | None = None,
          unreadable: Sequence[Quarantined] = (), note: str = "", rule: DecisionRule | None = None) -> Evaluation:
    """Figures of N answers.

    With ``repeats``, rows are answers and each image has that many, ``images_N`` says whose; intervals count images,
    not answers. ``rule`` is the model's rule of decision, which is judged too.
    """
    if not len(y_N):
        raise DataError(f"no readable image in {split}, so there is nothing to measure")
    answers_N = P_NK.argmax(1)
    matrix_KK = metrics.confusion(y_N, answers_N, len(classes))
    precision_K, recall_K, f1_K = metrics.class_figures(matrix_KK)
    present_K = matrix_KK.sum(1) > 0
    auc_K, ap_K = (metrics.one_vs_rest(figure, P_NK, y_N) for figure in (metrics.roc_auc, metrics.average_precision))
    n = len(y_N) // repeats
    return Evaluation(
        accuracy=_share(float((answers_N == y_N).mean()), n),
        n=n, split=split, seen_in_training=seen, method=method,
        repeats=repeats,
        balanced_accuracy=float(recall_K[present_K].mean()), macro_f1=float(f1_K[present_K].mean()),
        log_loss=metrics.log_loss(P_NK, y_N),
        majority=Majority(classes[majority], float((y_N == majority).mean())),
        classes=tuple(
            ClassFigures(name, int(matrix_KK[k].sum()) // repeats, _number(precision_K[k]), _number(recall_K[k]),
                         _number(f1_K[k]), _recall(matrix_KK[k], k, repeats), _number(auc_K[k]), _number(ap_K[k]))
            for k, name in enumerate(classes)),
        confusion=tuple(tuple(int(count) for count in row) for row in matrix_KK),
        quarantined=len(unreadable), unreadable=tuple(unreadable), note=note,
        top5=_share(metrics.top_k(P_NK, y_N, _TOP), n) if len(classes) > _TOP else None,
        macro_precision=float(np.nan_to_num(precision_K[present_K]).mean()),
        roc_auc=_mean(auc_K[present_K]), average_precision=_mean(ap_K[present_K]),
        brier=float(metrics.brier(P_NK, y_N).mean()), calibration_error=metrics.calibration_error(P_NK, y_N),
        intervals=_intervals(P_NK, y_N, np.arange(len(y_N)) if images_N is None else images_N),
        decided=None if rule is None else judge_rule(P_NK, y_N, classes, rule, repeats),
    )


def _share(value: float, n: int) -> Interval:
    """A share of ``n`` images with Wilson's interval."""
    return Interval(*metrics.wilson(value * n, n))


def _recall(answered_K: NDArray[np.int64], k: int, repeats: int) -> Interval | None:
    """Recall of class ``k`` from its row of the confusion matrix."""
    given = int(answered_K.sum())
    return _share(float(answered_K[k] / given), max(1, given // repeats)) if given else None


def _intervals(P_NK: NDArray[np.float64], y_N: NDArray[np.int32], images_N: NDArray[np.int64],
               ) -> dict[str, tuple[float, float]]:
    """Intervals of the figures that are cheap to measure a thousand times."""
    answer_N = P_NK.argmax(1)
    # Answers lie by class and answer: weights are summed once over those that share both.
    order_N = np.lexsort([answer_N, y_N])
    counts = _confused(y_N[order_N], answer_N[order_N])
    surprise_N2 = np.stack([metrics.surprise(P_NK, y_N), metrics.brier(P_NK, y_N)], 1)[order_N]
    found, place_N = np.unique(images_N, return_inverse=True)
    place_N = place_N[order_N]

    def figures(drawn_RI: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        weight_RN = drawn_RI[:, place_N]
        given_RP, answered_RP, right_RP = counts(weight_RN)
        present_RP = given_RP > 0
        recall_RP, f1_RP = right_RP / np.maximum(given_RP, 1), 2 * right_RP / np.maximum(given_RP + answered_RP, 1)
        loss_R, brier_R = (weight_RN @ surprise_N2 / weight_RN.sum(1, keepdims=True)).T
        return {"balanced_accuracy": recall_RP.mean(1, where=present_RP), "macro_f1": f1_RP.mean(1, where=present_RP),
                "log_loss": loss_R, "brier": brier_R}

    return metrics.bootstrap(figures, len(found))


#: What was drawn of P classes in R resamples, float64 [R, P]: their images, answers that name them, right ones.
_Counts = tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]


def _confused(y_N: NDArray[np.int32], answer_N: NDArray[np.int64]) -> Callable[[NDArray[np.float64]], _Counts]:
    """What counts weights [R, N] of answers, sorted by class and answer, for the P classes that there are images of."""
    starts_C = np.flatnonzero(np.diff(y_N, prepend=-1) | np.diff(answer_N, prepend=-1))
    given_C, answer_C = y_N[starts_C], answer_N[starts_C]
    classes_P, given_starts_P = np.unique(given_C, return_index=True)
    by_answer_C = np.argsort(answer_C, kind="stable")
    answers, answer_starts = np.unique(answer_C[by_answer_C], return_index=True)
    known, right_C = np.isin(answers, classes_P), np.flatnonzero(given_C == answer_C)
    answered_at, right_at = (np.searchsorted(classes_P, which) for which in (answers[known], given_C[right_C]))

    def counts(weight_RN: NDArray[np.float64]) -> _Counts:
        cell_RC = np.add.reduceat(weight_RN, starts_C, axis=1)
        given_RP = np.add.reduceat(cell_RC, given_starts_P, axis=1)
        answered_RP, right_RP = np.zeros_like(given_RP), np.zeros_like(given_RP)
        answered_RP[:, answered_at] = np.add.reduceat(cell_RC[:, by_answer_C], answer_starts, axis=1)[:, known]
        right_RP[:, right_at] = cell_RC[:, right_C]
        return given_RP, answered_RP, right_RP

    return counts


def _mean(values: NDArray[np.float64]) -> float | None:
    """Mean of those that are defined."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else None


def _number(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


def judge_rule(P_NK: NDArray[np.float64], y_N: NDArray[np.int32], classes: Sequence[str], rule: DecisionRule,
               repeats: int = 1) -> Decided:
    """What a rule of decision does; each image has ``repeats`` answers."""
    decided_N, plain_N = decide(P_NK, rule, classes), P_NK.argmax(1)
    asked_N = decided_N == ASKED
    points = tuple(_point(decided_N, y_N, classes.index(threshold.label), threshold, repeats)
                   for threshold in rule.thresholds)
    sets_NK = label_sets(P_NK, rule) if rule.set_share is not None else None
    cost, plain_cost = _costs(decided_N, plain_N, y_N, rule)
    decided = Decided(
        accuracy=_of(decided_N[~asked_N] == y_N[~asked_N], repeats),
        asked=_share(float(asked_N.mean()), len(y_N) // repeats),
        points=points, cost=cost, plain_cost=plain_cost,
        covered=None if sets_NK is None else _of(sets_NK[np.arange(len(y_N)), y_N], repeats),
        set_size=None if sets_NK is None else float(sets_NK.sum(1).mean()))
    return replace(decided, price=_price(decided, rule, plain_N, y_N, classes))


def _of(which_N: NDArray[np.bool_], repeats: int) -> Interval | None:
    """The share that is true, with its interval; None of nothing."""
    return _share(float(which_N.mean()), max(1, len(which_N) // repeats)) if len(which_N) else None


def _point(decided_N: NDArray[np.int64], y_N: NDArray[np.int32], k: int, threshold: Threshold, repeats: int,
           ) -> OperatingPoint:
    own_N, called_N = y_N == k, decided_N == k
    return OperatingPoint(
        threshold.label, threshold.at_least, threshold.recall, _of((called_N | (decided_N == ASKED))[own_N], repeats),
        _of(~called_N[~own_N], repeats), float(own_N[called_N].mean()) if called_N.any() else None)


def _costs(decided_N: NDArray[np.int64], plain_N: NDArray[np.int64], y_N: NDArray[np.int32], rule: DecisionRule,
           ) -> tuple[float | None, float | None]:
    """Mean cost by the rule, and of the most probable class."""
    if not rule.costs:
        return None, None
    costs_KK = np.asarray(rule.costs)
    paid_N = np.where(decided_N == ASKED, rule.ask_cost or 0.0, costs_KK[y_N, decided_N])
    return float(paid_N.mean()), float(costs_KK[y_N, plain_N].mean())


def _price(decided: Decided, rule: DecisionRule, plain_N: NDArray[np.int64], y_N: NDArray[np.int32],
           classes: Sequence[str]) -> str:
    """What the rule brings and costs, in words."""
    told = []
    for point in decided.points:
        k = classes.index(point.label)
        before = _of(plain_N[y_N != k] != k, 1)
        told.append(f"{shown(point.label)} from a probability of {point.threshold:.3g} on: "
                    f"{point.sensitivity or 'none'} of its images are caught ({point.wanted:.1%} required), "
                    f"{point.specificity or 'none'} of the others are not called so"
                    + (f" ({before.value:.1%} by the most probable class)" if before else ""))
    if decided.cost is not None:
        told.append(f"an image costs {decided.cost:.4g} on average, {decided.plain_cost:.4g} by the most probable "
                    "class")
    if rule.ask_below is not None or rule.ask_cost is not None:
        told.append(f"a person is asked about {decided.asked!r} of the images")
    if rule.decides:
        told.append("no decision is made" if decided.accuracy is None else
                    f"{decided.accuracy!r} of the decisions are right, {float((plain_N == y_N).mean()):.1%} by the "
                    "most probable class on all images")
    if decided.covered is not None:
        told.append(f"sets of {decided.set_size:.2f} labels on average hold the right one for {decided.covered!r} of "
                    f"the images ({rule.set_share:.1%} wanted)")
    return "by the rule: " + "; ".join(told)


def slice_figures(by: str, names: Sequence[str], groups_N: NDArray[np.int64], right_N: NDArray[np.bool_],
                  ) -> tuple[Slice, ...]:
    """Accuracy of each group of images, the worst first."""
    slices = [Slice(by, name, int(own_N.sum()), _share(float(right_N[own_N].mean()), int(own_N.sum())))
              for name, own_N in ((name, groups_N == group) for group, name in enumerate(names)) if own_N.any()]
    return tuple(sorted(slices, key=lambda one: (one.accuracy.value, one.group)))


def judge_labels(P_NK: NDArray[np.float64], Y_NK: NDArray[np.bool_], classes: Sequence[str],
                 thresholds: Sequence[float], *, split: str, method: str, seen: int = 0, repeats: int = 1,
                 images_N: NDArray[np.int64] | None = None, unreadable: Sequence[Quarantined] = (), note: str = "",
                 ) -> LabelsEvaluation:
    """Figures of N answers of any number of labels; the further arguments are those of :func:`judge`."""
    if not len(Y_NK):
        raise DataError(f"no readable image in {split}, so there is nothing to measure")
    given_NK = given(P_NK, thresholds)
    ranked = metrics.ranked(P_NK, Y_NK)
    one_N, right_N, wrong_N = np.ones(len(Y_NK)), (given_NK == Y_NK).all(1), (given_NK != Y_NK).mean(1)
    loss_N = metrics.label_loss(P_NK, Y_NK)
    right_NK = given_NK & Y_NK

    def counts(weight_N: NDArray[np.float64]) -> tuple[NDArray[np.float64], ...]:
        return weight_N @ Y_NK, weight_N @ given_NK, weight_N @ right_NK

    def figures(weight_N: NDArray[np.float64]) -> dict[str, float]:
        own_K, called_K, right_K = counts(weight_N)
        present_K = own_K > 0
        f1_K = 2 * right_K / np.maximum(own_K + called_K, 1)
        total = weight_N.sum()
        return {"mean_average_precision": _mean(ranked(weight_N)) or 0.0,
                "micro_f1": float(2 * right_K.sum() / max((own_K + called_K).sum(), 1)),
                "macro_f1": float(f1_K[present_K].mean()) if present_K.any() else 0.0,
                "hamming_loss": float(weight_N @ wrong_N / total), "log_loss": float(weight_N @ loss_N / total)}

    own_K, called_K, right_K = (of.astype(np.int64) for of in counts(one_N))
    images, place_N = np.unique(np.arange(len(Y_NK)) if images_N is None else images_N, return_inverse=True)
    ap_K, measured, present_K = ranked(one_N), figures(one_N), own_K > 0
    n = len(Y_NK) // repeats
    return LabelsEvaluation(
        n=n, split=split, seen_in_training=seen, method=method, repeats=repeats,
        mean_average_precision=_mean(ap_K), chance=float(Y_NK.mean(0)[present_K].mean()) if present_K.any() else 0.0,
        micro_f1=measured["micro_f1"], macro_f1=measured["macro_f1"], exact_match=_share(float(right_N.mean()), n),
        hamming_loss=measured["hamming_loss"], log_loss=measured["log_loss"],
        calibration_error=metrics.label_calibration_error(P_NK, Y_NK),
        labels=tuple(
            LabelFigures(
                name, int(own_K[k]) // repeats, float(thresholds[k]), _number(ap_K[k]),
                _number(metrics.roc_auc(P_NK[:, k], Y_NK[:, k])), _ratio(right_K[k], called_K[k]),
                _ratio(right_K[k], own_K[k]), _ratio(2 * right_K[k], own_K[k] + called_K[k]),
                _of(given_NK[Y_NK[:, k], k], repeats))
            for k, name in enumerate(classes)),
        intervals=metrics.bootstrap(lambda drawn_RI: _each(figures, drawn_RI[:, place_N]), len(images),
                                    each=len(classes) * repeats),
        quarantined=len(unreadable), unreadable=tuple(unreadable), note=note)


def _each(figures: Callable[[NDArray[np.float64]], dict[str, float]], weight_RN: NDArray[np.float64],
          ) -> dict[str, NDArray[np.float64]]:
    """Figures of each of R resamples."""
    found = [figures(weight_N) for weight_N in weight_RN]
    return {name: np.array([one[name] for one in found]) for name in found[0]}


def _ratio(part: np.int64, whole: np.int64) -> float | None:
    return float(part / whole) if whole else None
