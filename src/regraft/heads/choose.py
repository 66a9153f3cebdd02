"""Choose readouts, weighting and strength together, on held-out images; never on what is reported as test."""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import threadpoolctl
from numpy.typing import NDArray

from regraft.data.splits import folds, holdout
from regraft.heads.linear import Blocks, LinearHead, Standardisation, fit_head, nearest_mean
from regraft.heads.solver import ROUGH, TOLERANCE, Fit, OneOf, Problem, fit_path, softmax
from regraft.records.heads import Choice, HeadKind, HeadSettings, Tried, Weighting

#: L2 strengths, strong to weak.
STRENGTHS = (1e-3, 1e-4, 1e-5, 1e-6)

#: Strengths between the best of the path and its neighbours, as factors.
_REFINED = (3.0, 1 / 3)

#: Factors from squared distances to logits for the nearest class mean; features have a mean square of 1.
_SCALES = (2.0, 5.0, 10.0, 20.0, 40.0)

#: With fewer held-out images a choice is chance.
LEAST_HELD = 8

#: The strength where nothing can be held out to choose it.
_UNMEASURED_STRENGTH = 1e-4

#: Candidates that go from the first round (one strength, one division, so many training rows) into the second.
FINALISTS = 3
_FIRST_STRENGTH = 1e-5
_FIRST_ROWS = 640

#: Divisions until so many images are held out: a choice gains nothing from more.
_JUDGED = 800

#: Share of a fold's training rows on which its head is chosen.
INNER_SHARE = 0.25

#: Up to this many images in the median class the nearest class mean is tried too.
FEW = 5

#: Rows used to choose; with more, the choice no longer changes but its cost does. The fit uses all rows.
CHOOSING_ROWS = 2_000

#: A held-out probability of 0 must not decide everything.
FLOOR = 1e-6

_T = TypeVar("_T")
_R = TypeVar("_R")

#: (training rows, held-out rows)
Division = tuple[NDArray[np.int64], NDArray[np.int64]]


@dataclass(frozen=True)
class Candidate:
    """What to try: readouts, their weighting, the kind of head."""

    readouts: tuple[str, ...]
    weighting: Weighting = "by_width"
    kind: HeadKind = "logistic_regression"

    def at(self, strength: float) -> HeadSettings:
        """This candidate with a strength."""
        return HeadSettings(self.kind, self.readouts, self.weighting, strength)


@dataclass(frozen=True)
class Scored:
    """Scores of a candidate at each strength, over some divisions together; its best fit on the last of these."""

    tried: list[Tried]
    fit: Fit | None


#: Scores of a candidate at some strengths; the first fit is started from one of similar rows, where there is one.
Score = Callable[[Sequence[Division], Candidate, Sequence[float], Fit | None], Scored]


@dataclass(frozen=True)
class Found:
    """A choice, and a fit of it on some of the rows, where one on others may start."""

    choice: Choice
    start: Fit | None = None


def candidates(names: Sequence[str], few: bool) -> list[Candidate]:
    """Readouts alone and joined, of a network whose readouts are named in order: stages, ``last``, ``logits``.

    The late ones are what was pre-trained for; the earlier ones carry images unlike it. With ``few`` images a
    class, the nearest class mean is tried on the same readouts.
    """
    if len(names) == 1:  # features of one place, from a file
        alone = Candidate(tuple(names))
        return [alone, replace(alone, kind="nearest_mean")] if few else [alone]
    *stages, last, logits = names
    deep = tuple(reversed(stages))  # latest first
    tried = [
        Candidate((last,)),
        Candidate((last, logits)),
        Candidate((last, *deep[:2]), "equal"),
        Candidate((last, *deep[:4])),
        Candidate((last, *deep[:4]), "equal"),
        Candidate((last, *deep[:4], logits)),
        Candidate((last, *deep), "equal"),
        *(Candidate((stage,)) for stage in deep[:3]),
        *([Candidate(deep[:2], "equal")] if len(deep) > 1 else []),
    ]
    if few:
        tried += [replace(c, kind="nearest_mean") for c in tried]
    return list(dict.fromkeys(tried))


