"""Tables of predictions: written once all rows are known, from a journal that outlives an interruption."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

from regraft.answering import Named
from regraft.errors import MissingExtraError, OutputError
from regraft.records.base import harmless, shown
from regraft.records.predicted import COLUMNS, Cell
from regraft.records.results import Prediction
from regraft.runs.folder import whole_file

_FORMAT = 1

#: Rows that a Parquet file gets at a time.
_GROUP = 8192


class Journal:
    """Answers of one command, a JSON line each, in the order of its images; made by :func:`open_journal`."""

    def __init__(self, path: Path, offset: int, count: int, kind: type[Prediction]) -> None:
        self.path = path
        self._kind = kind
        self.count = count
        self._offset = offset  # where the answers begin

    def add(self, answers: Iterable[Prediction]) -> None:
        """Write answers down, each as soon as it is known."""
        with self.path.open("ab") as file:
            for answer in answers:
                values = answer.to_dict()
                del values["format_version"]
                file.write(json.dumps(values).encode() + b"\n")
                file.flush()  # a killed process loses nothing that the system has
                self.count += 1

    def __iter__(self) -> Iterator[Prediction]:
        with self.path.open("rb") as file:
            file.seek(self._offset)
            for line in file:
                values = json.loads(line)
                labels = values.pop("labels")
                yield self._kind(**values, labels=None if labels is None else tuple(labels))


@contextmanager
def open_journal(table: Path, sources: Sequence[Named], model: str, kind: type[Prediction] = Prediction,
                 ) -> Iterator[Journal]:
    """The journal beside a table: that of an interrupted run on the same images with the same model goes on.

    Its answers are of a ``kind``. It is deleted once all went well. Raises OutputError where it can't be written.
    """
    path = table.with_name(f".{table.name}.part")
    about = json.dumps({"format_version": _FORMAT, "model": model, "images": _listing(sources)}).encode()
    try:
        kept, count = _complete(path, about)
        with path.open("r+b" if kept else "wb") as file:
            if not kept:
                file.write(about + b"\n")
            else:
                file.truncate(kept)
        yield Journal(path, len(about) + 1, count, kind)
        path.unlink()
    except OSError as error:
        raise OutputError(f"{shown(str(table))} can't be written ({error.strerror or error}); take another place"
                          ) from None


def _listing(sources: Sequence[Named]) -> str:
    """SHA-256 of names, sizes and times of all images: another one is another job."""
    digest = hashlib.sha256()
    for name, source in sources:
        try:
            status = Path(source).stat()
            state = (status.st_size, status.st_mtime_ns)
        except (OSError, ValueError):
            state = (-1, -1)
        digest.update(repr((name, *state)).encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _complete(path: Path, about: bytes) -> tuple[int, int]:
    """Bytes of a journal that are whole lines, and how many answers they are; 0 and 0 where it is of another job."""
    try:
        with path.open("rb") as file:
            if file.readline() != about + b"\n":
                return 0, 0
            size, count = len(about) + 1, 0
            for line in file:
                if line.endswith(b"\n"):
                    size, count = size + len(line), count + 1
            return size, count
    except FileNotFoundError:
        return 0, 0


def require_format(table: Path) -> None:
    """Raise MissingExtraError where the table's format needs what is not installed."""
    if table.suffix.lower() == ".parquet":
        _pyarrow()


def write_table(table: Path, rows: Iterable[dict[str, Cell]], columns: Sequence[str] = COLUMNS) -> None:
    """Write rows of the given columns as CSV, Parquet or JSON lines, by the file's ending; whole or not at all.

    Raises OutputError where it can't be written.
    """
    with whole_file(table, 0) as half:
        match table.suffix.lower():
            case ".parquet":
                _write_parquet(half, rows, columns)
            case ".jsonl":
                with half.open("w", encoding="utf-8") as file:
                    file.writelines(json.dumps(row) + "\n" for row in rows)
            case _:
                _write_csv(half, rows, columns)


def _write_csv(half: Path, rows: Iterable[dict[str, Cell]], columns: Sequence[str]) -> None:
    with half.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows({name: harmless(cell) if isinstance(cell, str) else cell for name, cell in row.items()}
                         for row in rows)


def _write_parquet(half: Path, rows: Iterable[dict[str, Cell]], columns: Sequence[str]) -> None:
    pyarrow, parquet = _pyarrow()
    numbers = {"probability": pyarrow.float64(), "runner_up_probability": pyarrow.float64(),
               "novelty": pyarrow.float64(), "unknown": pyarrow.bool_()}
    schema = pyarrow.schema([(name, numbers.get(name, pyarrow.string())) for name in columns])
    with parquet.ParquetWriter(half, schema) as writer:
        left = iter(rows)
        while group := [{**row, "path": _text(str(row["path"]))} for row in islice(left, _GROUP)]:
            writer.write_table(pyarrow.Table.from_pylist(group, schema))


def _text(path: str) -> str:
    """A path as Parquet can hold it: bytes that are no text are replaced."""
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise MissingExtraError("writing Parquet", "parquet") from None
    return pyarrow, pyarrow.parquet
