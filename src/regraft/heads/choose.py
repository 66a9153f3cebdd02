"""Choose readouts, weighting and strength together, on held-out images; never on what is reported as test."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from regraft.data.splits import folds, holdout
from regraft.heads.linear import Blocks, LinearHead, Standardisation, apart, fit_head
from regraft.heads.shared import Joined, Shared, join
from regraft.heads.solver import ROUGH, Fit, OneOf, Problem, Targets, softmax
from regraft.heads.threads import in_threads
from regraft.records.heads import Choice, HeadKind, HeadSettings, Tried, Weighting

#: L2 strengths, strong to weak.
STRENGTHS = (1e-3, 1e-4, 1e-5, 1e-6)

#: Strengths between the best of the path and its neighbours, as factors.
_REFINED = (3.0, 1 / 3)

#: A strength has been passed where one behind it does so much worse: rough fits alone differ less.
_PASSED = 1.05

#: Log-losses (nats) that differ by less are alike.
_ALIKE = 5e-4

#: Tolerance of a fit on many images (nats): further steps change held-out log-losses in the fourth or fifth digit, in
#: either direction (LOG.md).
_FINE = 1e-6

#: How often a strength is made a third of what it was, or three times, as long as it does better.
_MOST_TIMES = 3

#: Factors from squared distances to logits for the nearest class mean; features have a mean square of 1.
_SCALES = (2.0, 5.0, 10.0, 20.0, 40.0)

#: With fewer held-out images a choice is chance.
LEAST_HELD = 8

#: The strength where nothing can be held out to choose it.
_UNMEASURED_STRENGTH = 1e-4

#: Candidates that go from the first round (one strength, one division, so many training rows) into the second.
FINALISTS = 3
_FIRST_STRENGTH = 1e-5
_FIRST_ROWS = 480
_FIRST_TOLERANCE = 1e-3

#: Divisions until so many images are held out: a choice gains nothing from more.
JUDGED = 800

#: Share of a fold's training rows on which its head is chosen.
INNER_SHARE = 0.25

#: Up to this many images in the median class the nearest class mean is tried too.
FEW = 5

#: Rows used to choose; with more, the choice no longer changes but its cost does. The fit uses all rows.
CHOOSING_ROWS = 2_000

#: The same where strengths are measured anew on all rows, so that readouts and weighting alone are chosen; of many
#: classes so many rows each.
_DRAWN, _DRAWN_OF_A_CLASS = 1_000, 12

#: A held-out probability of 0 must not decide everything.
FLOOR = 1e-6

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


class Task(Protocol):
    """What heads are to learn: for a fit, and to judge its scores of images that were held out from it."""

    def targets(self, rows: NDArray[np.int64]) -> Targets:
        """What the scores of some rows are to become."""

    def judge(self, scores_MK: NDArray[np.floating], rows: NDArray[np.int64]) -> tuple[float, float]:
        """Mean log-loss (nats) and share of right answers of scores of M rows."""


@dataclass(frozen=True)
class OneClass:
    """One class an image: ``y_N`` int32 among ``classes``."""

    y_N: NDArray[np.int32]
    classes: int

    def targets(self, rows: NDArray[np.int64]) -> Targets:
        """Their classes."""
        return OneOf(self.y_N[rows], self.classes)

    def judge(self, scores_MK: NDArray[np.floating], rows: NDArray[np.int64]) -> tuple[float, float]:
        """Of the softmax of the scores."""
        P_MK, y_M = softmax(scores_MK), self.y_N[rows]
        loss_M = -np.log(np.maximum(P_MK[np.arange(len(y_M)), y_M], FLOOR))
        return float(loss_M.mean(dtype=np.float64)), float((P_MK.argmax(1) == y_M).mean())


@dataclass(frozen=True)
class Scored:
    """Scores of a candidate at some strengths on one division, and its best fit there."""

    tried: list[Tried]
    fit: Fit | None


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
           names: Sequence[str], finalists: int = FINALISTS, only: tuple[str, ...] = (), seed: int = 0,
           refine: bool = True, drawn_from: NDArray[np.int32] | None = None) -> Found:
    """The head with the lowest held-out log-loss over the divisions.

    Two rounds: every candidate at one strength on a part of the images, then the best few over the whole path of
    strengths. With hardly an image held out, a fixed head that does well with a handful of images. With ``only``,
    heads on exactly these readouts. ``seed`` draws the part. Without ``refine`` the strength is one of the path: right
    where it is measured anew. ``drawn_from`` are the classes of all images to learn from, where these are some of them.
    """
    offered = [Candidate(only), *([Candidate(only, "equal")] if len(only) > 1 else [])] if only else None
    if sum(len(held) for _, held in divisions) < LEAST_HELD:
        fixed = unmeasured(names) if offered is None else offered[-1].at(_UNMEASURED_STRENGTH)
        return Found(Choice(fixed, "experience with other sets: there are too few images to measure it"))
    few = _is_few(y_N[divisions[0][0]] if drawn_from is None else drawn_from)
    # Of a handful of images one round says nothing, and trying everything is cheap.
    return search(blocks, OneClass(y_N, classes), offered or candidates(names, few), divisions, by,
                  None if few else finalists, seed, refine)


def search(blocks: Blocks, task: Task, offered: Sequence[Candidate], divisions: Sequence[Division], by: str,
           finalists: int | None, seed: int, refine: bool = True) -> Found:
    """The best for a task, in two rounds; ``finalists`` go into the second, or all (None).

    With ``refine``, strengths between those of the path are tried too.
    """
    screened = _screened(divisions, seed)
    first = [_scores(blocks, task, division, offered, _first_strengths, products=True, tolerance=_FIRST_TOLERANCE)
             for division in screened]
    ranked = _ranked(_pooled([[scored.tried for scored in of] for of in first], screened), blocks, _FIRST_TOLERANCE)
    best_few = list(dict.fromkeys(_candidate(tried.settings) for tried in ranked))[:finalists]
    divisions = judged(divisions)
    second = [_scores(blocks, task, division, best_few, _path) for division in divisions]
    tried = _pooled([[scored.tried for scored in of] for of in second], divisions)
    best = _ranked(tried, blocks, _ALIKE)[0].settings
    candidate = _candidate(best)
    starts = [of[best_few.index(candidate)].fit for of in second]
    if refine:
        refined = [best.strength * factor for factor in _REFINED]

        def more(at: tuple[Division, Fit | None]) -> list[list[Tried]]:
            division, start = at
            joined = join(blocks, candidate.readouts, candidate.weighting, *division)
            return [score(task, joined, division, candidate, refined, start).tried]

        tried += _pooled(in_threads(more, list(zip(divisions, starts, strict=True))), divisions)
        best = _ranked([t for t in tried if _candidate(t.settings) == candidate], blocks, 0)[0].settings
    tried = _ranked(tried, blocks, 0)
    choice = Choice(best, by, (*tried, *(t for t in ranked if _candidate(t.settings) not in best_few)))
    return Found(choice, starts[0])


def _ranked(tried: Sequence[Tried], blocks: Blocks, alike: float) -> list[Tried]:
    """The lowest log-loss first; of those that are as low to what such fits can tell, the one of the fewest numbers."""
    least = min(t.log_loss for t in tried) + alike

    def rank(t: Tried) -> tuple[float, int, float, float]:
        return max(t.log_loss, least), _width(blocks, t.settings.readouts), t.log_loss, -t.accuracy

    return sorted(tried, key=rank)


def _scores(blocks: Blocks, task: Task, division: Division, offered: Sequence[Candidate],
            strengths: Callable[[Candidate], Sequence[float]], products: bool = False, tolerance: float = ROUGH,
            ) -> list[Scored]:
    """Scores of each candidate on one division; ``products`` where few rows are read in many ways."""
    readouts = list(dict.fromkeys(name for candidate in offered for name in candidate.readouts))
    shared = Shared(blocks, readouts, *division, products)

    def of(candidate: Candidate) -> Scored:
        joined = shared.joined(candidate.readouts, candidate.weighting)
        return score(task, joined, division, candidate, strengths(candidate), None, tolerance)

    # The longest first: the last one is not left to one core alone.
    by_width = sorted(offered, key=lambda candidate: -_width(blocks, candidate.readouts))
    scored = dict(zip(by_width, in_threads(of, by_width), strict=True))
    return [scored[candidate] for candidate in offered]


def _screened(divisions: Sequence[Division], seed: int) -> list[Division]:
    """What the first round looks at: of few images all divisions, of many a part of one."""
    train, held = divisions[0]
    if len(train) <= _FIRST_ROWS:
        return list(divisions[:2])
    return [(np.sort(np.random.default_rng(seed).choice(train, _FIRST_ROWS, replace=False)), held)]


def judged(divisions: Sequence[Division]) -> Sequence[Division]:
    """As many divisions as hold out enough images to choose by."""
    so_far = np.cumsum([len(held) for _, held in divisions])
    return divisions[:int(np.searchsorted(so_far, JUDGED)) + 1]


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


def _pooled(parts: Sequence[Sequence[Sequence[Tried]]], divisions: Sequence[Division]) -> list[Tried]:
    """Scores on each division joined: means over all held-out images, of what was tried on every division."""
    sizes = [len(held) for _, held in divisions]
    sums: dict[HeadSettings, NDArray[np.float64]] = {}
    for part, size in zip(parts, sizes, strict=True):
        for tried in (tried for of_candidate in part for tried in of_candidate):
            scores = np.array([tried.log_loss * size, tried.accuracy * size, 1])
            sums[tried.settings] = sums.get(tried.settings, np.zeros(3)) + scores
    return [Tried(settings, float(loss / sum(sizes)), float(hits / sum(sizes)))
            for settings, (loss, hits, times) in sums.items() if times == len(sizes)]


def _width(blocks: Blocks, readouts: Sequence[str]) -> int:
    return sum(blocks[name].shape[1] for name in readouts)


def _candidate(settings: HeadSettings) -> Candidate:
    return Candidate(settings.readouts, settings.weighting, settings.kind)


def _is_few(y_N: NDArray[np.int32]) -> bool:
    counts = np.bincount(y_N)
    return bool(np.median(counts[counts > 0]) <= FEW)


def score(task: Task, joined: Joined, division: Division, candidate: Candidate, strengths: Sequence[float],
           start: Fit | None, tolerance: float = ROUGH) -> Scored:
    """Held-out log-loss and accuracy of a candidate at each strength on one division.

    Ends where a further strength has done clearly worse than one before: weaker ones would do worse still, and take
    longest.
    """
    train, held = division
    tried: list[Tried] = []
    best: Fit | None = None
    least = np.inf
    fits = held_out(task.targets(train), joined, candidate, strengths, start, tolerance)
    for strength, (scores_MK, fit) in zip(strengths, fits, strict=False):
        loss, hits = task.judge(scores_MK, held)
        tried.append(Tried(candidate.at(strength), loss, hits))
        if loss < least:
            best, least = fit, loss
        elif loss > _PASSED * least and candidate.kind != "nearest_mean":
            break
    return Scored(tried, best)


def held_out(targets: Targets, joined: Joined, candidate: Candidate, strengths: Sequence[float],
             start: Fit | None = None, tolerance: float = ROUGH,
             ) -> Iterator[tuple[NDArray[np.floating], Fit | None]]:
    """Scores [M, K] of the held-out rows at each strength, and the fit."""
    if candidate.kind == "nearest_mean":
        assert isinstance(targets, OneOf)
        V, b = joined.nearest_mean(targets.y_N, targets.classes)
        scores = joined.held_MR @ V + b
        yield from ((scores * scale, None) for scale in strengths)
        return
    for fit in joined.problem(targets).path(strengths, tolerance, start):
        yield joined.held_MR @ fit.V_RK + fit.b_K, fit


def choosing_rows(y_N: NDArray[np.int32], rows: NDArray[np.int64], seed: int, most: int = CHOOSING_ROWS,
                  ) -> NDArray[np.int64]:
    """At most so many of the rows, stratified, for choosing."""
    if len(rows) <= most:
        return rows
    return np.sort(rows[holdout(y_N[rows], None, most / len(rows), seed)])


def drawn(classes: int) -> int:
    """Rows to choose readouts and weighting on, where strengths are measured anew on all."""
    return min(max(_DRAWN, _DRAWN_OF_A_CLASS * classes), CHOOSING_ROWS)


def fit_many(X_ND: NDArray[np.float32], y_N: NDArray[np.int32], held_MD: NDArray[np.float32],
             y_held_M: NDArray[np.int32], classes: int, widths: Mapping[str, int], chosen: HeadSettings,
             share: float = 1.0, start: Fit | None = None) -> LinearHead:
    """Fit on more images than ``chosen`` was chosen on, a ``share`` of them; its strength is measured anew.

    ``X_ND`` and ``held_MD`` are the joined readouts of ``chosen``, and are overwritten.
    """
    columns = apart(X_ND, {name: widths[name] for name in chosen.readouts})
    standard = Standardisation.of(columns, chosen.readouts, chosen.weighting)
    for rows in (X_ND, held_MD):
        standard.apply_in_place(rows)
    task, held_rows = OneClass(y_held_M, classes), np.arange(len(y_held_M))
    problem = Problem(X_ND, OneOf(y_N, classes))

    def measured(strength: float, start: Fit | None) -> tuple[float, Fit]:
        [fit] = problem.path([strength], start=start)
        return task.judge(held_MD @ fit.V_RK + fit.b_K, held_rows)[0], fit

    # More images want a weaker one: by the share at most, where all else stays the same, and at times not at all.
    first = chosen.strength * share**0.5
    loss, fit = measured(first, start)
    for factor in (1 / 3, 3.0):
        for times in range(1, _MOST_TIMES + 1):
            less, further = measured(first * factor**times, fit)
            if less >= loss:
                break
            loss, fit = less, further
        if fit.strength != first:
            break
    [fit] = problem.path([fit.strength], _FINE, fit)
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
