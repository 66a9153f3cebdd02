"""A CSV, TSV or Parquet table: a path and a label a row, optionally a split; every other column is kept."""

from __future__ import annotations

import csv
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from regraft.errors import DataError, MissingExtraError
from regraft.records.base import shown
from regraft.records.images import NO_SPLIT, SPLITS, Finding, ImageIndex, IndexBuilder

TABLE_ENDINGS = (".csv", ".tsv", ".parquet")

#: Column names, lower case, in order of preference.
_PATH_NAMES = ("path", "file", "filename", "file_name", "filepath", "file_path", "image", "image_path")
_LABEL_NAMES = ("label", "class", "labels", "category", "target")
_SPLIT_NAMES = ("split", "subset", "set")

_SPLIT_VALUES = {
    "": NO_SPLIT, "train": 0, "training": 0, "val": 1, "valid": 1, "validation": 1, "test": 2, "testing": 2,
}


def one_name(label: str) -> str:
    """The name of a class, however a system composes its accents."""
    return unicodedata.normalize("NFC", label)


#: What usually stands between several labels in a cell.
_SEPARATORS = (";", "|")


def read_table(path: Path, separator: str | None = None) -> ImageIndex:
    """The images of a table; relative paths start at the table's own folder. Raises DataError.

    With a ``separator``, cells of the label column are taken apart at it: an image has any number of labels, or none
    where its cell is empty.
    """
    with _rows(path, separator) as (header, rows):
        at = _Columns(path, header)
        builder = IndexBuilder([str(path.resolve().parent)], at.others)
        for number, row in rows:
            if not any(row):
                continue
            if len(row) != len(header):
                raise DataError(f"{path.name}, line {number}: {len(row)} values for {len(header)} columns; quote "
                                "values that hold the separator")
            file, label = row[at.path].strip().replace("\\", "/"), one_name(row[at.label].strip())
            if not file or not (label or separator):
                raise DataError(f"{path.name}, line {number}: the {'path' if not file else 'label'} is empty; "
                                "fill it in or take the line out")
            labels = (label,) if separator is None else taken_apart(label, separator)
            if "\0" in file:
                raise DataError(f"{path.name}, line {number}: the path {file!r} holds a null byte; take the line out")
            builder.add(file, labels, at.split_of(row, number), columns=[row[i] for i in at.other_positions])
    if not len(builder):
        raise DataError(f"{path.name} has a header but no rows; give a path and a label a row")
    index = builder.build()
    return index.with_findings(*(_joined(index) if separator is None else _told(index, header[at.label], separator)))


def taken_apart(cell: str, separator: str) -> tuple[str, ...]:
    """The labels in a cell, each once."""
    return tuple(dict.fromkeys(name for part in cell.split(separator) if (name := part.strip())))


def _told(index: ImageIndex, column: str, separator: str) -> Iterator[Finding]:
    counts = np.diff(index.label_offsets)
    none = int((counts == 0).sum())
    yield Finding("several_labels", int((counts > 1).sum()),
                  f"cells of {shown(column)!r} are taken apart at {separator!r}: {counts.mean():.2f} labels an image "
                  f"on average, {counts.max()} at most, {none:,} images have none")


def _joined(index: ImageIndex) -> Iterator[Finding]:
    """Classes that look like several labels in one cell."""
    for separator in _SEPARATORS:
        found = [name for name in index.classes if separator in name]
        if found:
            yield Finding("joined_labels", len(found), f"{len(found):,} classes hold {separator!r}, such as "
                          f"{shown(found[0])!r}: each is one class; where such a cell means several labels, train with "
                          f"--labels several --label-separator {separator!r}", tuple(found[:5]))


