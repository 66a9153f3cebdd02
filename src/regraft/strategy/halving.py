"""Who goes on when networks are compared on ever more images: successive halving, with paired intervals."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from regraft.heads.probe import lead

#: Images of the rounds. Half of the networks are left behind after each but the last, of which one is taken: so all
#: images are computed for that one alone.
ROUNDS = (256, 1_024)

#: Images a class without which a classifier says little; of many classes some wait for a later round.
_LEAST_A_CLASS = 4

#: Largest loss of accuracy, in a share of the images, for which a faster network may be recommended.
_WORTH = 0.005

#: How much faster it must be.
_FASTER = 1.25


def rounds(images: int) -> tuple[int, ...]:
    """How many images each round has."""
    return tuple(dict.fromkeys(min(count, images) for count in ROUNDS))


def growing_order(y_N: NDArray[np.int32], seed: int) -> NDArray[np.int64]:
    """Rows in an order of which every beginning is a fair part of the images, int64 [N].

    Classes come in their shares; where there are too many for the first round, some of them come first, with a few
    images each.
    """
    rng = np.random.default_rng(seed)
    shuffled, counts = rng.permutation(len(y_N)), np.bincount(y_N)
    place_N, nth_N = np.empty(len(y_N)), np.empty(len(y_N), np.int64)
    for label in np.flatnonzero(counts):
        rows = shuffled[y_N[shuffled] == label]
        nth_N[rows] = np.arange(len(rows))
        # Where in 0..1 the n-th image of a class belongs; a random start keeps small classes from coming all at once.
        place_N[rows] = (nth_N[rows] + rng.random()) / len(rows)
    if _LEAST_A_CLASS * (counts > 0).sum() > ROUNDS[0]:
        turn_K = rng.permutation(len(counts))
        first = nth_N < _LEAST_A_CLASS
        place_N[first] = turn_K[y_N[first]] / len(counts) - 1
    return np.argsort(place_N, kind="stable")


def survivors(right: Mapping[str, NDArray[np.bool_]], losses: Mapping[str, float]) -> list[str]:
    """Names that go on, best first: at most half but always two, and none that lies clearly below the best.

    ``right`` are the answers to the same images, ``losses`` their log-losses, by which equals are told apart.
    """
    order = sorted(right, key=lambda name: (-right[name].mean(), losses[name]))
    best = order[0]
    near = [name for name in order if name == best or lead(right[best], right[name])[1] <= 0]
    return near[:max(2, len(order) // 2)]


@dataclass(frozen=True)
class Recommended:
    """The network to take, and why."""

    name: str
    reason: str


def recommend(right: Mapping[str, NDArray[np.bool_]], losses: Mapping[str, float], speeds: Mapping[str, float],
              left_behind: int = 0) -> Recommended:
    """The best of networks that were compared on the same images, or a much faster one that is as good.

    As good means: half a point of accuracy behind at most, and not clearly worse. ``left_behind`` counts networks that
    did not get this far.
    """
    order = sorted(right, key=lambda name: (-right[name].mean(), losses[name]))
    best, n = order[0], len(right[order[0]])
    if len(order) == 1:
        return Recommended(best, f"every other network did clearly worse on the same {n:,} images" if left_behind else
                           "no other network was compared")
    found = {name: lead(right[best], right[name]) for name in order[1:]}
    quick = [name for name, (value, low, _) in found.items()
             if value <= _WORTH and low <= 0 and speeds[name] >= _FASTER * speeds[best]]
    if quick:
        taken = max(quick, key=lambda name: speeds[name])
        return Recommended(taken, f"of the same {n:,} images {best} answers {_points(found[taken][0])} more rightly, "
                                  f"which may be chance, and {taken} is {speeds[taken] / speeds[best]:.1f} times as "
                                  "fast here")
    value, low, high = found[order[1]]
    if low > 0:
        return Recommended(best, f"of the same {n:,} images it answers {_points(value)} more rightly than {order[1]}, "
                                 "the next best, and that is more than chance")
    return Recommended(best, f"of the same {n:,} images it answers {_points(value)} more rightly than {order[1]}, the "
                             f"next best; that may be chance, as the true lead lies between {_points(low)} and "
                             f"{_points(high)}")


def _points(share: float) -> str:
    return f"{100 * share:.1f} %"
