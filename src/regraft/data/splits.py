"""Who is held out: stratified by class, seeded, whole groups on one side, no class lost from training."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from itertools import repeat
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from regraft.data import label_splits
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

    An image (or group) that is the only one of its class stays in training in every fold; so does one group of
    a class whose groups would all be held out in the same fold.
    """
    rng = np.random.default_rng(seed)
    if groups_N is None:
        assigned = np.full(len(y_N), -1, np.int8)
        free = np.flatnonzero(np.bincount(y_N)[y_N] > 1)
        assigned[free] = _stratified(y_N[free], number, rng)
        return assigned
    members = _members(groups_N)
    dealt_G = _deal_groups(y_N, members, number, rng)
    group_N = np.empty(len(y_N), np.int64)
    for group, rows in enumerate(members):
        group_N[rows] = group
    pairs = np.unique(np.stack([y_N, group_N], 1), axis=0)
    for holding in np.split(pairs[:, 1], np.flatnonzero(np.diff(pairs[:, 0])) + 1):
        where = set(dealt_G[holding].tolist())
        if len(where) == 1 and -1 not in where:
            dealt_G[min(holding, key=lambda group: len(members[group]))] = -1
    return dealt_G[group_N]


def _deal_groups(y_N: NDArray[np.int32], members: list[NDArray[np.int64]], number: int,
                 rng: np.random.Generator) -> NDArray[np.int8]:
    """The fold of each group, int8 [G]: large ones first, each to where its classes are rarest so far.

    Rare is meant as a share of the class; among equals the smallest fold is taken.
    """
    totals_K = np.maximum(np.bincount(y_N), 1)
    order = rng.permutation(len(members))
    order = order[np.argsort([-len(members[group]) for group in order], kind="stable")]
    held_FK = np.zeros((number, len(totals_K)))
    dealt_G = np.empty(len(members), np.int8)
    for group in order:
        adds_K = np.bincount(y_N[members[group]], minlength=len(totals_K))
        crowding_F = held_FK @ (adds_K / totals_K**2)
        fold = np.lexsort([held_FK.sum(1), crowding_F])[0]
        held_FK[fold] += adds_K
        dealt_G[group] = fold
    return dealt_G


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
    parts = index.splits.astype(np.int64) * len(index.classes) + index.y_N
    keep = [rng.permutation(np.flatnonzero(parts == part))[:limit] for part in np.unique(parts)]
    rows = np.sort(np.concatenate(keep))
    return index.take(rows).with_findings(
        Finding("limited", len(rows), f"{len(rows):,} of {len(index):,} images are used (--limit {limit})"))


def complete(index: ImageIndex, *, validation_share: float | None, test_share: float | None, seed: int,
             copies_N: NDArray[np.int32] | None = None) -> ImageIndex:
    """The images with every split there: what the data lacks is taken from its training part.

    A share of None leaves that split empty. Images without a split belong to training. ``copies_N`` numbers the
    pictures, int32 [N]: copies of one stay in training together where not all of them would be held out.
    """
    splits = np.where(index.splits == NO_SPLIT, TRAIN, index.splits).astype(np.int8)
    for split, share in ((TEST, test_share), (VALIDATION, validation_share)):
        if share is None or (splits == split).any():
            continue
        rows = np.flatnonzero(splits == TRAIN)
        groups = None if index.groups is None else index.groups[rows]
        copies = None if copies_N is None else copies_N[rows]
        if index.one_label:
            held = holdout(index.y_N[rows], groups, share, seed + split)
            if copies is not None:
                held &= ~_torn(held, copies)
        else:
            held = label_splits.holdout(index.Y_NK[rows], copies if groups is None else groups, share, seed + split)
        splits[rows[held]] = split
    return index.with_splits(splits)


def _torn(held_N: NDArray[np.bool_], copies_N: NDArray[np.int32]) -> NDArray[np.bool_]:
    """The images of pictures of which some copies are held out and some are not, bool [N]."""
    held, total = np.bincount(copies_N[held_N], minlength=copies_N.max() + 1), np.bincount(copies_N)
    torn: NDArray[np.bool_] = ((held > 0) & (held < total))[copies_N]
    return torn