class _Columns:
    """Which column is what."""

    def __init__(self, path: Path, header: Sequence[str]) -> None:
        self._file = path
        lower = [name.strip().lower() for name in header]
        doubled = {name for name in lower if lower.count(name) > 1}
        if doubled:
            names = ", ".join(repr(name) for name in sorted(doubled))
            raise DataError(f"{path.name}: columns {names} stand more than once; rename all but one")
        self.path = self._find("a path", _PATH_NAMES, lower, header)
        self.label = self._find("a label", _LABEL_NAMES, lower, header)
        self._split = next((lower.index(name) for name in _SPLIT_NAMES if name in lower), None)
        used = {self.path, self.label, self._split}
        self.other_positions = [i for i in range(len(header)) if i not in used]
        self.others = tuple(header[i].strip() for i in self.other_positions)

    def _find(self, what: str, names: Sequence[str], lower: Sequence[str], header: Sequence[str]) -> int:
        for name in names:
            if name in lower:
                return lower.index(name)
        raise DataError(f"{self._file.name} has no column for {what}; it has {', '.join(map(shown, header))}, "
                        f"and one of {', '.join(names)} is needed")

    def split_of(self, row: Sequence[str], number: int) -> int:
        if self._split is None:
            return NO_SPLIT
        value = row[self._split].strip().lower()
        if value not in _SPLIT_VALUES:
            raise DataError(f"{self._file.name}, line {number}: {value!r} is no split; "
                            f"{', '.join(SPLITS)} or empty is allowed")
        return _SPLIT_VALUES[value]


_Rows = Iterator[tuple[int, list[str]]]


@contextmanager
def _rows(path: Path, separator: str | None = None) -> Iterator[tuple[list[str], _Rows]]:
    """Header, and the rows of texts with the line that each begins in."""
    if path.suffix.lower() == ".parquet":
        yield _parquet_rows(path, separator)
        return
    line = 1
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            first = next((text for text in file if text.strip()), "")
            file.seek(0)
            # Semicolons are what spreadsheets write where the comma is the decimal mark.
            delimiter = max("\t;,", key=first.count) if path.suffix.lower() != ".tsv" else "\t"
            reader = csv.reader(file, delimiter=delimiter)

            def numbered() -> _Rows:
                nonlocal line
                for row in reader:
                    yield line, row
                    line = reader.line_num + 1

            rows = numbered()
            header = next((row for _, row in rows if any(row)), None)
            if header is None:
                raise DataError(f"{path.name} is empty; give a header and a row for each image")
            yield header, rows
    except UnicodeDecodeError:
        raise DataError(f"{path.name}, line {_first_bad_line(path)}: is not UTF-8; save it as CSV UTF-8") from None
    except csv.Error as error:
        raise DataError(f"{path.name}, line {line}: is no readable row ({error}); is a quote left open?") from None
    except OSError as error:
        raise DataError(f"{path.name} can't be read ({error.strerror})") from None


def _first_bad_line(path: Path) -> int:
    """The line of the first byte that is not UTF-8: the decoder reads ahead of the rows and can't tell."""
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                line.decode()
            except UnicodeDecodeError:
                return number
    return 1  # Changed since.


def _parquet_rows(path: Path, separator: str | None) -> tuple[list[str], _Rows]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise MissingExtraError("reading Parquet", "parquet") from None
    try:
        table = pyarrow.parquet.ParquetFile(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{path.name} is no readable Parquet file ({error})") from None

    def rows() -> _Rows:
        number = 0
        try:
            for batch in table.iter_batches():
                columns = [column.to_pylist() for column in batch.columns]
                for number, row in enumerate(zip(*columns, strict=True), start=number + 1):  # noqa: B020
                    yield number, [_text(path, number, value, separator) for value in row]
        except (pyarrow.ArrowException, OSError) as error:
            raise DataError(f"{path.name} is damaged after row {number:,} ({error})") from None

    return list(table.schema_arrow.names), rows()


def _text(path: Path, number: int, value: object, separator: str | None) -> str:
    """A cell as text; a list of labels as a cell of them. Raises DataError where one holds the separator."""
    if separator is None or not isinstance(value, list):
        return "" if value is None else str(value)
    labels = list(map(str, value))
    torn = next((label for label in labels if separator in label), None)
    if torn is not None:
        raise DataError(f"{path.name}, row {number:,}: the label {shown(torn)!r} holds {separator!r}, at which labels "
                        "are taken apart; give another --label-separator")
    return separator.join(labels)
