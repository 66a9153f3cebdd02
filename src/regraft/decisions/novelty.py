"""How unlike the known images an image is; numpy alone.

Relative Mahalanobis distance (Ren et al., arXiv 2106.09022): the squared distance to the nearest class mean under the
covariance inside the classes, less that to the mean of all under the covariance of all. What all images share cancels.
Both covariances are of the leading principal components, so their size is bounded.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from regraft.errors import DataError
from regraft.records.decisions import NoveltyKind

_NAMES = ("projection", "offset", "inside", "overall", "means")


@dataclass(frozen=True)
class Known:
    """What the known images are like, in R components of D joined raw readouts; all float32.

    ``projection`` [D, R] and ``offset`` [R] lead to components; ``inside`` and ``overall`` [R, R] whiten them by the
    covariance inside the classes and of all; ``means`` [K, R] are the class means, whitened by ``inside``.
    """

    projection: NDArray[np.float32]
    offset: NDArray[np.float32]
    inside: NDArray[np.float32]
    overall: NDArray[np.float32]
    means: NDArray[np.float32]

    def __post_init__(self) -> None:
        r = len(self.offset)
        if (self.projection.ndim, self.projection.shape[1:], self.inside.shape, self.overall.shape,
                self.means.shape[1:]) != (2, (r,), (r, r), (r, r), (r,)):
            raise DataError("the tensors of the novelty do not fit each other")
        if not all(np.isfinite(tensor).all() for tensor in self.tensors().values()):
            raise DataError("the tensors of the novelty must be finite")

    def tensors(self) -> dict[str, NDArray[np.float32]]:
        """Under the names they are saved with."""
        return {name: getattr(self, name) for name in _NAMES}

    @classmethod
    def of(cls, tensors: Mapping[str, NDArray[np.float32]]) -> Known:
        """From saved tensors; raises KeyError where one is missing, DataError where they do not fit."""
        return cls(*(tensors[name] for name in _NAMES))

    def distance(self, features_ND: NDArray[np.float32]) -> NDArray[np.float64]:
        """Relative Mahalanobis distance, float64 [N]. Row by row: an image's answer does not depend on its company."""
        if features_ND.shape[1:] != self.projection.shape[:1]:
            raise DataError(f"features of width {features_ND.shape[1]} for a novelty of width {len(self.projection)}")
        projection, inside, overall = (t.astype(np.float64) for t in (self.projection, self.inside, self.overall))
        out_N = np.empty(len(features_ND))
        for n, row_D in enumerate(features_ND):
            at_R = row_D.astype(np.float64) @ projection - self.offset
            nearest = ((self.means - at_R @ inside) ** 2).sum(1).min()
            out_N[n] = nearest - ((at_R @ overall) ** 2).sum()
        return out_N

    def distance_together(self, features_ND: NDArray[np.float32]) -> NDArray[np.float64]:
        """The same to rounding, and faster, where many images are measured at once: float64 [N]."""
        projection, inside, overall, means = (
            t.astype(np.float64) for t in (self.projection, self.inside, self.overall, self.means))
        at_NR = features_ND.astype(np.float64) @ projection - self.offset
        inside_NR = at_NR @ inside
        nearest_N = ((means**2).sum(1) - 2 * inside_NR @ means.T).min(1) + (inside_NR**2).sum(1)
        distance_N: NDArray[np.float64] = nearest_N - ((at_NR @ overall) ** 2).sum(1)
        return distance_N


def novelty(kind: NoveltyKind, known: Known | None, features_ND: NDArray[np.float32], logits_NK: NDArray[np.floating],
            ) -> NDArray[np.float64]:
    """The novelty of N images, float64 [N]; the larger, the less like what the model knows."""
    if kind == "relative_mahalanobis":
        if known is None:
            raise DataError("this novelty is a distance from known images, and nothing is known of them")
        return known.distance(features_ND)
    return unsureness(kind, logits_NK)


def unsureness(kind: NoveltyKind, logits_NK: NDArray[np.floating]) -> NDArray[np.float64]:
    """The kinds of novelty that are of a head's answers, float64 [N].

    ``softmax``: 1 less the best probability; ``energy``: minus the log of the summed exponentials of the logits.
    """
    highest_N = logits_NK.max(1).astype(np.float64)
    others_N: NDArray[np.float64] = np.log(np.exp(logits_NK - highest_N[:, None]).sum(1))
    return -(highest_N + others_N) if kind == "energy" else 1 - np.exp(-others_N)
