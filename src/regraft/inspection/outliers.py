"""Images unlike their class, or unlike everything, by the distance of their features."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from regraft.inspection.duplicates import nearest_blocks

#: Neighbours that an image is compared with.
_NEIGHBOURS = 5

#: Robust deviations from the median at which an image stands out.
_FAR = 5.0

#: Of fewer images there is no usual distance.
_LEAST_IMAGES = 30
_LEAST_OF_CLASS = 10

#: What a median of absolute deviations is multiplied by to be a standard deviation of normal numbers.
_TO_SIGMA = 1.4826


@dataclass(frozen=True)
class Outliers:
    """Positions of images unlike any other, and of those unlike their class alone; the farthest first."""

    unlike_any: NDArray[np.int64]
    unlike_class: NDArray[np.int64]


def outliers(X_ND: NDArray[np.float32], y_N: NDArray[np.int32]) -> Outliers:
    """Images whose nearest are far away, and images far from the mean of their class; features float32 [N, D]."""
    none = np.empty(0, np.int64)
    if len(X_ND) < _LEAST_IMAGES:
        return Outliers(none, none)
    near_N = np.concatenate([cosines.mean(1) for _, _, cosines in nearest_blocks(X_ND, _NEIGHBOURS)])
    lonely = _standing_out(-near_N)
    strange = [rows[_standing_out(-_to_class_mean(X_ND[rows]))] for rows in _classes(y_N)]
    unlike_class = np.concatenate([*strange, none])
    return Outliers(lonely, unlike_class[~np.isin(unlike_class, lonely)])


def _classes(y_N: NDArray[np.int32]) -> list[NDArray[np.int64]]:
    order = np.argsort(y_N, kind="stable")
    parts = np.split(order, np.flatnonzero(np.diff(y_N[order])) + 1)
    return [rows for rows in parts if len(rows) >= _LEAST_OF_CLASS]


def _to_class_mean(X_MD: NDArray[np.float32]) -> NDArray[np.float32]:
    """Cosine of each row with the mean of all."""
    mean_D = X_MD.mean(0)
    cosines: NDArray[np.float32] = X_MD @ mean_D / np.maximum(
        np.linalg.norm(X_MD, axis=1) * np.linalg.norm(mean_D), 1e-6)
    return cosines


def _standing_out(distance_N: NDArray[np.floating]) -> NDArray[np.int64]:
    """Positions far above the median, the farthest first."""
    centre = np.median(distance_N)
    deviation = max(float(np.median(np.abs(distance_N - centre))) * _TO_SIGMA, 1e-6)
    z_N = (distance_N - centre) / deviation
    far = np.flatnonzero(z_N > _FAR)
    return far[np.argsort(-z_N[far], kind="stable")]
