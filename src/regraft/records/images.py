"""The image index: which files, which labels, which split, which group. Columns, not objects."""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from regraft.errors import DataError, UnknownNameError
from regraft.records.base import Record, shown
from regraft.records.texts import GrowingTexts, Texts

SPLITS = ("train", "validation", "test")
NO_SPLIT = -1


@dataclass(frozen=True, repr=False)
class Finding(Record):
    """Something seen while opening data that the user should know: what, how often, a few examples."""

    kind: str
    count: int
    text: str
    examples: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return self.text


@dataclass(frozen=True, repr=False)
class Quarantined(Record):
    """One file that could not be read, and why."""

    path: str
    reason: str

    def __repr__(self) -> str:
        return f"{shown(self.path)}: {self.reason}"


@dataclass(frozen=True, repr=False)
class ImageIndex:
    """N images in columns.

    Attributes
    ----------
    roots:
        Absolute folders; ``paths`` are relative to them.
    classes:
        Class names, K of them, in stable order.
    paths:
        N paths with forward slashes, relative to their root.
    root_ids:
        Which root, uint8 [N].
    label_offsets, label_ids:
        Labels as compressed rows: image i has classes ``label_ids[label_offsets[i]:label_offsets[i + 1]]``
        (int64 [N + 1], int32 [L]). One label an image is the usual case, several are representable.
    splits:
        Index into ``SPLITS``, or ``NO_SPLIT`` where none is given; int8 [N].
    columns:
        Further columns of a table, N texts each.
    groups:
        Group number of each image, int32 [N], or None where nothing is grouped.
    findings:
        What was seen while opening.
    """

    roots: tuple[str, ...]
    classes: tuple[str, ...]
    paths: Texts
    root_ids: NDArray[np.uint8]
    label_offsets: NDArray[np.int64]
    label_ids: NDArray[np.int32]
    splits: NDArray[np.int8]
    columns: Mapping[str, Texts] = field(default_factory=dict)
    groups: NDArray[np.int32] | None = None
    findings: tuple[Finding, ...] = ()

    def __post_init__(self) -> None:
        n = len(self.paths)
        lengths = {
            "root_ids": len(self.root_ids), "splits": len(self.splits),
            "label_offsets": len(self.label_offsets) - 1,
            **{f"column {name!r}": len(column) for name, column in self.columns.items()},
        }
        if self.groups is not None:
            lengths["groups"] = len(self.groups)
        wrong = {name: length for name, length in lengths.items() if length != n}
        if wrong:
            raise DataError(f"an index of {n} paths can't have columns of other lengths: {wrong}")
        if len(self.label_ids) and not 0 <= self.label_ids.min() <= self.label_ids.max() < len(self.classes):
            raise DataError(f"labels must lie in 0..{len(self.classes) - 1}")
        if self.label_offsets[0] != 0 or self.label_offsets[-1] != len(self.label_ids):
            raise DataError(f"label_offsets must lead from 0 to the number of labels, {len(self.label_ids)}")
        if n and not NO_SPLIT <= self.splits.min() <= self.splits.max() < len(SPLITS):
            raise DataError(f"splits must lie in {NO_SPLIT}..{len(SPLITS) - 1}")
        if n and self.root_ids.max() >= len(self.roots):
            raise DataError(f"root_ids must lie in 0..{len(self.roots) - 1}")

    def __len__(self) -> int:
        return len(self.paths)

    def __repr__(self) -> str:
        splits = ", ".join(f"{name} {count:,}" for name, count in self.split_counts().items() if count)
        return f"{len(self):,} images of {len(self.classes)} classes" + (f" ({splits})" if splits else "")

    def file(self, row: int) -> Path:
        """Absolute path of one image."""
        return Path(self.place(row))

    def place(self, row: int) -> str:
        """Absolute path of one image as text: a Path for each of a million takes seconds."""
        return os.path.join(self.roots[self.root_ids[row]], self.paths[row])  # noqa: PTH118

    def places(self) -> Iterator[str]:
        """Absolute paths of all images as text, in order; faster than one by one."""
        roots = map(self.roots.__getitem__, self.root_ids.tolist())
        return map(os.path.join, roots, self.paths)

    def labels(self, row: int) -> tuple[str, ...]:
        """Class names of one image."""
        start, end = self.label_offsets[row], self.label_offsets[row + 1]
        return tuple(self.classes[i] for i in self.label_ids[start:end])

    @property
    def y_N(self) -> NDArray[np.int32]:
        """The one label of each image, int32 [N]; raises DataError where an image has none or several."""
        counts = np.diff(self.label_offsets)
        if (counts != 1).any():
            row = int(np.flatnonzero(counts != 1)[0])
            raise DataError(
                f"{shown(self.paths[row])} has {counts[row]} labels; here every image needs one"
            )
        return self.label_ids

    @property
    def one_label(self) -> bool:
        """Whether every image has exactly one label."""
        return bool((np.diff(self.label_offsets) == 1).all())

    @property
    def Y_NK(self) -> NDArray[np.bool_]:
        """Which classes each image has, any number of them: bool [N, K]."""
        Y_NK = np.zeros((len(self), len(self.classes)), np.bool_)
        Y_NK[np.repeat(np.arange(len(self)), np.diff(self.label_offsets)), self.label_ids] = True
        return Y_NK

    def rows(self, split: str) -> NDArray[np.int64]:
        """Row numbers of one split."""
        if split not in SPLITS:
            raise UnknownNameError("split", split, SPLITS, f"there are {', '.join(SPLITS)}")
        return np.flatnonzero(self.splits == SPLITS.index(split))

    def split_counts(self) -> dict[str, int]:
        """Images in each split."""
        return {name: int((self.splits == i).sum()) for i, name in enumerate(SPLITS)}

    def class_counts(self, rows: NDArray[np.int64] | None = None) -> NDArray[np.int64]:
        """Images of each class, int64 [K], of all rows or the given ones."""
        labels = self.label_ids if rows is None else self._labels_of(rows)[1]
        return np.bincount(labels, minlength=len(self.classes))

    def take(self, rows: NDArray[np.int64]) -> Self:
        """The index of the given rows, in that order."""
        offsets, ids = self._labels_of(rows)
        return replace(
            self,
            paths=self.paths.take(rows), root_ids=self.root_ids[rows], label_offsets=offsets,
            label_ids=ids, splits=self.splits[rows],
            columns={name: column.take(rows) for name, column in self.columns.items()},
            groups=None if self.groups is None else self.groups[rows],
        )

    def _labels_of(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        """``label_offsets`` and ``label_ids`` of the given rows."""
        starts, ends = self.label_offsets[:-1][rows], self.label_offsets[1:][rows]
        lengths = ends - starts
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        ids = np.repeat(starts - offsets[:-1], lengths) + np.arange(offsets[-1])
        return offsets, self.label_ids[ids]

    def with_splits(self, splits: NDArray[np.int8]) -> Self:
        """The same images in other splits."""
        return replace(self, splits=splits.astype(np.int8))

    def with_findings(self, *findings: Finding) -> Self:
        """The same images, with more to say about them."""
        return replace(self, findings=self.findings + findings)

    @property
    def nbytes(self) -> int:
        """Bytes of memory the columns hold."""
        arrays = (self.root_ids, self.label_offsets, self.label_ids, self.splits, self.groups)
        return sum(a.nbytes for a in arrays if a is not None) + sum(
            texts.nbytes for texts in (self.paths, *self.columns.values())
        )


class IndexBuilder:
    """Collects rows one by one in little memory and makes an :class:`ImageIndex` of them."""

    def __init__(self, roots: Sequence[str], columns: Sequence[str] = ()) -> None:
        self._roots = tuple(roots)
        self._data, self._offsets = GrowingTexts(), array("q", [0])
        self._root_ids, self._splits, self._labels = array("B"), array("b"), array("i")
        self._names: dict[str, int] = {}
        self._columns = {name: GrowingTexts() for name in columns}

    def __len__(self) -> int:
        return len(self._splits)

    def add(self, path: str, labels: Sequence[str], split: int = NO_SPLIT, root: int = 0,
            columns: Sequence[str] = ()) -> None:
        """Add one image."""
        self._data.add(path)
        for label in labels:
            self._labels.append(self._names.setdefault(label, len(self._names)))
        self._offsets.append(len(self._labels))
        self._splits.append(split)
        self._root_ids.append(root)
        for column, value in zip(self._columns.values(), columns, strict=True):
            column.add(value)

    def build(self, findings: Sequence[Finding] = (), classes: Sequence[str] | None = None) -> ImageIndex:
        """The index; classes in sorted order unless given."""
        order = sorted(self._names) if classes is None else list(classes)
        position = {name: i for i, name in enumerate(order)}
        renumber = np.array([position[name] for name in self._names], np.int32)
        seen = np.frombuffer(self._labels, np.int32) if self._labels else np.empty(0, np.int32)
        return ImageIndex(
            roots=self._roots, classes=tuple(order), paths=Texts(self._data),
            root_ids=np.array(self._root_ids, np.uint8), label_offsets=np.array(self._offsets, np.int64),
            label_ids=renumber[seen] if len(seen) else seen, splits=np.array(self._splits, np.int8),
            columns={name: Texts(column) for name, column in self._columns.items()},
            findings=tuple(findings),
        )
