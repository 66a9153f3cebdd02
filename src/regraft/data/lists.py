"""Lists of files that decide what a training takes: which to leave out, which belong together."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from regraft.errors import DataError
from regraft.records.base import shown
from regraft.records.images import Finding, ImageIndex


def excluded(index: ImageIndex, file: Path) -> ImageIndex:
    """The images that do not stand in a list of paths; raises DataError for a path that is no file of the data."""
    paths = {row["path"] for row in read_list(file, ("path",))}
    known = set(index.paths)
    _refuse_unknown(file, [path for path in paths if path not in known])
    kept = np.array([row for row, path in enumerate(index.paths) if path not in paths], np.int64)
    gone = len(index) - len(kept)
    if not len(kept):
        raise DataError(f"{shown(file.name)} leaves none of the {len(index):,} images; take some out of it")
    return index.take(kept).with_findings(Finding("excluded", gone, f"{gone:,} images are left out (--exclude "
                                                  f"{shown(file.name)})"))


def listed_groups(index: ImageIndex, file: Path) -> list[str]:
    """The group that a list of paths and groups gives each image, N texts, empty where it gives none."""
    given = {row["path"]: row["group"] for row in read_list(file, ("path", "group"))}
    if not given.keys() & set(index.paths):
        raise DataError(f"{shown(file.name)} names no image of the data; paths are relative to the data folder")
    return [given.get(path, "") for path in index.paths]


def read_list(file: Path, names: Sequence[str]) -> list[dict[str, str]]:
    """The rows of a CSV file with a header; raises DataError where a column is missing or it can't be read."""
    try:
        with file.open(newline="", encoding="utf-8-sig", errors="surrogateescape") as handle:
            rows = csv.DictReader(handle)
            missing = [name for name in names if name not in (rows.fieldnames or ())]
            if missing:
                raise DataError(f"{shown(file.name)} lacks the column {', '.join(missing)}; its first line must name "
                                f"{', '.join(names)}")
            return [{name: row[name] or "" for name in names} for row in rows if row["path"]]
    except csv.Error as error:
        raise DataError(f"{shown(file.name)} is no readable table ({error})") from None
    except OSError as error:
        raise DataError(f"{shown(str(file))} can't be read ({error.strerror})") from None


def _refuse_unknown(file: Path, unknown: Sequence[str]) -> None:
    if unknown:
        raise DataError(f"{shown(file.name)} names {len(unknown):,} files that the data does not have, such as "
                        f"{shown(min(unknown))}; paths are relative to the data folder")
