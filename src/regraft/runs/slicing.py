"""Groups of images to measure apart: by size, folder, brightness or a column of the table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from regraft.data.view import picture
from regraft.errors import UnknownNameError
from regraft.extraction.extract import ordered_map
from regraft.records.images import ImageIndex
from regraft.records.preprocessing import Preprocessing

#: What can be measured of any image; other names are columns of the table.
SIZE, FOLDER, BRIGHTNESS = "size", "folder", "brightness"

#: Images are divided into so many bands of a number, as even as equal values allow.
_BANDS = 4


@dataclass(frozen=True)
class Slicing:
    """One way to divide N images: the number of each one's group, int64 [N], and the groups' names."""

    by: str
    names: tuple[str, ...]
    groups_N: NDArray[np.int64]


def check_slices(index: ImageIndex, wanted: Sequence[str]) -> None:
    """Raise UnknownNameError for what can't divide these images."""
    allowed = (SIZE, FOLDER, BRIGHTNESS, *index.columns)
    for by in wanted:
        if by not in allowed:
            raise UnknownNameError("slice", by, allowed, f"one of {', '.join(allowed)}")


def slicings(index: ImageIndex, wanted: Sequence[str], rules: Preprocessing) -> Iterator[Slicing]:
    """The images, which can all be read, divided in each wanted way."""
    files = [index.file(row) for row in range(len(index))] if {SIZE, BRIGHTNESS} & {*wanted} else []
    measured = _measured(files, rules) if files else {}
    for by in wanted:
        if by in measured:
            yield _bands(by, *measured[by])
        else:
            folders = (path.rpartition("/")[0] or "." for path in index.paths)
            texts = list(index.columns.get(by, folders))
            names, groups_N = np.unique(np.array(texts, dtype=object), return_inverse=True)
            yield Slicing(by, tuple(map(str, names)), groups_N)


def _measured(files: Sequence[Path], rules: Preprocessing) -> dict[str, tuple[NDArray[np.float64], str]]:
    """Longer side and mean brightness of each file's picture, and how to write them."""
    def look(file: Path) -> tuple[float, float]:
        longer = []

        def kept_side(width: int, height: int) -> float:
            longer.append(max(width, height))
            return rules.size

        image = picture(file, rules, kept_side).image
        return float(longer[0] if longer else max(image.size)), float(np.asarray(image.convert("L")).mean() / 255)

    longer_N, brightness_N = np.array(list(ordered_map(look, files))).T
    return {SIZE: (longer_N, "{:.0f} px"), BRIGHTNESS: (brightness_N, "{:.0%}")}


def _bands(by: str, values_N: NDArray[np.float64], written: str) -> Slicing:
    edges = np.unique(np.quantile(values_N, np.arange(1, _BANDS) / _BANDS, method="lower"))
    groups_N = np.searchsorted(edges, values_N)
    names = []
    for group in range(len(edges) + 1):
        own = values_N[groups_N == group]
        low, high = (written.format(value) for value in (own.min(), own.max())) if len(own) else ("", "")
        names.append(low if low == high else f"{low} to {high}")
    return Slicing(by, tuple(names), groups_N)
