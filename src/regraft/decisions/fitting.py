"""What an unknown image is, fitted on features of known ones and tried on classes left out in turn."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eigh

from regraft import metrics
from regraft.decisions.novelty import Known, novelty
from regraft.heads.choose import Division, in_threads
from regraft.heads.linear import Blocks, LinearHead, Standardisation, fit_head
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

#: Share of the average variance in each covariance.
_SHRINKAGE = 0.1

#: Classes are left out in so many groups.
_GROUPS = 5

#: With fewer held-out images there is no placing a threshold.
_LEAST_HELD = 20


def fit_known(blocks: Blocks, readouts: Sequence[str], y_N: NDArray[np.int32], classes: int) -> Known:
    """What N known images are like; rows of the blocks are images."""
    standard = Standardisation.of(blocks, readouts, "equal")
    Z_ND = standard.apply(blocks, readouts, slice(None))
    axes_DR = _leading(Z_ND, max(1, min(_COMPONENTS, _MOST_NUMBERS // Z_ND.shape[1], len(Z_ND) - 1)))
    A_NR = Z_ND.astype(np.float64) @ axes_DR
    counts_K = np.bincount(y_N, minlength=classes)
    means_KR = np.zeros((classes, A_NR.shape[1]))
    np.add.at(means_KR, y_N, A_NR)
    means_KR /= np.maximum(counts_K, 1)[:, None]
    inside_RR, overall_RR = _whitening(A_NR - means_KR[y_N]), _whitening(A_NR)
    projection_DR = standard.factor_D[:, None] * axes_DR
    return Known(*(tensor.astype(np.float32) for tensor in (
        projection_DR, standard.mean_D @ projection_DR, inside_RR, overall_RR, (means_KR @ inside_RR)[counts_K > 0])))


def _leading(Z_ND: NDArray[np.float32], components: int) -> NDArray[np.float64]:
    """The leading principal axes [D, R] of centred rows, over the smaller of their two products."""
    n, width = Z_ND.shape
    first = max(0, min(n, width) - components)
    wide = width > n
    products: NDArray[np.float64] = (Z_ND @ Z_ND.T if wide else Z_ND.T @ Z_ND).astype(np.float64)
    _, vectors = eigh(products, subset_by_index=(first, min(n, width) - 1))
    axes_DR: NDArray[np.float64] = Z_ND.T.astype(np.float64) @ vectors if wide else vectors
    axes_DR /= np.maximum(np.linalg.norm(axes_DR, axis=0), 1e-12)
    return axes_DR


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
                ) -> tuple[Unknown | None, Known | None]:
    """The score of novelty and the threshold that the share ``accept`` of known images stays below.

    ``learn`` are the rows that the model was fitted on, ``divisions`` pairs of rows to fit on and rows to hold out.
    None where too few can be held out.
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

    def scores(division: Division) -> NDArray[np.float64]:
        train, held = division
        return _Fit.of(blocks, settings, y_N, classes, train, kind).novelty(held, kind, temperature)

    novelty_M = np.sort(np.concatenate(in_threads(scores, divisions)))
    place = min(math.ceil((len(novelty_M) + 1) * accept), len(novelty_M)) - 1
    threshold = float(novelty_M[place])
    known = fit_known({name: blocks[name][learn] for name in settings.readouts}, settings.readouts, y_N[learn], classes
                      ) if kind == DEFAULT else None
    return Unknown(kind, threshold, accept, float((novelty_M <= threshold).mean()), why, tried), known


def compare_kinds(blocks: Blocks, settings: HeadSettings, y_N: NDArray[np.int32], classes: int,
                  train: NDArray[np.int64], held: NDArray[np.int64]) -> dict[str, float]:
    """How well each kind of novelty tells classes that were left out, in turn, from held-out images of the others.

    Means over the turns of the area under the ROC curve; in each turn a head and a covariance are fitted anew.
    """
    kinds: tuple[NoveltyKind, ...] = get_args(NoveltyKind)
    present = np.unique(y_N[train])

    def turn(left_out: NDArray[np.int32]) -> dict[str, float]:
        learn, kept = (rows[~np.isin(y_N[rows], left_out)] for rows in (train, held))
        strange = held[np.isin(y_N[held], left_out)]
        if not len(kept) or not len(strange):
            return {}
        rest = np.setdiff1d(np.arange(classes), left_out)
        fitted = _Fit.of(blocks, settings, np.searchsorted(rest, y_N).astype(np.int32), len(rest), learn)
        is_strange_M = np.arange(len(kept) + len(strange)) >= len(kept)
        rows = np.concatenate([kept, strange])
        return {kind: metrics.roc_auc(fitted.novelty(rows, kind), is_strange_M) for kind in kinds}

    turns = in_threads(turn, [present[start::_GROUPS] for start in range(min(_GROUPS, len(present)))])
    measured = [areas for areas in turns if areas]
    return {kind: float(np.mean([areas[kind] for areas in measured])) for kind in kinds if measured}


@dataclass(frozen=True)
class _Fit:
    """A head and what is known of the images, fitted on some rows; what a kind does not need is None."""

    blocks: Blocks
    readouts: tuple[str, ...]
    known: Known | None
    head: LinearHead | None

    @classmethod
    def of(cls, blocks: Blocks, settings: HeadSettings, y_N: NDArray[np.int32], classes: int, rows: NDArray[np.int64],
           kind: NoveltyKind | None = None) -> _Fit:
        """Fit for one kind, or for all."""
        names = settings.readouts
        part = {name: blocks[name][rows] for name in names}
        known = fit_known(part, names, y_N[rows], classes) if kind in (None, DEFAULT) else None
        head = fit_head(part, y_N[rows], classes, settings) if kind != DEFAULT else None
        return cls(blocks, names, known, head)

    def novelty(self, rows: NDArray[np.int64], kind: NoveltyKind, temperature: float = 1.0) -> NDArray[np.float64]:
        features_MD = np.concatenate([self.blocks[name][rows] for name in self.readouts], 1)
        head = self.head
        logits_MK = np.empty((len(rows), 0)) if head is None else head.tempered(temperature).logits(features_MD)
        return novelty(kind, self.known, features_MD, logits_MK)