def choose(blocks: Blocks, y_N: NDArray[np.int32], classes: int, divisions: Sequence[Division], by: str,
           names: Sequence[str], finalists: int = FINALISTS, only: tuple[str, ...] = (), seed: int = 0) -> Found:
    """The head with the lowest held-out log-loss over the divisions.

    Two rounds: every candidate at one strength on a part of the images, then the best few over the whole path of
    strengths. With hardly an image held out, a fixed head that does well with a handful of images. With ``only``,
    heads on exactly these readouts. ``seed`` draws the part.
    """
    offered = [Candidate(only), *([Candidate(only, "equal")] if len(only) > 1 else [])] if only else None
    if sum(len(held) for _, held in divisions) < LEAST_HELD:
        fixed = unmeasured(names) if offered is None else offered[-1].at(_UNMEASURED_STRENGTH)
        return Found(Choice(fixed, "experience with other sets: there are too few images to measure it"))
    few = _is_few(y_N, divisions, classes)
    # Of a handful of images one round says nothing, and trying everything is cheap.
    return search(functools.partial(_score, blocks, y_N, classes), offered or candidates(names, few), divisions, by,
                  None if few else finalists, seed)


def search(score: Score, offered: Sequence[Candidate], divisions: Sequence[Division], by: str, finalists: int | None,
           seed: int) -> Found:
    """The best by a score, in two rounds; ``finalists`` go into the second, or all (None)."""
    first = in_threads(lambda c: score(_screened(divisions, seed), c, _first_strengths(c), None).tried, offered)
    divisions = judged(divisions)
    ranked = sorted((tried for per_candidate in first for tried in per_candidate), key=_rank)
    best_few = list(dict.fromkeys(_candidate(tried.settings) for tried in ranked))[:finalists]
    pairs = [(c, d) for c in best_few for d in divisions]
    second = in_threads(lambda pair: score([pair[1]], pair[0], _path(pair[0]), None), pairs)
    tried = _pooled([scored.tried for scored in second], divisions)
    best = min(tried, key=_rank).settings
    starts = [scored.fit for (c, _), scored in zip(pairs, second, strict=True) if c == _candidate(best)]
    refined = [best.strength * factor for factor in _REFINED]
    more = in_threads(lambda at: score([at[0]], _candidate(best), refined, at[1]).tried,
                      list(zip(divisions, starts, strict=True)))
    tried = sorted([*tried, *_pooled(more, divisions)], key=_rank)
    choice = Choice(tried[0].settings, by, (*tried, *(t for t in ranked if _candidate(t.settings) not in best_few)))
    return Found(choice, starts[0] if _candidate(choice.chosen) == _candidate(best) else None)


def _screened(divisions: Sequence[Division], seed: int) -> list[Division]:
    """What the first round looks at: of few images all divisions, of many a part of one."""
    train, held = divisions[0]
    if len(train) <= _FIRST_ROWS:
        return list(divisions[:2])
    return [(np.sort(np.random.default_rng(seed).choice(train, _FIRST_ROWS, replace=False)), held)]


def judged(divisions: Sequence[Division]) -> Sequence[Division]:
    """As many divisions as hold out enough images to choose by."""
    so_far = np.cumsum([len(held) for _, held in divisions])
    return divisions[:int(np.searchsorted(so_far, _JUDGED)) + 1]


def unmeasured(names: Sequence[str]) -> HeadSettings:
    """What does well with a handful of images on other sets: see LOG.md."""
    if len(names) == 1:
        return Candidate(tuple(names)).at(_UNMEASURED_STRENGTH)
    *stages, last, _ = names
    return Candidate((last, *reversed(stages[-2:])), "equal").at(_UNMEASURED_STRENGTH)


def _path(candidate: Candidate) -> tuple[float, ...]:
    return _SCALES if candidate.kind == "nearest_mean" else STRENGTHS


def _first_strengths(candidate: Candidate) -> tuple[float, ...]:
    return _SCALES if candidate.kind == "nearest_mean" else (_FIRST_STRENGTH,)


