"""Who is held out: stratified by class, seeded, whole groups on one side, no class lost from training."""

from __future__ import annotations

import csv
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from regraft.errors import DataError
from regraft.records.base import shown
from regraft.records.images import NO_SPLIT, SPLITS, Finding, ImageIndex

TRAIN, VALIDATION, TEST = range(3)


def holdout(y_N: NDArray[np.int32], groups_N: NDArray[np.int32] | None, share: float, seed: int) -> NDArray[np.bool_]:
    """Which images to hold out, bool [N].

    Of each class ``round(share x n)``, but never its last image (or group), which stays in training. With
    groups, these are taken in random order as long as they bring every class closer to its share.
    """
    rng = np.random.default_rng(seed)
    counts = np.bincount(y_N)
    wanted = np.minimum(np.floor(share * counts + 0.5), np.maximum(counts - 1, 0)).astype(np.int64)
    held = np.zeros(len(y_N), bool)
    if groups_N is None:
        for label, number in enumerate(wanted):
            held[rng.permutation(np.flatnonzero(y_N == label))[:number]] = True
        return held
    taken, left = np.zeros_like(counts), counts.copy()
    members = _members(groups_N)
    for group in rng.permutation(len(members)):
        rows = members[group]
        adds = np.bincount(y_N[rows], minlength=len(counts))
        closer = np.abs(taken + adds - wanted).sum() < np.abs(taken - wanted).sum()
        if closer and (left - adds > 0)[adds > 0].all():
            held[rows] = True
            taken, left = taken + adds, left - adds
    return held


def folds(y_N: NDArray[np.int32], groups_N: NDArray[np.int32] | None, number: int, seed: int) -> NDArray[np.int8]:
    """The fold in which each image is held out, int8 [N]; -1 where it never is.

    An image (or group) that is the only one of its class stays in training in every fold.
    """
    groups = np.arange(len(y_N)) if groups_N is None else groups_N
    pairs = np.unique(np.stack([y_N, groups], 1), axis=0)
    groups_of_class = np.bincount(pairs[:, 0])
    pinned = np.isin(groups, pairs[groups_of_class[pairs[:, 0]] < 2, 1])
    assigned = np.full(len(y_N), -1, np.int8)
    free = np.flatnonzero(~pinned)
    if groups_N is None:
        assigned[free] = _stratified(y_N[free], number, np.random.default_rng(seed))
    elif len(free):
        from sklearn.model_selection import StratifiedGroupKFold

        splitter = StratifiedGroupKFold(number, shuffle=True, random_state=seed)
        with warnings.catch_warnings():
            # Classes with fewer groups than folds are held out in some folds only, which is what we want.
            warnings.simplefilter("ignore", UserWarning)
            try:
                for fold, (_, rows) in enumerate(splitter.split(free, y_N[free], groups[free])):
                    assigned[free[rows]] = fold
            except ValueError as error:
                raise DataError(f"the groups can't be dealt into {number} folds: {error}") from None
    return assigned


def _stratified(y_N: NDArray[np.int32], number: int, rng: np.random.Generator) -> NDArray[np.int8]:
    """Deal each class out in random order, going on in the fold where the class before it ended."""
    order = rng.permutation(len(y_N))
    order = order[np.argsort(y_N[order], kind="stable")]
    dealt = np.empty(len(y_N), np.int8)
    dealt[order] = np.arange(len(y_N)) % number
    return dealt


def _members(groups_N: NDArray[np.int32]) -> list[NDArray[np.int64]]:
    order = np.argsort(groups_N, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(groups_N[order])) + 1)


def limited(index: ImageIndex, limit: int, seed: int) -> ImageIndex:
    """At most ``limit`` images of each class in each split, seeded."""
    rng = np.random.default_rng(seed)
    keep: list[NDArray[np.int64]] = []
    for split in np.unique(index.splits):
        for label in range(len(index.classes)):
            rows = np.flatnonzero((index.splits == split) & (index.y_N == label))
            keep.append(rng.permutation(rows)[:limit])
    rows = np.sort(np.concatenate(keep))
    return index.take(rows).with_findings(
        Finding("limited", len(rows), f"{len(rows):,} of {len(index):,} images are used (--limit {limit})"))


