"""From probabilities to decisions, and how a rule is chosen on held-out answers; numpy alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from regraft.errors import DataError
from regraft.records.base import shown
from regraft.records.decisions import DecisionRule, Requirement, Threshold, Wanted

#: In place of a class: a person is to be asked.
ASKED = -1


def decide(P_NK: NDArray[np.floating], rule: DecisionRule, classes: Sequence[str]) -> NDArray[np.int64]:
    """The number of the class to decide for, int64 [N], or ``ASKED``."""
    decided_N: NDArray[np.int64]
    if rule.costs:
        cost_NK = P_NK.astype(np.float64) @ np.asarray(rule.costs, np.float64)
        decided_N = cost_NK.argmin(1)
        if rule.ask_cost is not None:
            decided_N = np.where(cost_NK.min(1) > rule.ask_cost, ASKED, decided_N)
    else:
        decided_N = _by_thresholds(P_NK, rule.thresholds, classes)
    if rule.ask_below is not None:
        sure_N = P_NK[np.arange(len(P_NK)), decided_N]  # of what is asked for already this is another class's
        decided_N = np.where(sure_N < rule.ask_below, ASKED, decided_N)
    return decided_N


def _by_thresholds(P_NK: NDArray[np.floating], thresholds: Sequence[Threshold], classes: Sequence[str],
                   ) -> NDArray[np.int64]:
    plain_N: NDArray[np.int64] = P_NK.argmax(1)
    if not thresholds:
        return plain_N
    columns = [classes.index(threshold.label) for threshold in thresholds]
    at_least_T = np.array([threshold.at_least for threshold in thresholds])
    above_NT = P_NK[:, columns] / np.maximum(at_least_T, np.finfo(np.float64).tiny)
    reached_N = (P_NK[:, columns] >= at_least_T).any(1)
    others_NK = P_NK.copy()
    others_NK[:, columns] = -1
    # Where every class has a threshold and none is reached, the nearest one decides.
    fallback_N = others_NK.argmax(1) if len(columns) < len(classes) else np.take(columns, above_NT.argmax(1))
    decided_N: NDArray[np.int64] = np.where(reached_N, np.take(columns, above_NT.argmax(1)), fallback_N)
    return decided_N


def label_sets(P_NK: NDArray[np.floating], rule: DecisionRule) -> NDArray[np.bool_]:
    """Which classes are in each image's set, bool [N, K]."""
    chosen_NK = rule.set_at_least <= P_NK
    chosen_NK[np.arange(len(P_NK)), P_NK.argmax(1)] = True
    return chosen_NK


def recall_threshold(P_N: NDArray[np.floating], recall: float) -> float:
    """The threshold that catches a fresh image of a class with the chance ``recall``, given what n others have.

    ``P_N`` are the class's probabilities of n held-out images of it. The k-th lowest, k = (n + 1)(1 - recall) rounded
    down, is reached so often (as in split conformal prediction); where n is too small to promise it, the lowest.
    """
    below = math.floor((len(P_N) + 1) * (1 - recall) + 1e-9)
    return float(np.sort(P_N)[max(below - 1, 0)])


def ask_threshold(P_NK: NDArray[np.floating], y_N: NDArray[np.int32], decided_N: NDArray[np.int64], right: float,
                  ) -> float:
    """The lowest probability of the decided class from which on the share ``right`` of decisions is right.

    More than 1 where no part of them is: then a person is always asked.
    """
    sure_N = P_NK[np.arange(len(y_N)), decided_N]
    order = np.argsort(-sure_N, kind="stable")
    sure, share = sure_N[order], np.cumsum(decided_N[order] == y_N[order]) / np.arange(1, len(y_N) + 1)
    last = np.append(np.diff(sure) != 0, True)  # of equally sure decisions all are made or none
    good = np.flatnonzero(last & (share >= right))
    return float(sure[good[-1]]) if len(good) else math.nextafter(1, 2)


def set_threshold(P_NK: NDArray[np.floating], y_N: NDArray[np.int32], share: float) -> float:
    """From which probability on a class is in the set that holds the right one for ``share`` of fresh images.

    Split conformal prediction with the score 1 - p (Sadinle et al., J. Am. Stat. Assoc. 114, 2019).
    """
    missed = math.floor((len(y_N) + 1) * (1 - share) + 1e-9)
    # With too few images to promise it, every class is in the set.
    return 0.0 if missed < 1 else float(np.sort(P_NK[np.arange(len(y_N)), y_N])[missed - 1])


def choose_rule(wanted: Wanted, P_NK: NDArray[np.floating], y_N: NDArray[np.int32], classes: Sequence[str],
                ) -> DecisionRule | None:
    """The rule that held-out answers lead to, or None where nothing was wanted.

    Raises DataError where a required class has no held-out image.
    """
    if not (wanted.requirements or wanted.costs or wanted.ask is not None or wanted.conformal is not None):
        return None
    thresholds = tuple(_threshold(requirement, P_NK, y_N, classes) for requirement in wanted.requirements)
    rule = DecisionRule(thresholds, wanted.costs, wanted.ask_cost)
    if wanted.ask is not None:
        rule = replace(rule, ask_right=wanted.ask,
                       ask_below=ask_threshold(P_NK, y_N, decide(P_NK, rule, classes), wanted.ask))
    if wanted.conformal is not None:
        rule = replace(rule, set_share=wanted.conformal, set_at_least=set_threshold(P_NK, y_N, wanted.conformal))
    return rule


def _threshold(requirement: Requirement, P_NK: NDArray[np.floating], y_N: NDArray[np.int32], classes: Sequence[str],
               ) -> Threshold:
    k = classes.index(requirement.label)
    P_N = P_NK[y_N == k, k]
    if not len(P_N):
        raise DataError(f"no image of {shown(requirement.label)!r} could be held out, so no threshold can be chosen "
                        "for it; give more images of it, or leave --require away")
    return Threshold(requirement.label, requirement.recall, recall_threshold(P_N, requirement.recall))
