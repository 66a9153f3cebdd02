"""The same picture more than once: exact copies, and copies saved anew, resized, mirrored or cropped.

Candidates come from a perceptual hash and from the cosine of features; a pair counts only once its pixels, aligned,
agree. All is done in blocks, so memory grows with the number of images and not with its square.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from regraft.heads.threads import in_threads
from regraft.inspection.alignment import Pictures, correlation, mirrored, part_of

Kind = Literal["exact", "saved anew", "mirrored", "cropped"]

#: From the least change to the largest: a group bears the name of its largest.
KINDS: tuple[Kind, ...] = ("exact", "saved anew", "mirrored", "cropped")

#: Nearest images that are candidates of each, by features and by hash.
_NEAREST = 8

#: Candidates have at least this cosine, or at most this many of 64 bits of their hashes apart.
_LEAST_COSINE = 0.45
_MOST_BITS = 10

#: Least correlation of the pixels: of whole pictures, of tiny ones (strokes and icons are soon alike), and of a part,
#: which has more ways to agree by chance.
_WHOLE = 0.975
_TINY = 0.993
_PART = 0.985

#: A search for a part begins above this correlation of the whole pictures.
_PART_FROM = 0.35

#: Below this deviation of the grey values (of 255) noise decides whether pictures agree.
_LEAST_SPREAD = 6.0

#: Pictures with a shorter side than this are tiny, and not searched for parts.
_LEAST_SIDE = 48

_BLOCK = 1024
_PAIRS = 512


@dataclass(frozen=True)
class Pairs:
    """Pairs of images that show the same picture: positions int64 [P, 2], and the kind of each."""

    pairs_P2: NDArray[np.int64]
    kinds: tuple[Kind, ...]


def same_content(contents: Sequence[bytes]) -> Pairs:
    """Each exact copy with the first of its kind."""
    first: dict[bytes, int] = {}
    pairs = [(first[content], row) for row, content in enumerate(contents)
             if first.setdefault(content, row) != row]
    return Pairs(np.array(pairs, np.int64).reshape(-1, 2), tuple(KINDS[0] for _ in pairs))


def near(grey_NSS: NDArray[np.uint8], sides_N: NDArray[np.int64], X_ND: NDArray[np.float32] | None) -> Pairs:
    """Pairs of near duplicates among N different pictures.

    ``grey_NSS`` are the small grey pictures, ``sides_N`` the shorter side of each image in pixels, ``X_ND`` the
    features, or None where there are none: then the hash alone finds candidates.
    """
    busy_N = grey_NSS.reshape(len(grey_NSS), -1).std(1) >= _LEAST_SPREAD
    candidates = set(_by_hash(grey_NSS))
    if X_ND is not None:
        candidates |= set(_by_cosine(X_ND))
    pairs_P2 = np.array(sorted(pair for pair in candidates if busy_N[list(pair)].all()), np.int64).reshape(-1, 2)
    blocks = [pairs_P2[start:start + _PAIRS] for start in range(0, len(pairs_P2), _PAIRS)]
    told = [kind for part in in_threads(lambda block: _verified(grey_NSS, sides_N, block), blocks) for kind in part]
    kinds = tuple(kind for kind in told if kind is not None)
    return Pairs(pairs_P2[np.array([kind is not None for kind in told], bool)], kinds)


def _verified(grey_NSS: NDArray[np.uint8], sides_N: NDArray[np.int64], pairs_P2: NDArray[np.int64],
              ) -> list[Kind | None]:
    """How the pictures of each pair are the same, or None."""
    a, b = (grey_NSS[pairs_P2[:, side]].astype(np.float32) for side in range(2))
    plain, turned = correlation(a, b), correlation(a, mirrored(b))
    tiny = sides_N[pairs_P2].min(1) < _LEAST_SIDE
    kinds: list[Kind | None] = [
        None if max(straight, flipped) < least else "saved anew" if straight >= flipped else "mirrored"
        for straight, flipped, least in zip(plain, turned, np.where(tiny, _TINY, _WHOLE), strict=True)]
    unsettled = np.array([kind is None for kind in kinds])
    open_ = np.flatnonzero(unsettled & (np.maximum(plain, turned) >= _PART_FROM) & ~tiny)
    if len(open_):
        other = np.where((turned > plain)[open_, None, None], mirrored(b[open_]), b[open_])
        for row, best in zip(open_.tolist(), _either_part(a[open_], other), strict=True):
            if best >= _PART:
                kinds[row] = "cropped"
    return kinds


def _either_part(a_PSS: Pictures, b_PSS: Pictures) -> NDArray[np.float32]:
    """The best correlation of one picture with a part of the other, [P]."""
    return np.maximum(part_of(a_PSS, b_PSS, _PART), part_of(b_PSS, a_PSS, _PART))


def _by_cosine(X_ND: NDArray[np.float32]) -> Iterator[tuple[int, int]]:
    """Each image with its nearest by the cosine of features."""
    for rows, nearest, cosines in nearest_blocks(X_ND, _NEAREST):
        for row, others, values in zip(rows.tolist(), nearest.tolist(), cosines.tolist(), strict=True):
            yield from ((min(row, other), max(row, other)) for other, value in zip(others, values, strict=True)
                        if value >= _LEAST_COSINE)


def nearest_blocks(X_ND: NDArray[np.float32], number: int,
                   ) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]]:
    """Blocks of rows [B], their nearest other rows [B, number] (fewer of few images) and those cosines."""
    Z_ND = X_ND - X_ND.mean(0)
    Z_ND /= np.maximum(np.linalg.norm(Z_ND, axis=1, keepdims=True), 1e-6)
    number = min(number, len(Z_ND) - 1)
    for start in range(0, len(Z_ND), _BLOCK):
        rows = np.arange(start, min(start + _BLOCK, len(Z_ND)))
        cosines = Z_ND[rows] @ Z_ND.T
        cosines[np.arange(len(rows)), rows] = -2
        nearest = np.argpartition(-cosines, max(number - 1, 0), axis=1)[:, :number]
        yield rows, nearest, np.take_along_axis(cosines, nearest, 1)


def _by_hash(grey_NSS: NDArray[np.uint8]) -> Iterator[tuple[int, int]]:
    """Each image with its nearest by the hash, straight or mirrored."""
    plain, turned = hashes(grey_NSS), hashes(mirrored(grey_NSS))
    number = min(_NEAREST, len(plain) - 1)
    for start in range(0, len(plain) if number else 0, _BLOCK):
        rows = np.arange(start, min(start + _BLOCK, len(plain)))
        apart = np.minimum(np.bitwise_count(plain[rows, None] ^ plain), np.bitwise_count(plain[rows, None] ^ turned))
        apart[np.arange(len(rows)), rows] = 65
        nearest = np.argpartition(apart, number - 1, axis=1)[:, :number]
        for row, others, bits in zip(rows.tolist(), nearest.tolist(),
                                     np.take_along_axis(apart, nearest, 1).tolist(), strict=True):
            yield from ((min(row, other), max(row, other)) for other, bit in zip(others, bits, strict=True)
                        if bit <= _MOST_BITS)


def hashes(grey_NSS: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """64 bits of each picture, uint64 [N]: in 8 x 9 fields, whether each is brighter than the one to its left."""
    size = grey_NSS.shape[1]
    down, across = (_fields(size, number) for number in (8, 9))
    fields = np.einsum("is,nst,jt->nij", down, grey_NSS.astype(np.float32), across, optimize=True)
    bits = (np.diff(fields, axis=2) > 0).reshape(len(grey_NSS), 64)
    packed: NDArray[np.uint64] = np.packbits(bits, axis=1).view(np.uint64)[:, 0]
    return packed


def _fields(size: int, number: int) -> NDArray[np.float32]:
    """Weights [number, size] that average a line of pixels in equal parts."""
    edges = np.arange(number + 1) * size / number
    pixel = np.arange(size)
    covered = np.minimum(pixel + 1, edges[1:, None]) - np.maximum(pixel, edges[:-1, None])
    inside: NDArray[np.float64] = np.clip(covered, 0, 1)
    inside /= inside.sum(1, keepdims=True)
    return inside.astype(np.float32)


def grouped(number: int, pairs: Sequence[Pairs]) -> list[tuple[Kind, tuple[int, ...]]]:
    """Groups of images that pairs connect, with the largest change in each; in order of their first image."""
    parent = list(range(number))

    def root(row: int) -> int:
        while parent[row] != row:
            parent[row] = parent[parent[row]]
            row = parent[row]
        return row

    linked = [(int(a), int(b), kind) for part in pairs for (a, b), kind in zip(part.pairs_P2, part.kinds, strict=True)]
    for a, b, _ in linked:
        parent[max(root(a), root(b))] = min(root(a), root(b))
    members: dict[int, list[int]] = defaultdict(list)
    for row in sorted({row for a, b, _ in linked for row in (a, b)}):
        members[root(row)].append(row)
    largest: dict[int, int] = defaultdict(int)
    for a, _, kind in linked:
        largest[root(a)] = max(largest[root(a)], KINDS.index(kind))
    return [(KINDS[largest[first]], tuple(rows)) for first, rows in sorted(members.items())]
