"""``compare``: two models on the same images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from regraft import metrics
from regraft.errors import DataError
from regraft.model import Model, load
from regraft.progress import Progress
from regraft.records.answers import Answers
from regraft.records.base import shown
from regraft.records.pairing import PairedComparison
from regraft.records.results import Interval
from regraft.runs.answers import read_answers
from regraft.runs.evaluate import answer
from regraft.runs.gather import has_several_labels
from regraft.settings import CompareSettings, EvaluateSettings


def compare(settings: CompareSettings, progress: Progress) -> PairedComparison:
    """Run one comparison; see :func:`regraft.compare`."""
    if settings.data is None:
        kept = (_kept(model) for model in (settings.first, settings.second))
        return paired(settings.first, settings.second, *_matched(*kept),
                      "kept answers for the test images of both trainings", 0)
    one, other = (answer(_one_label(model), EvaluateSettings(
        model, settings.data, device=settings.device, store=settings.store, store_limit=settings.store_limit), progress)
        for model in (settings.first, settings.second))
    # Each model may find other files unreadable.
    _, at_one, at_other = np.intersect1d(one.features.rows, other.features.rows, return_indices=True)
    right, right_too = ((of.P_NK.argmax(1) == of.y_N)[at] for of, at in ((one, at_one), (other, at_other)))
    seen = max(of.model.seen.count(of.features.digests) for of in (one, other))
    return paired(settings.first, settings.second, right, right_too,
                  f"split {one.split} of {shown(str(settings.data))}", seen)


def _one_label(path: str | Path) -> Model:
    """The model in a folder; raises UsageError where it gives several labels an image."""
    model = load(path)
    model.require_one_label("compare")
    return model


def _kept(model: str | Path) -> Answers:
    if has_several_labels(Path(model).expanduser()):
        _one_label(model)
    answers = read_answers(model).get("test")
    if answers is None:
        raise DataError(f"{shown(str(model))} was trained without test images, so it keeps no answers to compare; give "
                        "images: regraft compare A B DATA")
    return answers


def _matched(first: Answers, second: Answers) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Whether each image was answered rightly, in the same order; raises DataError where the images differ."""
    keys = [[(path, of.classes[label]) for path, label in zip(of.paths, of.y_N.tolist(), strict=True)]
            for of in (first, second)]
    if sorted(keys[0]) != sorted(keys[1]):
        common = len(set(keys[0]) & set(keys[1]))
        raise DataError(f"the two trainings have {len(first):,} and {len(second):,} test images, {common:,} of them in "
                        "common, and a comparison needs the same; train the second with --splits and the first's "
                        "run/splits.csv, or give images: regraft compare A B DATA")
    right = []
    for of, names in zip((first, second), keys, strict=True):
        order = sorted(range(len(names)), key=names.__getitem__)
        right.append((of.P_NK.argmax(1) == of.y_N)[order])
    return right[0], right[1]


def paired(first: str | Path, second: str | Path, first_N: NDArray[np.bool_], second_N: NDArray[np.bool_], images: str,
           seen: int) -> PairedComparison:
    """The comparison of two models, by whether each answered the same N images rightly, bool [N] each.

    ``images`` says what they are, ``seen`` how many of them served for making one of the models. Raises DataError
    where there is none.
    """
    n = len(first_N)
    if not n:
        raise DataError("no image was answered by both models, so there is nothing to compare")
    both, only_first, only_second = (int(which.sum()) for which in (
        first_N & second_N, first_N & ~second_N, ~first_N & second_N))
    difference, low, high = metrics.paired_difference(both, only_first, only_second,
                                                      n - both - only_first - only_second)
    note = f"up to {seen:,} of the images served for fitting or choosing one of the models" if seen else ""
    return PairedComparison(
        str(first), str(second), n, images, Interval(*metrics.wilson(both + only_first, n)),
        Interval(*metrics.wilson(both + only_second, n)), difference, low, high, only_first, only_second,
        metrics.mcnemar(only_first, only_second), note)
