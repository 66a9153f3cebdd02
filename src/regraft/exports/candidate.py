"""An exported model before it is let out: its bytes, what they say about themselves, and how they answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from regraft.records.exported import ExportedRecord
from regraft.runtime import Outputs


class Answering(Protocol):
    """What can be compared with a model: ``record`` is read from its own bytes."""

    record: ExportedRecord

    def outputs(self, pixels_BHWC: NDArray[np.uint8]) -> Outputs:
        """What it gives for a batch of pictures, uint8 [B, S, S, 3]."""


@dataclass
class Candidate:
    """Files by their endings, with what opened them again: ``run`` answers from nothing but these bytes.

    ``given`` names what the files give to the program that opens them.
    """

    files: Mapping[str, bytes] = field(repr=False)
    record: ExportedRecord
    given: tuple[str, ...]
    run: Callable[[NDArray[np.uint8]], Outputs]

    def outputs(self, pixels_BHWC: NDArray[np.uint8]) -> Outputs:
        """What it gives for a batch of pictures, uint8 [B, S, S, 3]."""
        return self.run(pixels_BHWC)
