"""Many short texts in little memory.

A million paths as Python strings take some 150 bytes each; packed they take their own length and 8 bytes.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import overload

import numpy as np

#: Texts that are worked on together: fast, and in little memory.
_AT_ONCE = 4_096


class GrowingTexts:
    """Collects texts one by one; ``Texts(grown)`` packs them."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.offsets = array("q", [0])

    def add(self, text: str) -> None:
        """Add one text at the end."""
        self.data += text.encode("utf-8", "surrogateescape")
        self.offsets.append(len(self.data))


class Texts(Sequence[str]):
    """An immutable sequence of N texts: UTF-8 bytes end to end, and N + 1 offsets (int64).

    Undecodable file names survive through Python's ``surrogateescape``.
    """

    __slots__ = ("_bytes", "_offsets")

    def __init__(self, texts: Iterable[str] | GrowingTexts = ()) -> None:
        if isinstance(texts, GrowingTexts):
            grown = texts
        else:
            grown = GrowingTexts()
            for text in texts:
                grown.add(text)
        self._bytes, self._offsets = bytes(grown.data), np.array(grown.offsets, np.int64)

    @classmethod
    def _packed(cls, data: bytes, offsets: np.ndarray) -> Texts:
        """Of bytes that lie end to end already."""
        made = cls.__new__(cls)
        made._bytes, made._offsets = data, offsets
        return made

    def __len__(self) -> int:
        return len(self._offsets) - 1

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> Texts: ...
    def __getitem__(self, index: int | slice) -> str | Texts:
        if isinstance(index, slice):
            return Texts(self[i] for i in range(*index.indices(len(self))))
        position = range(len(self))[index]
        return self._text(position)

    def __iter__(self) -> Iterator[str]:
        for first in range(0, len(self), _AT_ONCE):
            ends = self._offsets[first:first + _AT_ONCE + 1].tolist()
            yield from (self._bytes[start:end].decode("utf-8", "surrogateescape") for start, end in pairwise(ends))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Texts):
            return NotImplemented
        return self._bytes == other._bytes and np.array_equal(self._offsets, other._offsets)

    def __hash__(self) -> int:
        return hash(self._bytes)

    def __repr__(self) -> str:
        return f"Texts({len(self):,} texts, {self.nbytes:,} bytes)"

    def take(self, rows: np.ndarray) -> Texts:
        """The texts of the given rows (int array), in that order."""
        starts_N, lengths_N = self._offsets[:-1][rows], np.diff(self._offsets)[rows]
        offsets = np.concatenate([[0], np.cumsum(lengths_N)]).astype(np.int64)
        whole, parts = np.frombuffer(self._bytes, np.uint8), []
        for first in range(0, len(rows), _AT_ONCE):
            some = slice(first, first + _AT_ONCE)
            # Byte i of the result lies as far from byte i of this one as its text does.
            shifts = np.repeat(starts_N[some] - offsets[:-1][some], lengths_N[some])
            parts.append(whole[np.arange(offsets[first], offsets[first] + len(shifts)) + shifts].tobytes())
        return Texts._packed(b"".join(parts), offsets)

    @property
    def nbytes(self) -> int:
        """Bytes of memory held."""
        return len(self._bytes) + self._offsets.nbytes

    def _text(self, position: int) -> str:
        start, end = self._offsets[position], self._offsets[position + 1]
        return self._bytes[start:end].decode("utf-8", "surrogateescape")
