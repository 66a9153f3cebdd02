"""New images beside those of an earlier training: who is new, and on which side of the splits they belong."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from regraft.data.copies import file_digest, file_size, numbered
from regraft.data.splits import TEST, TRAIN, VALIDATION
from regraft.errors import DataError
from regraft.records.base import shown
from regraft.records.images import NO_SPLIT, Finding, ImageIndex


def taken_up(index: ImageIndex, listed: Mapping[tuple[str, str], int], table: Path) -> ImageIndex:
    """The images that a run's ``splits.csv`` lists (root number and path), in its splits.

    Raises DataError where none of them is there; those that are gone are told.
    """
    keys = [(str(int(root)), path) for root, path in zip(index.root_ids, index.paths, strict=True)]
    rows = np.array([row for row, key in enumerate(keys) if key in listed], np.int64)
    if not len(rows):
        raise DataError(f"none of the {len(listed):,} images of {shown(str(table))} is in {shown(index.roots[0])}; say "
                        "where they are with --originals DATA")
    there = index.take(rows).with_splits(np.array([listed[keys[row]] for row in rows], np.int8))
    gone = sorted(set(listed) - {keys[row] for row in rows})
    if gone:
        there = there.with_findings(Finding(
            "missing_files", len(gone), f"{len(gone):,} images of the old training are gone, such as "
            f"{shown(gone[0][1])}", tuple(path for _, path in gone[:5])))
    return there


def strangers(index: ImageIndex, known: set[str]) -> NDArray[np.int64]:
    """The rows of files that are not among the ``known`` places; of a file that is there twice, the first."""
    rows, seen = [], set(known)
    for row in range(len(index)):
        place = where(index, row)
        if place not in seen:
            seen.add(place)
            rows.append(row)
    return np.array(rows, np.int64)


def where(index: ImageIndex, row: int) -> str:
    """The place of an image, by which it is known again."""
    return os.path.normpath(index.place(row))


def contents(index: ImageIndex, new_N: NDArray[np.bool_]) -> list[bytes]:
    """SHA-256 of each file: of all new ones, and of old ones that are as long as one of them; of others their place."""
    lengths = {file_size(index.place(int(row))) for row in np.flatnonzero(new_N)}
    return [file_digest(index, row) if new_N[row] or file_size(place) in lengths else where(index, row).encode(
        "utf-8", "surrogateescape") for row, place in enumerate(index.places())]


def with_sides(index: ImageIndex, new_N: NDArray[np.bool_], contents_N: Sequence[bytes], test_share: float,
               validation_share: float | None, seed: int) -> ImageIndex:
    """The images with a split for each new one; the old ones (bool [N] says which are new) stay where they are.

    Copies of a file and images of a group belong together. Where one of them is old or has a split of its own, the
    others follow, to where is learned from rather than to where is measured. Else a hash of the content and the seed
    decides, so the same picture falls on the same side whatever comes with it. A class that is new as a whole keeps at
    least one picture to learn from, and one to test on where it has two. ``validation_share`` is None where no image
    is held out for choosing.
    """
    together_N = _together(index, contents_N)
    splits_N = index.splits.copy()
    sides = _settled(splits_N, together_N, new_N)
    draws: dict[int, tuple[float, float]] = {}
    for row in np.flatnonzero(new_N).tolist():
        part = int(together_N[row])
        if part not in sides:
            draws[part] = min(draws.get(part, (2.0, 2.0)), _draw(contents_N[row], seed))
    for part, (test, validation) in draws.items():
        held = validation_share is not None and validation < validation_share
        sides[part] = TEST if test < test_share else VALIDATION if held else TRAIN
    if test_share:
        _serve_new_classes(index, new_N, together_N, sides, draws)
    found = splits_N.copy()
    found[new_N] = [sides[part] for part in together_N[new_N].tolist()]
    moved = new_N & (splits_N != NO_SPLIT) & (found != splits_N)
    index = index.with_splits(found)
    if not moved.any():
        return index
    rows = np.flatnonzero(moved)
    return index.with_findings(Finding(
        "other_side", len(rows), f"{len(rows):,} new images are not in the split that their folder or table gives: a "
        "copy of them, or their group, is in another", tuple(index.paths[int(row)] for row in rows[:5])))


def copy_findings(index: ImageIndex, new_N: NDArray[np.bool_], contents_N: Sequence[bytes]) -> list[Finding]:
    """How many new images are copies of old ones, and how many of these have another label."""
    old = {contents_N[row]: row for row in np.flatnonzero(~new_N).tolist()}
    pairs = [(row, old[contents_N[row]]) for row in np.flatnonzero(new_N).tolist() if contents_N[row] in old]
    torn = [row for row, other in pairs if index.labels(row) != index.labels(other)]
    found = []
    if pairs:
        found.append(Finding("copies", len(pairs), f"{len(pairs):,} new images are copies of old ones; each is on the "
                             "side of its copy", tuple(index.paths[row] for row, _ in pairs[:5])))
    if torn:
        found.append(Finding("copies_of_other_classes", len(torn), f"{len(torn):,} new images are copies of old ones "
                             f"of another class, such as {shown(index.paths[torn[0]])}",
                             tuple(index.paths[row] for row in torn[:5])))
    return found


def _together(index: ImageIndex, contents_N: Sequence[bytes]) -> NDArray[np.int32]:
    """A number for each image, int32 [N]: the same where copies and groups, through each other too, link them."""
    n = len(index)
    kinds = [ids for ids in (numbered(contents_N), index.groups) if ids is not None]
    if not kinds:
        return np.arange(n, dtype=np.int32)
    starts = n + np.concatenate([[0], np.cumsum([int(ids.max()) + 1 for ids in kinds])])
    ends = np.concatenate([ids + start for ids, start in zip(kinds, starts, strict=False)])
    rows = np.tile(np.arange(n), len(kinds))
    links = coo_array((np.ones(len(ends), np.int8), (rows, ends)), shape=(int(starts[-1]), int(starts[-1])))
    parts: NDArray[np.int32] = connected_components(links, directed=False)[1][:n]
    return parts


def _settled(splits_N: NDArray[np.int8], together_N: NDArray[np.int32], new_N: NDArray[np.bool_]) -> dict[int, int]:
    """The side of every part that has one already: that of its old images, else the one that its data gives."""
    sides: dict[int, int] = {}
    for which in (~new_N, new_N & (splits_N != NO_SPLIT)):
        found: dict[int, int] = {}
        for part, split in zip(together_N[which].tolist(), splits_N[which].tolist(), strict=True):
            found[part] = min(found.get(part, split), split)
        sides = found | sides
    return sides


def _draw(content: bytes, seed: int) -> tuple[float, float]:
    """Two numbers from 0 to 1 that the content and the seed alone decide."""
    digest = hashlib.sha256(f"{seed}:".encode() + content).digest()
    first, second = (int.from_bytes(part) / 2**64 for part in (digest[:8], digest[8:16]))
    return first, second


def _serve_new_classes(index: ImageIndex, new_N: NDArray[np.bool_], together_N: NDArray[np.int32],
                       sides: dict[int, int], draws: Mapping[int, tuple[float, float]]) -> None:
    """Give each class without old images something to learn from, and to test on where there is enough."""
    old = set(index.y_N[~new_N].tolist())
    for label in sorted(set(range(len(index.classes))) - old):
        parts = list(dict.fromkeys(together_N[index.y_N == label].tolist()))
        free = sorted((part for part in parts if part in draws), key=lambda part: draws[part])
        if free and all(sides[part] != TRAIN for part in parts):
            sides[free.pop()] = TRAIN
        learned = [part for part in parts if sides[part] == TRAIN]
        if free and all(sides[part] != TEST for part in parts) and learned != [free[0]]:
            sides[free[0]] = TEST
