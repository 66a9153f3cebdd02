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

#: How a file is opened to look at it; O_NONBLOCK: a pipe must not make us wait.
_LOOK = os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0)

#: Bytes that are compared before whole files are.
_END_BYTES = 512


def numbered(keys: Sequence[Hashable]) -> NDArray[np.int32] | None:
    """A number for each key, equal ones sharing one, int32 [N]; None where all differ."""
    numbers: dict[Hashable, int] = {}
    ids = np.fromiter((numbers.setdefault(key, len(numbers)) for key in keys), np.int32, len(keys))
    return None if len(numbers) == len(keys) else ids


def same_files(index: ImageIndex) -> NDArray[np.int32] | None:
    """A number for each image, files of equal bytes sharing one, int32 [N]; None where all differ.

    Only files that are as long as another one are looked into, and only those that end like one are read.
    """
    sizes = [file_size(place) for place in index.places()]
    as_long = Counter(sizes)
    ends = [(size, _end(place, size) if as_long[size] > 1 else b"") if size else row
            for row, (place, size) in enumerate(zip(index.places(), sizes, strict=True))]
    alike = Counter(ends)
    return numbered([(end, file_digest(index, row)) if alike[end] > 1 else end for row, end in enumerate(ends)])


def file_size(place: str) -> int:
    """Bytes of a file; 0 where it can't be looked at, which the pass over all images will tell."""
    try:
        return os.stat(place).st_size  # noqa: PTH116 - Path.stat takes twice as long for a million
    except (OSError, ValueError):
        return 0


def _end(place: str, size: int) -> bytes:
    """The last bytes of a file, where pictures of one camera differ; none where it can't be read.

    A pipe put in the file's place after its size was asked for must not make us wait.
    """
    try:
        handle = os.open(place, _LOOK)
    except (OSError, ValueError):
        return b""
    try:
        os.lseek(handle, max(size - _END_BYTES, 0), os.SEEK_SET)
        return os.read(handle, _END_BYTES)
    except OSError:
        return b""
    finally:
        os.close(handle)


def file_digest(index: ImageIndex, row: int) -> bytes:
    """SHA-256 of a file's bytes; its row where it can't be read, which the pass over all images will tell."""
    try:
        return hashlib.sha256(read_file(index.place(row))).digest()
    except ImageError:
        return row.to_bytes(8)
