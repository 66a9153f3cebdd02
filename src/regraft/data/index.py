"""One call opens any of: class folders, split folders, a table, a named torchvision set."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np

from regraft.data import listing
from regraft.data.lists import listed_groups
from regraft.data.named import materialise
from regraft.data.table import TABLE_ENDINGS, one_name, read_table
from regraft.errors import DataError, UsageError
from regraft.records.base import shown
from regraft.records.images import NO_SPLIT, SPLITS, Finding, ImageIndex, IndexBuilder

Layout = Literal["auto", "classes", "splits"]

#: Folder names that mean a split, lower case.
SPLIT_NAMES = {
    "train": 0, "training": 0,
    "val": 1, "valid": 1, "validation": 1,
    "test": 2, "testing": 2,
}


def open_data(data: str | Path, *, layout: Layout = "auto", group: str | None = None,
              follow_links: bool = False, label_separator: str | None = None) -> ImageIndex:
    """The images of a folder, a ``.csv``, ``.tsv`` or ``.parquet`` table, or ``torchvision:NAME``.

    With a ``label_separator``, an image of a table has any number of labels; see :func:`regraft.data.table.read_table`.

    Raises
    ------
    DataError
        Nothing is there, or no class can be told.
    UsageError
        The group rule can't be understood, or several labels are to be read from what is no table.
    """
    text = str(data)
    if label_separator is not None and not text.lower().endswith(TABLE_ENDINGS):
        raise UsageError(f"{shown(text)} is no table ({', '.join(TABLE_ENDINGS)}), and several labels an image are "
                         "read from one; give a table with a path and its labels a row")
    if text.startswith("torchvision:"):
        index = _open_folder(materialise(text.removeprefix("torchvision:")), "splits", follow_links)
    else:
        path = Path(os.path.expanduser(text))  # noqa: PTH111 - Path's raises for an unknown user
        # os.path's: Path.exists raises for a name that is too long.
        if not text or not os.path.exists(path):  # noqa: PTH110
            raise DataError(f"{shown(text) or 'an empty name'} does not exist; give a folder of class folders, a "
                            "CSV table or torchvision:NAME")
        if path.is_dir():
            index = _open_folder(path, layout, follow_links)
        elif path.suffix.lower() in TABLE_ENDINGS and path.is_file():
            index = read_table(path, label_separator)
        else:
            raise DataError(f"{shown(text)} is no folder and no table ({', '.join(TABLE_ENDINGS)})")
    _refuse_conflicts(index)
    index = index.with_findings(*alike_names(index.classes))
    return index if group is None else with_groups(index, group)


def require_classes(index: ImageIndex, at_least: int = 2) -> None:
    """Raise DataError unless there are images of two or more classes."""
    if len(index.classes) < at_least:
        names = f": {', '.join(map(shown, index.classes))}" if index.classes else ""
        raise DataError(
            f"{shown(index.roots[0])} holds images of {len(index.classes)} class{names}; a classifier needs "
            f"images of at least {at_least} classes"
        )


def _open_folder(folder: Path, layout: Layout, follow_links: bool) -> ImageIndex:
    seen = listing.Seen()
    root = folder.resolve()
    names = listing.subfolders(root, root, seen, follow_links)
    in_root = listing.direct_pictures(root, seen)
    unused: list[str] = []
    split_of = {name: SPLIT_NAMES[name.lower()] for name in names if name.lower() in SPLIT_NAMES}
    if layout == "auto":
        layout = _guess_layout(folder, names, split_of)
    builder = IndexBuilder([str(root)])
    empty: list[str] = []
    if layout == "splits":
        if not split_of:
            raise DataError(f"{shown(str(folder))} has no split folders (train, val, test); leave --layout away "
                            "or say --layout classes")
        unused = [name for name in names if name not in split_of]
        for name, split in split_of.items():
            for label in listing.subfolders(root / name, root, seen, follow_links):
                _add_class(builder, root, f"{name}/{label}", label, split, seen, follow_links, empty)
            in_root += [f"{name}/{file}" for file in listing.direct_pictures(root / name, seen)]
    else:
        for label in names:
            _add_class(builder, root, label, label, NO_SPLIT, seen, follow_links, empty)
    if not len(builder):
        what = (f"{len(in_root)} images lie in it, but in no class folder; make one folder a class"
                if in_root else "no class folder with images in it was found")
        raise DataError(f"{shown(str(folder))}: {what}")
    return builder.build([*seen.findings(), *_folder_findings(in_root, empty, unused)])


def _guess_layout(folder: Path, names: Sequence[str], split_of: dict[str, int]) -> Layout:
    others = [name for name in names if name not in split_of]
    if not split_of or (others and 0 not in split_of.values()):
        return "classes"  # A lone folder 'test' among others is a class; --layout splits says otherwise.
    if others:
        raise DataError(
            f"{shown(str(folder))} holds split folders ({', '.join(map(shown, split_of))}) and others "
            f"({', '.join(map(shown, others[:5]))}); move the others away, or say --layout classes or "
            "--layout splits"
        )
    return "splits"


def _add_class(builder: IndexBuilder, root: Path, folder: str, label: str, split: int, seen: listing.Seen,
               follow_links: bool, empty: list[str]) -> None:
    name = one_name(label)
    before = len(builder)
    for path in listing.pictures(root / folder, root, seen, follow_links):
        builder.add(f"{folder}/{path}", (name,), split)
    if len(builder) == before:
        empty.append(folder)


def _folder_findings(in_root: Sequence[str], empty: Sequence[str], unused: Sequence[str]) -> Iterable[Finding]:
    if in_root:
        yield Finding("outside_classes", len(in_root),
                      f"{len(in_root):,} images lie in no class folder and are not used", tuple(in_root[:5]))
    if empty:
        names = ", ".join(map(shown, empty[:5]))
        yield Finding("empty_classes", len(empty), f"{len(empty):,} folders hold no images and are no class "
                      f"here: {names}", tuple(empty[:5]))
    if unused:
        names = ", ".join(map(shown, unused[:5]))
        yield Finding("unused_folders", len(unused), f"{len(unused):,} folders are no split and are not used: "
                      f"{names}", tuple(unused[:5]))


def alike_names(classes: Sequence[str]) -> list[Finding]:
    """Class names that differ only by case or surrounding space."""
    alike: dict[str, list[str]] = {}
    for name in classes:
        alike.setdefault(name.strip().casefold(), []).append(name)
    return [
        Finding("alike_names", len(names), f"classes {' and '.join(repr(n) for n in names)} differ only "
                "by case or spaces; they are kept apart", tuple(names))
        for names in alike.values() if len(names) > 1
    ]


def _refuse_conflicts(index: ImageIndex) -> None:
    """A path may stand in a table once: twice would leak over splits or contradict itself."""
    keys = zip(index.root_ids, index.paths, strict=True)
    digests = np.fromiter((hash((int(root), path)) for root, path in keys), np.int64, len(index))
    _, first, counts = np.unique(digests, return_index=True, return_counts=True)
    if (counts > 1).any():
        row = int(first[counts > 1].min())
        raise DataError(f"{shown(index.paths[row])} is listed more than once ({(counts > 1).sum():,} such "
                        "paths); leave one row an image")


def with_groups(index: ImageIndex, group: str) -> ImageIndex:
    """The images with the groups that a rule names: a column, ``parent``, a regular expression or a CSV file."""
    if group in index.columns:
        keys: list[str] = list(index.columns[group])
    elif group == "parent":
        keys = [f"{index.roots[root]}/{path.rpartition('/')[0]}"
                for root, path in zip(index.root_ids, index.paths, strict=True)]
    elif group.lower().endswith(".csv"):
        keys = listed_groups(index, Path(group).expanduser())
    else:
        keys = _groups_by_pattern(index, group)
    # An image without a group is a group of its own.
    numbers: dict[str, int] = {}
    ids = np.fromiter((numbers.setdefault(key or f"\0{row}", len(numbers)) for row, key in enumerate(keys)),
                      np.int32, len(keys))
    alone = sum(not key for key in keys)
    found = [Finding("groups", len(numbers), f"{len(numbers):,} groups by --group {shown(group)}")]
    if alone:
        found.append(Finding("ungrouped", alone, f"{alone:,} images have no group and count as one each"))
    grouped = replace(index, groups=ids)
    return grouped.with_findings(*found, *_torn_groups(grouped))


def _groups_by_pattern(index: ImageIndex, pattern: str) -> list[str]:
    columns = ", ".join(index.columns) or "none"
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise UsageError(f"group: {pattern!r} is no column ({columns}), not 'parent', and no regular "
                         f"expression ({error})") from None
    matches = [compiled.search(path) for path in index.paths]
    if not any(matches):
        raise UsageError(f"group: {pattern!r} is no column ({columns}) and matches no path, such as "
                         f"{index.paths[0]!r}")
    return [(m.group(1) if compiled.groups else m.group()) or "" if m else "" for m in matches]


def _torn_groups(index: ImageIndex) -> list[Finding]:
    """Groups that the given splits put on more than one side."""
    assert index.groups is not None
    sides = {(int(g), int(s)) for g, s in zip(index.groups, index.splits, strict=True) if s != NO_SPLIT}
    counts = np.bincount([g for g, _ in sides]) if sides else np.zeros(1, np.int64)
    torn = int((counts > 1).sum())
    if not torn:
        return []
    return [Finding("torn_groups", torn, f"{torn:,} groups lie in more than one of the given splits: figures on "
                    f"{' and '.join(SPLITS[1:])} will look better than they are")]


def join(first: ImageIndex, second: ImageIndex, split: int | None = None) -> ImageIndex:
    """The first index and all images of the second, in one given split or in their own; classes by name.

    Groups are told of the joined images, afterwards.
    """
    shift = len(first.roots)
    if shift + len(second.roots) > np.iinfo(np.uint8).max:
        raise DataError("too many data roots")
    builder = IndexBuilder([*first.roots, *second.roots], tuple(first.columns))
    for row in range(len(first)):
        builder.add(first.paths[row], first.labels(row), int(first.splits[row]), int(first.root_ids[row]),
                    [column[row] for column in first.columns.values()])
    for row in range(len(second)):
        columns = [second.columns[name][row] if name in second.columns else "" for name in first.columns]
        builder.add(second.paths[row], second.labels(row), int(second.splits[row]) if split is None else split,
                    int(second.root_ids[row]) + shift, columns)
    return builder.build([*first.findings, *second.findings])
