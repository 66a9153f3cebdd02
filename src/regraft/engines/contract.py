"""What every engine promises."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from regraft.records.networks import Readout

#: The precision of a model's answer: what predict, evaluate, every reported figure and every export use.
ANSWER_PRECISION = "fp32"


class Engine(Protocol):
    """Runs a frozen network.

    ``key`` names what decides the features besides pixels and weights: engine, device and precision.
    ``batch`` is the one number of images the network is run on: fewer are filled up. So the features of an
    image are the same, to the last bit, alone and among others (on one machine and version).
    """

    key: str
    batch: int
    readouts: tuple[Readout, ...]

    def run(self, pixels_BHWC: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Readouts of 1 to ``batch`` images (uint8), joined in order: float32 [B, D]."""
