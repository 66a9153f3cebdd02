"""Who is held out where an image has any number of labels: iterative stratification, seeded, no label lost.

Labels are dealt the rarest first, each image to the part that lacks most of it (Sechidis, Tsoumakas & Vlahavas, ECML
PKDD 2011). Images of one unit, a group or copies of a picture, stay together.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray


def holdout(Y_NK: NDArray[np.bool_], units_N: NDArray[np.int32] | None, share: float, seed: int) -> NDArray[np.bool_]:
    """Which images to hold out, bool [N]: about ``share`` of each label, never the last unit that has it."""
    part_U, unit_N, has_UK = _dealt(Y_NK, units_N, (1 - share, share), seed)
    held_U = part_U == 1
    for own in _columns(has_UK):
        if len(own) and held_U[own].all():
            held_U[own[0]] = False
    held_N: NDArray[np.bool_] = held_U[unit_N]
    return held_N


def folds(Y_NK: NDArray[np.bool_], units_N: NDArray[np.int32] | None, number: int, seed: int) -> NDArray[np.int8]:
    """The fold in which each image is held out, int8 [N]; -1 where it never is.

    One unit of a label whose units would all be held out together stays in training in every fold.
    """
    part_U, unit_N, has_UK = _dealt(Y_NK, units_N, (1 / number,) * number, seed)
    for own in _columns(has_UK):
        if len(own) and part_U[own[0]] >= 0 and (part_U[own] == part_U[own[0]]).all():
            part_U[own[0]] = -1
    return part_U[unit_N]


def _columns(has_UK: NDArray[np.bool_]) -> Iterator[NDArray[np.int64]]:
    """The units of each label."""
    return (np.flatnonzero(has_U) for has_U in has_UK.T)


def _dealt(Y_NK: NDArray[np.bool_], units_N: NDArray[np.int32] | None, shares: Sequence[float], seed: int,
           ) -> tuple[NDArray[np.int8], NDArray[np.int64], NDArray[np.bool_]]:
    """The part of each unit, int8 [U], the unit of each image, and which labels occur in a unit, bool [U, K]."""
    rng = np.random.default_rng(seed)
    unit_N = (np.arange(len(Y_NK)) if units_N is None else np.unique(units_N, return_inverse=True)[1]).astype(np.int64)
    size_U = np.bincount(unit_N)
    adds_UK = np.zeros((len(size_U), Y_NK.shape[1]), np.int64)
    np.add.at(adds_UK, unit_N, Y_NK)
    has_UK = adds_UK > 0
    lacks_PK = np.outer(shares, adds_UK.sum(0))
    lacks_P = np.asarray(shares) * len(Y_NK)
    part_U = np.full(len(size_U), -1, np.int8)

    def deal(units: NDArray[np.int64], wanted_PK: NDArray[np.float64], label: int) -> None:
        for unit in units[np.argsort(-size_U[units], kind="stable")]:
            part = np.lexsort([rng.permutation(len(shares)), -lacks_P, -wanted_PK[:, label]])[0]
            part_U[unit] = part
            lacks_PK[part] -= adds_UK[unit]
            lacks_P[part] -= size_U[unit]

    left_K = has_UK.sum(0)
    while left_K.any():
        label = int(np.where(left_K > 0, left_K, len(size_U) + 1).argmin())
        units = rng.permutation(np.flatnonzero(has_UK[:, label] & (part_U < 0)))
        deal(units, lacks_PK, label)
        left_K -= has_UK[units].sum(0)
    deal(rng.permutation(np.flatnonzero(part_U < 0)), np.zeros((len(shares), 1)), 0)
    return part_U, unit_N, has_UK
