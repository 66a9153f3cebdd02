"""What an unknown image is, fitted on features of known ones and tried on classes left out in turn."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from regraft import metrics
from regraft.decisions.novelty import Known, unsureness
from regraft.heads.choose import Division, judged
from regraft.heads.dense import Head
from regraft.heads.directions import leading
from regraft.heads.linear import Blocks, Standardisation, fit_head
from regraft.heads.shared import Joined, Shared
from regraft.heads.solver import OneOf
from regraft.heads.threads import in_threads
from regraft.records.decisions import NoveltyKind, Unknown
from regraft.records.heads import HeadSettings

#: What measures novelty where nothing can be left out to compare, and what others must do clearly better than: it alone
#: sees images that are far from every class.
DEFAULT: NoveltyKind = "relative_mahalanobis"

#: By how much (area under the ROC curve) another kind must be better.
MARGIN = 0.02

#: With fewer classes none is left out.
LEAST_CLASSES = 4

#: Components of the covariances, and the most numbers of a projection to them.
_COMPONENTS = 128
_MOST_NUMBERS = 4_000_000

#: The most images whose components are looked for: covariances and means along them are of all.
_LOOKED_AT = 1_024

#: Rounds in which the components are refined: the weakest of them hardly count.
_ROUNDS = 2

#: Share of the average variance in each covariance.
_SHRINKAGE = 0.1

#: Classes are left out in so many groups; what is left is learned from at most so many images, and so many are judged.
_GROUPS = 5
_LEARNED = 1_000
_JUDGED = 800

#: How such heads are fitted: kinds are compared by the order of their scores, which stays the same.
_LEAST_STRENGTH, _TOLERANCE = 1e-5, 1e-3

#: With fewer held-out images there is no placing a threshold.
_LEAST_HELD = 20


def fit_known(blocks: Blocks, readouts: Sequence[str], y_N: NDArray[np.int32]) -> Known:
    """What N known images are like; rows of the blocks are images."""
    standard = Standardisation.of(blocks, readouts, "equal")
    Z_ND = standard.apply(blocks, readouts, slice(None))
    components = max(1, min(_COMPONENTS, _MOST_NUMBERS // Z_ND.shape[1], len(Z_ND) - 1))
    axes_DR, _ = leading(Z_ND[::-(-len(Z_ND) // _LOOKED_AT)], components, _ROUNDS)
    projection_DR = standard.factor_D[:, None] * axes_DR.astype(np.float64)
    return _known_of(Z_ND @ axes_DR, y_N, projection_DR, standard.mean_D @ projection_DR)


def _known_of(components_NR: NDArray[np.float32], y_N: NDArray[np.int32],
              projection_DR: NDArray[np.float64], offset_R: NDArray[np.float64]) -> Known:
    """What N images are like of which the components are known, given what leads to these."""
    A_NR = components_NR.astype(np.float64)
    present, place_N, counts_P = np.unique(y_N, return_inverse=True, return_counts=True)
    means_PR = np.equal.outer(np.arange(len(present)), place_N) @ A_NR / counts_P[:, None]
    inside_RR, overall_RR = _whitening(A_NR - means_PR[place_N]), _whitening(A_NR)
    return Known(*(tensor.astype(np.float32) for tensor in (
        projection_DR, offset_R, inside_RR, overall_RR, means_PR @ inside_RR)))


def _components(joined: Joined) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Principal components of the images of a division, those learned from [N, R] and those held out [M, R]."""
    count = max(1, min(_COMPONENTS, len(joined.train_NR) - 1))
    if not joined.products:
        axes_DR, _ = leading(joined.train_NR, count, _ROUNDS)
        return joined.train_NR @ axes_DR, joined.held_MR @ axes_DR
    # The principal directions of products lie in the rows; one round of them is two of the rows themselves.
    axes_NR, squares_R = leading(joined.train_NR, count)
    lengths_R = np.maximum((squares_R * np.float32(len(axes_NR))) ** 0.25, np.float32(1e-6))
    return axes_NR * lengths_R, joined.held_MR @ (axes_NR / lengths_R)


def _whitening(A_NR: NDArray[np.float64]) -> NDArray[np.float64]:
    """W with W W^T the inverse of the shrunk covariance of centred rows."""
    covariance_RR = A_NR.T @ A_NR / len(A_NR)
    width = len(covariance_RR)
    average = max(float(np.trace(covariance_RR)) / width, 1e-12)
    covariance_RR = (1 - _SHRINKAGE) * covariance_RR + _SHRINKAGE * average * np.eye(width)
    whitening_RR: NDArray[np.float64] = np.linalg.cholesky(np.linalg.inv(covariance_RR))
    return whitening_RR


