"""How the error falls with the number of images: a power law through a few measured points."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class LearningCurve:
    """Error ``scale x images ** -rate``; the rate is never negative: more images do no harm in the long run."""

    scale: float
    rate: float

    def error(self, images: float) -> float:
        """Share of wrong answers after learning from so many images, at most 1."""
        return min(1.0, float(self.scale * images**-self.rate))

    def gain_of_doubling(self, images: float) -> float:
        """By how much the error falls, as a share of all answers, with twice the images."""
        return self.error(images) - self.error(2 * images)


def fit(images: Sequence[int], wrong: Sequence[int], answers: Sequence[int]) -> LearningCurve:
    """The curve through shares ``wrong / answers`` after learning from ``images``; least squares of the logarithms.

    A point counts by its wrong answers, which decide how well its logarithm is known. Half an answer is added to
    each count: no error at all is not believed of a handful of images.
    """
    counts = np.asarray(wrong, np.float64) + 0.5
    x, y = np.log(np.asarray(images, np.float64)), np.log(counts / (np.asarray(answers, np.float64) + 1))
    if len(set(images)) < 2:
        return LearningCurve(float(np.exp(y[0])), 0.0)
    mean_x, mean_y = np.average(x, weights=counts), np.average(y, weights=counts)
    slope = (counts * (x - mean_x) * (y - mean_y)).sum() / (counts * (x - mean_x) ** 2).sum()
    rate = max(0.0, -float(slope))
    return LearningCurve(float(np.exp(mean_y + rate * mean_x)), rate)
