"""What every engine promises."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from regraft.records.engines import Precision
from regraft.records.networks import Readout

#: The precision of a model's answer: what predict, evaluate, every reported figure and every export use.
ANSWER_PRECISION: Precision = "fp32"


class Engine(Protocol):
    """Runs a frozen network on batches of one size, so that an image's features are the same alone and among others.

    To the last bit, that is, on one machine and version.
    """

    @property
    def key(self) -> str:
        """What decides the features besides pixels and weights: engine, device and precision."""

    @property
    def batch(self) -> int:
        """The one number of images that the network is run on; fewer are filled up."""

    @property
    def concurrent(self) -> int:
        """How many runs at a time keep the machine busy."""

    @property
    def readouts(self) -> tuple[Readout, ...]:
        """What is read, in the order in which it is joined."""

    def run(self, pixels_BHWC: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Readouts of 1 to ``batch`` images (uint8), joined in order: float32 [B, D]. Safe to call from any thread."""


def engine_key(engine: str, device: str, precision: Precision) -> str:
    """The ``key`` of an engine."""
    return f"{engine}-{device}-{precision}"


def filled(pixels_BHWC: NDArray[np.uint8], batch: int, size: int) -> NDArray[np.uint8]:
    """1 to ``batch`` images of ``size`` pixels, filled up with black ones: uint8 [batch, S, S, 3].

    Raises ValueError for any other number, shape or type.
    """
    count, shape = len(pixels_BHWC), (size, size, 3)
    if not 1 <= count <= batch:
        raise ValueError(f"{count} images; an engine takes 1 to {batch} at a time")
    if pixels_BHWC.shape[1:] != shape or pixels_BHWC.dtype != np.uint8:
        raise ValueError(f"images are {pixels_BHWC.dtype} {list(pixels_BHWC.shape[1:])}; this engine takes uint8 "
                         f"{list(shape)}")
    full = np.zeros((batch, *shape), np.uint8)
    full[:count] = pixels_BHWC
    return full