def fit_unknown(blocks: Blocks, settings: HeadSettings, y_N: NDArray[np.int32], classes: int,
                learn: NDArray[np.int64], divisions: Sequence[Division], temperature: float, accept: float,
                own: Head | None = None) -> tuple[Unknown | None, Known | None]:
    """The score of novelty and the threshold that the share ``accept`` of known images stays below.

    ``learn`` are the rows that the model was fitted on, ``divisions`` pairs of rows to fit on and rows to hold out;
    ``own`` is the model's head, where it saw no held-out row. None where too few can be held out.
    """
    if sum(len(held) for _, held in divisions) < _LEAST_HELD:
        return None, None
    tried: dict[str, float] = {}
    kind, why = DEFAULT, f"the default: there are fewer than {LEAST_CLASSES} classes to leave out"
    if settings.kind == "trained":
        why = "the default: the head was trained by steps, and leaving classes out would take a training each"
    elif len(np.unique(y_N[learn])) >= LEAST_CLASSES:
        tried = compare_kinds(blocks, settings, y_N, classes, *divisions[0])
        best = max(get_args(NoveltyKind), key=lambda one: tried.get(one, 0.0))
        if tried and tried[best] > tried[DEFAULT] + MARGIN:
            kind = best
        why = "classes left out in turn"

    known = _known(blocks, settings, y_N, learn) if kind == DEFAULT else None

    def scores(division: Division) -> NDArray[np.float64]:
        train, held = division
        if kind == DEFAULT:
            # Where one split holds images out, the model's own measure is the one that never saw them.
            known_here = known if np.array_equal(train, learn) else None
            known_here = known_here or _known(blocks, settings, y_N, train)
            return known_here.distance_together(_joined(blocks, settings, held))
        head = own or fit_head(_part(blocks, settings, train), y_N[train], classes, settings)
        return unsureness(kind, head.tempered(temperature).logits(_joined(blocks, settings, held)))

    novelty_M = np.sort(np.concatenate(in_threads(scores, judged(divisions))))
    place = min(math.ceil((len(novelty_M) + 1) * accept), len(novelty_M)) - 1
    threshold = float(novelty_M[place])
    return Unknown(kind, threshold, accept, float((novelty_M <= threshold).mean()), why, tried), known


def compare_kinds(blocks: Blocks, settings: HeadSettings, y_N: NDArray[np.int32], classes: int,
                  train: NDArray[np.int64], held: NDArray[np.int64]) -> dict[str, float]:
    """How well each kind of novelty tells classes that were left out, in turn, from held-out images of the others.

    Means over the turns of the area under the ROC curve; in each turn a head and a covariance are fitted anew, to some
    of the training rows.
    """
    kinds: tuple[NoveltyKind, ...] = get_args(NoveltyKind)
    present = np.unique(y_N[train])

    learned, judged_on = (rows[np.sort(np.random.default_rng(0).permutation(len(rows))[:most])]
                          for rows, most in ((train, _LEARNED), (held, _JUDGED)))

    def turn(left_out: NDArray[np.int32]) -> dict[str, float]:
        learn = learned[~np.isin(y_N[learned], left_out)]
        is_strange_M = np.isin(y_N[judged_on], left_out)
        if not len(learn) or is_strange_M.all() or not is_strange_M.any():
            return {}
        rest = np.setdiff1d(np.arange(classes), left_out)
        y_L = np.searchsorted(rest, y_N[learn]).astype(np.int32)
        # Standardised anew: numbers that hardly differ among these classes may differ much in the others.
        shared = Shared(blocks, settings.readouts, learn, judged_on, products=True)
        by_place = shared.joined(settings.readouts, "equal")
        by_head = by_place if settings.weighting == "equal" else shared.joined(settings.readouts, settings.weighting)
        A_LR, A_MR = _components(by_place)
        width = A_LR.shape[1]
        known = _known_of(A_LR, y_L, np.eye(width), np.zeros(width))
        logits_MK = _logits(by_head, settings, y_L, len(rest))
        scores = {kind: known.distance_together(A_MR) if kind == DEFAULT else unsureness(kind, logits_MK)
                  for kind in kinds}
        return {kind: metrics.roc_auc(score_M, is_strange_M) for kind, score_M in scores.items()}

    turns = in_threads(turn, [present[start::_GROUPS] for start in range(min(_GROUPS, len(present)))])
    measured = [areas for areas in turns if areas]
    return {kind: float(np.mean([areas[kind] for areas in measured])) for kind in kinds if measured}


def _logits(joined: Joined, settings: HeadSettings, y_N: NDArray[np.int32], classes: int) -> NDArray[np.floating]:
    """Scores of held-out images by a head of the given settings, fitted roughly, [M, K]."""
    if settings.kind == "nearest_mean":
        V_RK, b_K = joined.nearest_mean(y_N, classes)
        return settings.strength * (joined.held_MR @ V_RK + b_K)
    [fit] = joined.problem(OneOf(y_N, classes)).path([max(settings.strength, _LEAST_STRENGTH)], _TOLERANCE)
    return joined.held_MR @ fit.V_RK + fit.b_K


def _part(blocks: Blocks, settings: HeadSettings, rows: NDArray[np.int64]) -> Blocks:
    return {name: blocks[name][rows] for name in settings.readouts}


def _joined(blocks: Blocks, settings: HeadSettings, rows: NDArray[np.int64]) -> NDArray[np.float32]:
    return np.concatenate([blocks[name][rows] for name in settings.readouts], 1)


def _known(blocks: Blocks, settings: HeadSettings, y_N: NDArray[np.int32], rows: NDArray[np.int64]) -> Known:
    return fit_known(_part(blocks, settings, rows), settings.readouts, y_N[rows])