def _pooled(parts: Sequence[Sequence[Tried]], divisions: Sequence[Division]) -> list[Tried]:
    """Scores of single divisions joined: means over all held-out images."""
    sizes = [len(held) for _, held in divisions]
    sums: dict[HeadSettings, NDArray[np.float64]] = {}
    for i, part in enumerate(parts):
        for tried in part:
            scores = np.array([tried.log_loss, tried.accuracy]) * sizes[i % len(sizes)] / sum(sizes)
            sums[tried.settings] = sums.get(tried.settings, np.zeros(2)) + scores
    return [Tried(settings, float(loss), float(hits)) for settings, (loss, hits) in sums.items()]


_nested = threading.local()


def in_threads(function: Callable[[_T], _R], items: Sequence[_T]) -> list[_R]:
    """Results in order, one thread a core and one core a thread; inside a worker, one after the other.

    The matrices are small: several problems side by side use the cores, several cores in one problem wait for
    each other. One alone has them all.
    """
    if getattr(_nested, "busy", False) or len(items) == 1:
        return [function(item) for item in items]

    def run(item: _T) -> _R:
        _nested.busy = True
        return function(item)

    with threadpoolctl.threadpool_limits(1), ThreadPoolExecutor(os.cpu_count()) as executor:
        return list(executor.map(run, items))


def _rank(tried: Tried) -> tuple[float, float]:
    return tried.log_loss, -tried.accuracy


def _candidate(settings: HeadSettings) -> Candidate:
    return Candidate(settings.readouts, settings.weighting, settings.kind)


def _is_few(y_N: NDArray[np.int32], divisions: Sequence[Division], classes: int) -> bool:
    rows = divisions[0][0] if divisions else np.arange(len(y_N))
    counts = np.bincount(y_N[rows], minlength=classes)
    return bool(np.median(counts[counts > 0]) <= FEW)


def _score(blocks: Blocks, y_N: NDArray[np.int32], classes: int, divisions: Sequence[Division],
           candidate: Candidate, strengths: Sequence[float], start: Fit | None) -> Scored:
    """Held-out log-loss and accuracy of a candidate at each strength, over all divisions together."""
    losses, hits, count = np.zeros(len(strengths)), np.zeros(len(strengths)), 0
    best: Fit | None = None
    for train, held in divisions:
        y, best, least = y_N[held], None, np.inf
        for i, (P, fit) in enumerate(held_out(blocks, y_N, classes, train, held, candidate, strengths, start)):
            loss = -np.log(np.maximum(P[np.arange(len(y)), y], FLOOR)).sum()
            if loss < least:
                best, least = fit, loss
            losses[i] += loss
            hits[i] += (P.argmax(1) == y).sum()
        count += len(held)
    return scored(candidate, strengths, losses / count, hits / count, best)


def scored(candidate: Candidate, strengths: Sequence[float], losses: NDArray[np.float64], hits: NDArray[np.float64],
           best: Fit | None) -> Scored:
    """Mean log-losses and shares of right answers, each with its settings."""
    return Scored([Tried(candidate.at(strength), float(loss), float(hit))
                   for strength, loss, hit in zip(strengths, losses, hits, strict=True)], best)


def held_out(blocks: Blocks, y_N: NDArray[np.int32], classes: int, train: NDArray[np.int64],
             held: NDArray[np.int64], candidate: Candidate, strengths: Sequence[float], start: Fit | None = None,
             ) -> Iterator[tuple[NDArray[np.floating], Fit | None]]:
    """Probabilities of the held-out rows at each strength, and the fit; all is estimated on the training rows."""
    of_train = {name: blocks[name][train] for name in candidate.readouts}
    standard = Standardisation.of(of_train, candidate.readouts, candidate.weighting)
    Z_train = standard.apply(of_train, candidate.readouts, slice(None))
    Z_held = standard.apply(blocks, candidate.readouts, held)
    if candidate.kind == "nearest_mean":
        V, b = nearest_mean(Z_train, y_N[train], classes)
        scores = Z_held @ V + b
        yield from ((softmax(scores * scale), None) for scale in strengths)
        return
    for fit in fit_path(Z_train, y_N[train], classes, strengths, start=start):
        yield softmax(Z_held @ fit.V_RK + fit.b_K), fit


