"""Old and new model on the same images: which is better, what is new, and how the new images differ."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from regraft import metrics
from regraft.model import Model
from regraft.progress import Progress
from regraft.records.base import shown
from regraft.records.images import SPLITS, ImageIndex
from regraft.records.pairing import PairedComparison
from regraft.records.results import Interval, TrainResult
from regraft.records.update import Drift, NewClass, UpdateResult
from regraft.runs.evaluate import answer_images
from regraft.runs.joined import Joined, given
from regraft.runs.pairing import paired
from regraft.settings import EvaluateSettings, UpdateSettings

#: A difference of shares that is one of rounding.
_ROUNDING = 1e-9


@dataclass(frozen=True)
class _Answered:
    """How a model fares on N images, bool [N] each.

    ``told_N`` images have an answer, ``right_N`` a right one, ``unknown_N`` are unlike what the model knows (None
    without a measure of that), ``seen_N`` served for making it.
    """

    told_N: NDArray[np.bool_]
    right_N: NDArray[np.bool_]
    unknown_N: NDArray[np.bool_] | None
    seen_N: NDArray[np.bool_]


def _answered(model: Model, index: ImageIndex, asked_N: NDArray[np.bool_], settings: UpdateSettings, progress: Progress,
              ) -> _Answered:
    """Ask a model about the asked images, bool [N]; a label that it does not know is never answered rightly."""
    how = EvaluateSettings(model.folder, index.roots[0], device=settings.device, engine=settings.engine,
                           store=settings.store, store_limit=settings.store_limit, max_quarantined=1.0)
    rows = np.flatnonzero(asked_N)
    number = {name: k for k, name in enumerate(model.classes)}
    y_N = np.array([number.get(name, -1) for name in index.classes], np.int32)[index.y_N]
    found = answer_images(model, index.take(rows), "test", y_N[rows], how, progress, unknown=True)
    readable = rows[found.features.rows]
    seen = [digest in model.seen.training or digest in model.seen.validation for digest in found.features.digests]

    def spread(of: NDArray[np.bool_] | Sequence[bool]) -> NDArray[np.bool_]:
        whole_N = np.zeros(len(index), np.bool_)
        whole_N[readable] = of
        return whole_N

    return _Answered(spread(np.ones(len(readable), np.bool_)), spread(found.P_NK.argmax(1) == found.y_N),
                     None if found.unknown_N is None else spread(found.unknown_N), spread(seen))


def judged(old: Model, candidate: Model, joined: Joined, training: TrainResult, settings: UpdateSettings,
            progress: Progress) -> UpdateResult:
    """Both models on the same images, and what follows; ``seconds`` are still to be told."""
    index, new_N = joined.index, joined.new_N
    test_N = index.splits == SPLITS.index("test")
    common_N = np.isin(index.y_N, [k for k, name in enumerate(index.classes) if name in old.classes])
    before = _answered(old, index, test_N | new_N, settings, progress)
    after = _answered(candidate, index, test_N, settings, progress)
    both_N = test_N & common_N & before.told_N & after.told_N

    def compared(which_N: NDArray[np.bool_], words: str) -> PairedComparison:
        seen = int((before.seen_N | after.seen_N)[which_N].sum())
        return paired(old.folder, candidate.folder, before.right_N[which_N], after.right_N[which_N], words, seen)

    comparison = compared(both_N, "all test images of classes that both know")
    old_test = compared(both_N & ~new_N, "the old test images alone") if (both_N & ~new_N).any() else None
    vanished = tuple(name for name in old.classes if name not in index.classes)
    told = [comparison] if old_test is None or old_test.n == comparison.n else [comparison, old_test]
    fine, reasons = _verdict(told, vanished, settings.tolerance)
    promoted = all(fine)
    previous = _free(old.folder.with_name(f"{old.folder.name}.before-{old.digest[:8]}")) if promoted else None
    first, second = (str(previous), str(old.folder)) if promoted else (str(old.folder), str(candidate.folder))
    came = set(index.y_N[new_N].tolist())
    return UpdateResult(
        model=str(old.folder), promoted=promoted, candidate=None if promoted else str(candidate.folder),
        previous=None if previous is None else str(previous), reasons=tuple(reasons), tolerance=settings.tolerance,
        data=tuple(one["data"] for one in given(settings)),
        old_images=index.take(np.flatnonzero(~new_N)).split_counts(),
        new_images=index.take(np.flatnonzero(new_N)).split_counts(), known=joined.known,
        comparison=replace(comparison, first=first, second=second),
        old_test=None if old_test is None else replace(old_test, first=first, second=second),
        new_classes=tuple(_new_class(index, k, test_N & after.told_N, after.right_N)
                          for k, name in enumerate(index.classes) if name not in old.classes),
        absent_classes=tuple(name for k, name in enumerate(index.classes) if name in old.classes and k not in came),
        vanished_classes=vanished, drift=_drift(before, new_N & common_N, test_N & ~new_N),
        training=replace(training, out=second), findings=index.findings, seconds=0.0)


def _verdict(comparisons: Sequence[PairedComparison], vanished: Sequence[str], tolerance: float,
             ) -> tuple[list[bool], list[str]]:
    """Whether each condition of a promotion is met, and what is to be said of it."""
    fine, reasons = [], []
    for one in comparisons:
        figure = f"{one.images}: difference {one.difference:+.1%} ({one.low:+.1%} to {one.high:+.1%})"
        worse = one.high < 0
        below = one.difference < -tolerance - _ROUNDING
        fine.append(not worse and not below)
        reasons.append(f"worse on {figure}, the whole interval lies below 0" if worse else
                       f"worse on {figure}, by more than the tolerance of {tolerance:.1%}" if below else
                       f"not worse on {figure}")
    if vanished:
        fine.append(False)
        reasons.append(f"the candidate no longer knows {', '.join(map(shown, vanished[:5]))}: no image of it is left; "
                       "`regraft train` makes a model without it")
    return fine, reasons


def _new_class(index: ImageIndex, label: int, tested_N: NDArray[np.bool_], right_N: NDArray[np.bool_]) -> NewClass:
    of_N = index.y_N == label
    return NewClass(index.classes[label], int(of_N.sum()), int((of_N & tested_N).sum()),
                    _share(right_N, of_N & tested_N))


def _share(of_N: NDArray[np.bool_] | None, among_N: NDArray[np.bool_]) -> Interval | None:
    """Which share of some images is meant, with its interval; None where there are none or nothing is known."""
    n = int(among_N.sum())
    return None if of_N is None or not n else Interval(*metrics.wilson(int((of_N & among_N).sum()), n))


def _drift(before: _Answered, new_N: NDArray[np.bool_], old_test_N: NDArray[np.bool_]) -> Drift:
    """How the old model fares on new images of its classes, beside its own test images."""
    fresh_N = before.told_N & ~before.seen_N
    new_N, old_N = new_N & fresh_N, old_test_N & fresh_N
    unknown, accuracy = ((_share(of, new_N), _share(of, old_N)) for of in (before.unknown_N, before.right_N))
    figures, found = [], []
    if unknown[0] is not None and unknown[1] is not None:
        figures.append(f"unknown to the old model are {unknown[0]!r} of the new images of its classes, {unknown[1]!r} "
                       "of the old test images")
        if unknown[0].low > unknown[1].high:
            found.append("the new images look unlike the old ones")
    if accuracy[0] is not None and accuracy[1] is not None:
        figures.append(f"it is right on {accuracy[0]!r} of the new, {accuracy[1]!r} of the old")
        if accuracy[0].high < accuracy[1].low:
            found.append("the old model does worse on the new images, or their labels are wrong")
    text = ("drift can't be told: there are no new images of old classes, or no old test images" if not figures else
            f"drift: {' and '.join(found) or 'none is shown'}; {'; '.join(figures)}")
    return Drift(unknown[0], unknown[1], accuracy[0], accuracy[1], text)


def _free(folder: Path) -> Path:
    """The folder, or the first of its name with a number that does not exist."""
    candidates = (folder, *(folder.with_name(f"{folder.name}-{i}") for i in range(2, 1000)))
    return next(one for one in candidates if not one.exists())
