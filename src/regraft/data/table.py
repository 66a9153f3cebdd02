"""A CSV, TSV or Parquet table: a path and a label a row, optionally a split; every other column is kept."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from regraft.errors import DataError, MissingExtraError
from regraft.records.base import shown
from regraft.records.images import NO_SPLIT, SPLITS, ImageIndex, IndexBuilder

TABLE_ENDINGS = (".csv", ".tsv", ".parquet")

#: Column names, lower case, in order of preference.
_PATH_NAMES = ("path", "file", "filename", "file_name", "filepath", "image", "image_path")
_LABEL_NAMES = ("label", "class", "labels", "category", "target")
_SPLIT_NAMES = ("split", "subset", "set")

_SPLIT_VALUES = {
    "": NO_SPLIT, "train": 0, "training": 0, "val": 1, "valid": 1, "validation": 1, "test": 2, "testing": 2,
}


def read_table(path: Path) -> ImageIndex:
    """The images of a table; relative paths start at the table's own folder. Raises DataError."""
    with _rows(path) as (header, rows):
        at = _Columns(path, header)
        builder = IndexBuilder([str(path.resolve().parent)], at.others)
        for number, row in enumerate(rows, start=2):
            if not any(row):
                continue
            if len(row) != len(header):
                raise DataError(f"{path.name}, line {number}: {len(row)} values for {len(header)} columns")
            file, label = row[at.path].strip().replace("\\", "/"), row[at.label].strip()
            if not file or not label:
                raise DataError(f"{path.name}, line {number}: the {'path' if not file else 'label'} is empty")
            builder.add(file, (label,), at.split_of(row, number), columns=[row[i] for i in at.other_positions])
    if not len(builder):
        raise DataError(f"{path.name} has a header but no rows")
    return builder.build()


class _Columns:
    """Which column is what."""

    def __init__(self, path: Path, header: Sequence[str]) -> None:
        self._file = path
        lower = [name.strip().lower() for name in header]
        doubled = {name for name in lower if lower.count(name) > 1}
        if doubled:
            raise DataError(f"{path.name}: columns {', '.join(sorted(doubled))} stand more than once")
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
        raise DataError(f"{self._file.name} has no column for {what}; it has {', '.join(map(shown, header))}, and one "
                        f"of {', '.join(names)} is needed")

    def split_of(self, row: Sequence[str], number: int) -> int:
        if self._split is None:
            return NO_SPLIT
        value = row[self._split].strip().lower()
        if value not in _SPLIT_VALUES:
            raise DataError(f"{self._file.name}, line {number}: {shown(value)!r} is no split; {', '.join(SPLITS)} or "
                            "empty is allowed")
        return _SPLIT_VALUES[value]


@contextmanager
def _rows(path: Path) -> Iterator[tuple[list[str], Iterator[list[str]]]]:
    """Header and rows of texts."""
    if path.suffix.lower() == ".parquet":
        yield _parquet_rows(path)
        return
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            first = file.readline()
            file.seek(0)
            # Semicolons are what spreadsheets write where the comma is the decimal mark.
            delimiter = max("\t;,", key=first.count) if path.suffix.lower() != ".tsv" else "\t"
            reader = csv.reader(file, delimiter=delimiter)
            header = next(reader, None)
            if not header:
                raise DataError(f"{path.name} is empty")
            yield header, reader
    except UnicodeDecodeError as error:
        raise DataError(f"{path.name} is not UTF-8 (byte {error.start:,}); save it as CSV UTF-8") from None
    except csv.Error as error:
        raise DataError(f"{path.name} is no readable table: {error}") from None
    except OSError as error:
        raise DataError(f"{path.name} can't be read ({error.strerror})") from None


def _parquet_rows(path: Path) -> tuple[list[str], Iterator[list[str]]]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise MissingExtraError("reading Parquet", "parquet") from None
    try:
        table = pyarrow.parquet.ParquetFile(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{path.name} is no readable Parquet file: {error}") from None

    def rows() -> Iterator[list[str]]:
        for batch in table.iter_batches():
            columns = [column.to_pylist() for column in batch.columns]
            for row in zip(*columns, strict=True):
                yield ["" if value is None else str(value) for value in row]

    return list(table.schema_arrow.names), rows()