def check_classes(index: ImageIndex) -> Iterator[Finding]:
    """Raise DataError for a class that can't be learned; tell which classes a split does not measure."""
    counts = {name: index.class_counts(index.rows(name)) for name in SPLITS}
    unlearned = counts["train"] == 0
    for where in ("validation", "test"):
        names = [index.classes[k] for k in np.flatnonzero(unlearned & (counts[where] > 0))]
        if names:
            raise DataError(f"{_names(names)} {_have(names)} images in {where} but none to learn from; "
                            "add some, or take the class away")
    if unlearned.any():
        names = [index.classes[k] for k in np.flatnonzero(unlearned)]
        raise DataError(f"{_names(names)} {_have(names)} no images that can be read; add some, or take the class away")
    for name in SPLITS[1:]:
        missing = [index.classes[k] for k in np.flatnonzero(counts[name] == 0)]
        if missing and len(missing) < len(index.classes):
            yield Finding("missing_classes", len(missing), f"{len(missing):,} classes have no image in {name}; its "
                          f"figures say nothing about them: {_names(missing)}", tuple(missing[:5]))


def _have(names: list[str]) -> str:
    return "has" if len(names) == 1 else "have"


def _names(names: list[str]) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(repr(name) for name in names[:5]) + more


_COLUMNS = ("root", "path", "label", "split", "group")


def write_splits(index: ImageIndex, file: Path) -> None:
    """Write ``splits.csv``: root number, path, label, split and group of every image."""
    with file.open("w", newline="", encoding="utf-8", errors="surrogateescape") as handle:
        writer = csv.writer(handle)
        writer.writerow(_COLUMNS)
        names = {NO_SPLIT: "", **dict(enumerate(SPLITS))}
        splits = (names[split] for split in index.splits.tolist())
        labels = ((index.classes[label] for label in index.label_ids.tolist()) if index.one_label else
                  (";".join(index.labels(row)) for row in range(len(index))))
        groups = repeat("", len(index)) if index.groups is None else index.groups.tolist()
        writer.writerows(zip(index.root_ids.tolist(), index.paths, labels, splits, groups, strict=True))


def apply_splits(index: ImageIndex, file: Path) -> ImageIndex:
    """The images in the splits that a ``splits.csv`` gives them; raises DataError where the two do not agree."""
    given = read_splits(file)
    keys = [(str(int(root)), path) for root, path in zip(index.root_ids, index.paths, strict=True)]
    unlisted = [path for root, path in keys if (root, path) not in given]
    if unlisted:
        raise DataError(f"{len(unlisted):,} images do not stand in {file.name}, such as {shown(unlisted[0])}; add "
                        "them to it, or give the data it was written for")
    splits_N = np.array([given[key] for key in keys], np.int8)
    unknown = len(given) - len(keys)
    found = [Finding("missing_files", unknown, f"{unknown:,} rows of {file.name} name no image of the data")]
    return index.with_splits(splits_N).with_findings(*(found if unknown else ()))


def read_labels(file: Path) -> dict[tuple[str, str], str]:
    """The label of each root number and path of a table that :func:`read_splits` has read; none where it has none."""
    with file.open(newline="", encoding="utf-8-sig", errors="surrogateescape") as handle:
        return {(row.get("root") or "0", row["path"]): row["label"]
                for row in csv.DictReader(handle) if row.get("label")}


def read_splits(file: Path) -> dict[tuple[str, str], int]:
    """The split (index into SPLITS, or NO_SPLIT) of each root number and path; raises DataError."""
    numbers = {name: i for i, name in enumerate(SPLITS)} | {"": NO_SPLIT}
    given: dict[tuple[str, str], int] = {}
    try:
        with file.open(newline="", encoding="utf-8-sig", errors="surrogateescape") as handle:
            rows = csv.DictReader(handle)
            missing = [name for name in ("path", "split") if name not in (rows.fieldnames or ())]
            if missing:
                raise DataError(f"{file.name} lacks the columns {', '.join(missing)}; a run writes it as splits.csv")
            for row in rows:
                where = f"{file.name}, line {rows.line_num}"
                if row["split"] not in numbers:
                    raise DataError(f"{where}: {(row['split'] or '')!r} is no split; {', '.join(SPLITS)} or empty "
                                    "is allowed")
                key, split = (row.get("root") or "0", row["path"]), numbers[row["split"]]
                if given.setdefault(key, split) != split:
                    raise DataError(f"{where}: {shown(row['path'])} is in another split already; leave one row")
    except csv.Error as error:
        raise DataError(f"{file.name} is no readable table ({error}); a run writes it as splits.csv") from None
    except OSError as error:
        raise DataError(f"{shown(str(file))} can't be read ({error.strerror})") from None
    return given