def choosing_rows(y_N: NDArray[np.int32], rows: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """At most 2,000 of the rows, stratified, for choosing."""
    if len(rows) <= CHOOSING_ROWS:
        return rows
    return np.sort(rows[holdout(y_N[rows], None, CHOOSING_ROWS / len(rows), seed)])


def fit_many(X_ND: NDArray[np.float32], y_N: NDArray[np.int32], held_MD: NDArray[np.float32],
             y_held_M: NDArray[np.int32], classes: int, widths: Mapping[str, int], chosen: HeadSettings,
             start: Fit | None = None) -> LinearHead:
    """Fit on more images than ``chosen`` was chosen on; its strength is measured anew, the best one is weaker.

    ``X_ND`` and ``held_MD`` are the joined readouts of ``chosen``, and are overwritten.
    """
    columns, at = {}, 0
    for name in chosen.readouts:
        columns[name] = X_ND[:, at:at + widths[name]]
        at += widths[name]
    standard = Standardisation.of(columns, chosen.readouts, chosen.weighting)
    for rows in (X_ND, held_MD):
        standard.apply_in_place(rows)
    strengths = [chosen.strength * factor for factor in (3.0, 1.0, 1 / 3, 1 / 10)]
    losses = []
    problem = Problem(X_ND, OneOf(y_N, classes))
    tried = list(problem.path(strengths, start=start))
    for fit in tried:
        P = softmax(held_MD @ fit.V_RK + fit.b_K)
        losses.append(-np.log(np.maximum(P[np.arange(len(y_held_M)), y_held_M], FLOOR)).mean())
    best = int(np.argmin(losses))
    [fit] = problem.path(strengths[best:best + 1], TOLERANCE, tried[best])
    return standard.fold(fit.V_RK, fit.b_K, replace(chosen, strength=fit.strength))


def divide(y_N: NDArray[np.int32], groups_N: NDArray[np.int32] | None, number: int, seed: int) -> list[Division]:
    """Stratified, grouped folds as divisions; empty where no image can be held out."""
    fold_N = folds(y_N, groups_N, number, seed)
    return [(np.flatnonzero(fold_N != fold), np.flatnonzero(fold_N == fold))
            for fold in range(number) if (fold_N == fold).any()]


def cross_validate(blocks: Blocks, y_N: NDArray[np.int32], groups_N: NDArray[np.int32] | None, classes: int,
                   names: Sequence[str], *, number: int, repeats: int, seed: int, done: Callable[[], None],
                   only: tuple[str, ...] = ()) -> list[tuple[NDArray[np.int64], NDArray[np.float64]]]:
    """Held-out rows and their probabilities for each fold of each repeat; ``done`` is called after each.

    Inside each fold the head is chosen anew, on a part of that fold's training rows; the held-out rows are
    looked at once, by a head that never saw them.
    """

    def one_fold(job: tuple[int, Division]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        inner_seed, (train, held) = job
        inner = holdout(y_N[train], None if groups_N is None else groups_N[train], INNER_SHARE, inner_seed)
        rows = np.arange(len(train))
        of_train = {name: block[train] for name, block in blocks.items()}
        divisions = [(rows[~inner], rows[inner])] if inner.any() else []
        found = choose(of_train, y_N[train], classes, divisions, "a part of the fold", names, 1, only, inner_seed)
        chosen = found.choice.chosen
        head = fit_head({n: of_train[n] for n in chosen.readouts}, y_N[train], classes, chosen, ROUGH, found.start)
        P_MK = head.probabilities(np.concatenate([blocks[name][held] for name in chosen.readouts], 1))
        done()
        return held, P_MK

    jobs = [(seed + repeat, division) for repeat in range(repeats)
            for division in divide(y_N, groups_N, number, seed + 1000 * (repeat + 1))]
    return in_threads(one_fold, jobs)