def complete(index: ImageIndex, *, validation_share: float | None, test_share: float | None, seed: int) -> ImageIndex:
    """The images with every split there: what the data lacks is taken from its training part.

    A share of None leaves that split empty. Images without a split belong to training.
    """
    splits = np.where(index.splits == NO_SPLIT, TRAIN, index.splits).astype(np.int8)
    for split, share in ((TEST, test_share), (VALIDATION, validation_share)):
        if share is None or (splits == split).any():
            continue
        rows = np.flatnonzero(splits == TRAIN)
        groups = None if index.groups is None else index.groups[rows]
        splits[rows[holdout(index.y_N[rows], groups, share, seed + split)]] = split
    return index.with_splits(splits)


def check_classes(index: ImageIndex) -> Iterator[Finding]:
    """Raise DataError for a class that can't be learned; tell which classes a split does not measure."""
    counts = {name: index.class_counts(index.rows(name)) for name in SPLITS}
    unlearned = [index.classes[k] for k in np.flatnonzero(counts["train"] + counts["validation"] == 0)]
    if unlearned:
        raise DataError(
            f"{_names(unlearned)} {'has' if len(unlearned) == 1 else 'have'} images in test but none to learn from; "
            "add some, or take the class away"
        )
    only_validation = [index.classes[k] for k in np.flatnonzero(counts["train"] == 0)]
    if only_validation:
        raise DataError(f"{_names(only_validation)} has images in validation but none in training; add some, or take "
                        "the class away")
    for name in SPLITS[1:]:
        missing = [index.classes[k] for k in np.flatnonzero(counts[name] == 0)]
        if missing and len(missing) < len(index.classes):
            yield Finding("missing_classes", len(missing), f"{len(missing):,} classes have no image in {name}; its "
                          f"figures say nothing about them: {_names(missing)}", tuple(missing[:5]))


def _names(names: list[str]) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(repr(shown(name)) for name in names[:5]) + more


_COLUMNS = ("root", "path", "label", "split", "group")


def write_splits(index: ImageIndex, file: Path) -> None:
    """Write ``splits.csv``: root number, path, label, split and group of every image."""
    with file.open("w", newline="", encoding="utf-8", errors="surrogateescape") as handle:
        writer = csv.writer(handle)
        writer.writerow(_COLUMNS)
        for row in range(len(index)):
            group = "" if index.groups is None else int(index.groups[row])
            split = "" if index.splits[row] == NO_SPLIT else SPLITS[index.splits[row]]
            writer.writerow([int(index.root_ids[row]), index.paths[row], ";".join(index.labels(row)), split, group])


def apply_splits(index: ImageIndex, file: Path) -> ImageIndex:
    """The images in the splits that a ``splits.csv`` gives them; raises DataError where the two do not agree."""
    try:
        with file.open(newline="", encoding="utf-8", errors="surrogateescape") as handle:
            rows = csv.DictReader(handle)
            missing = [name for name in ("path", "split") if name not in (rows.fieldnames or ())]
            if missing:
                raise DataError(f"{file.name} lacks the columns {', '.join(missing)}; a run writes it as splits.csv")
            given = {(row.get("root") or "0", row["path"]): row["split"] for row in rows}
    except OSError as error:
        raise DataError(f"{file} can't be read ({error.strerror})") from None
    wrong = sorted(set(given.values()) - {*SPLITS, ""})
    if wrong:
        raise DataError(f"{file.name}: {', '.join(map(shown, wrong))} is no split; {', '.join(SPLITS)} are")
    numbers = {name: i for i, name in enumerate(SPLITS)} | {"": NO_SPLIT}
    keys = [(str(int(root)), path) for root, path in zip(index.root_ids, index.paths, strict=True)]
    unlisted = [path for key, path in zip(keys, index.paths, strict=True) if key not in given]
    if unlisted:
        raise DataError(f"{len(unlisted):,} images do not stand in {file.name}, such as {shown(unlisted[0])}")
    found = [Finding("missing_files", len(given) - len(keys), f"{len(given) - len(keys):,} rows of {file.name} name no "
                     "image of the data")] if len(given) > len(keys) else []
    return index.with_splits(np.array([numbers[given[key]] for key in keys], np.int8)).with_findings(*found)
