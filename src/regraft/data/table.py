"""A CSV, TSV or Parquet table: a path and a label a row, optionally a split; every other column is kept."""

from __future__ import annotations

import csv
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from regraft.errors import DataError, MissingExtraError
from regraft.records.base import shown
from regraft.records.images import NO_SPLIT, SPLITS, ImageIndex, IndexBuilder

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


def read_table(path: Path) -> ImageIndex:
    """The images of a table; relative paths start at the table's own folder. Raises DataError."""
    with _rows(path) as (header, rows):
        at = _Columns(path, header)
        builder = IndexBuilder([str(path.resolve().parent)], at.others)
        for number, row in rows:
            if not any(row):
                continue
            if len(row) != len(header):
                raise DataError(f"{path.name}, line {number}: {len(row)} values for {len(header)} columns; quote "
                                "values that hold the separator")
            file, label = row[at.path].strip().replace("\\", "/"), one_name(row[at.label].strip())
            if not file or not label:
                raise DataError(f"{path.name}, line {number}: the {'path' if not file else 'label'} is empty; "
                                "fill it in or take the line out")
            if "\0" in file:
                raise DataError(f"{path.name}, line {number}: the path {file!r} holds a null byte; take the line out")
            builder.add(file, (label,), at.split_of(row, number), columns=[row[i] for i in at.other_positions])
    if not len(builder):
        raise DataError(f"{path.name} has a header but no rows; give a path and a label a row")
    return builder.build()


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
def _rows(path: Path) -> Iterator[tuple[list[str], _Rows]]:
    """Header, and the rows of texts with the line that each begins in."""
    if path.suffix.lower() == ".parquet":
        yield _parquet_rows(path)
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


def _parquet_rows(path: Path) -> tuple[list[str], _Rows]:
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
                    yield number, ["" if value is None else str(value) for value in row]
        except (pyarrow.ArrowException, OSError) as error:
            raise DataError(f"{path.name} is damaged after row {number:,} ({error})") from None

    return list(table.schema_arrow.names), rows()
