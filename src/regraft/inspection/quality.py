"""Single pictures that show little: blank, dark, blurred, of odd shape, tiny; and what the fit never shows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from regraft.inspection.measuring import Measured
from regraft.records.inspection import Shown
from regraft.records.preprocessing import Preprocessing

#: Deviation of the grey values (of 255) below which a picture shows one colour; calm water from above has 2 or 3.
_BLANK = 0.75

#: A picture is dark where 95 % of its pixels are below this grey value.
_DARK = 40.0

#: Long side over short side.
ODD_ASPECT = 3.0

#: A picture is tiny where its shorter side is less than the network's divided by this.
_TINY = 4

#: Blurred: both below this, and far below the median of the set, as set by this factor.
_BLURRED = 0.004
_BLURRED_OF_MEDIAN = 0.2

#: What at least this many images and this share of a class show is how the class looks.
_COMMON_IMAGES = 5
_COMMON_SHARE = 0.1


def blank(seen: Sequence[Measured]) -> NDArray[np.bool_]:
    """Pictures of one colour, bool [N]."""
    return np.array([m.spread < _BLANK for m in seen], bool)


def dark(seen: Sequence[Measured]) -> NDArray[np.bool_]:
    """Pictures of which hardly a pixel is brighter than dark grey, bool [N]."""
    return np.array([m.bright < _DARK for m in seen], bool)


def blurred(seen: Sequence[Measured]) -> NDArray[np.bool_]:
    """Pictures without fine detail where the others have some, bool [N]."""
    sharpness_N = np.array([m.sharpness for m in seen])
    limit = min(_BLURRED, _BLURRED_OF_MEDIAN * float(np.median(sharpness_N)))
    return (sharpness_N < limit) & ~blank(seen)


def odd_aspect(seen: Sequence[Measured]) -> NDArray[np.bool_]:
    """Pictures at least three times as long as wide or the reverse, bool [N]."""
    return np.array([max(m.width, m.height) >= ODD_ASPECT * min(m.width, m.height) for m in seen], bool)


def tiny(seen: Sequence[Measured], size: int) -> NDArray[np.bool_]:
    """Pictures that are enlarged more than four times for a network of ``size`` pixels, bool [N]."""
    return np.array([min(m.width, m.height) * _TINY < size for m in seen], bool)


def usual(which_N: NDArray[np.bool_], y_N: NDArray[np.int32]) -> NDArray[np.bool_]:
    """Of the marked pictures those in whose class they are common: so the class may look; bool [N]."""
    marked_K, total_K = np.bincount(y_N[which_N], minlength=int(y_N.max(initial=0)) + 1), np.bincount(y_N)
    common_K = (marked_K >= _COMMON_IMAGES) & (marked_K >= _COMMON_SHARE * total_K)
    marked: NDArray[np.bool_] = which_N & common_K[y_N]
    return marked


def hidden(seen: Sequence[Measured], rules: Preprocessing) -> NDArray[np.float64]:
    """Share of each picture's area that the fit cuts off, float64 [N]."""
    if rules.fit != "crop":
        return np.zeros(len(seen))
    return np.array([1 - (min(m.width, m.height) * rules.crop_fraction) ** 2 / (m.width * m.height) for m in seen])


def what_is_shown(seen: Sequence[Measured], rules: Preprocessing) -> Shown | None:
    """How much the fit hides; None without pictures."""
    shares = hidden(seen, rules)
    return Shown(rules.fit, float(shares.mean()), float(shares.max())) if len(shares) else None
