"""The same picture under several names: such copies must lie on one side of every split that is drawn."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import NDArray

from regraft.data.decode import read_file
from regraft.errors import ImageError
from regraft.records.images import ImageIndex


def numbered(keys: Sequence[Hashable]) -> NDArray[np.int32] | None:
    """A number for each key, equal ones sharing one, int32 [N]; None where all differ."""
    numbers: dict[Hashable, int] = {}
    ids = np.fromiter((numbers.setdefault(key, len(numbers)) for key in keys), np.int32, len(keys))
    return None if len(numbers) == len(keys) else ids


def same_files(index: ImageIndex) -> NDArray[np.int32] | None:
    """A number for each image, files of equal bytes sharing one, int32 [N]; None where all differ.

    Only files that are as long as another one are read.
    """
    sizes = [file_size(index, row) for row in range(len(index))]
    often = Counter(sizes)
    return numbered([(size, file_digest(index, row) if often[size] > 1 else b"") if size else row
                     for row, size in enumerate(sizes)])


def file_size(index: ImageIndex, row: int) -> int:
    """Bytes of a file; 0 where it can't be looked at, which the pass over all images will tell."""
    try:
        return os.stat(index.place(row)).st_size  # noqa: PTH116 - Path.stat takes twice as long for a million
    except (OSError, ValueError):
        return 0


def file_digest(index: ImageIndex, row: int) -> bytes:
    """SHA-256 of a file's bytes; its row where it can't be read, which the pass over all images will tell."""
    try:
        return hashlib.sha256(read_file(index.place(row))).digest()
    except ImageError:
        return row.to_bytes(8)
