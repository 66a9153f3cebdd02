"""What a model answered for the images of one split: what figures, curves and comparisons are made of."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from regraft.errors import DataError
from regraft.records.texts import Texts


@dataclass(frozen=True)
class Answers:
    """Probabilities of N images for K classes, beside what is right.

    Attributes
    ----------
    split:
        ``validation`` or ``test``.
    classes:
        Names, in the order of the columns.
    rows_N:
        int64 [N]: the number of each image among the data rows of ``run/splits.csv``, from 0.
    paths:
        As they stand there.
    y_N:
        int32 [N]: the right class.
    P_NK:
        float32 [N, K], calibrated as the saved model answers.
    method:
        How the answers came about, in words; of cross-validation they are means over its repeats.
    """

    split: str
    classes: tuple[str, ...]
    rows_N: NDArray[np.int64]
    paths: Texts
    y_N: NDArray[np.int32]
    P_NK: NDArray[np.float32]
    method: str

    def __post_init__(self) -> None:
        n = len(self.rows_N)
        if (len(self.paths), self.y_N.shape, self.P_NK.shape) != (n, (n,), (n, len(self.classes))):
            raise DataError(f"answers of {n:,} images for {len(self.classes):,} classes do not fit their labels")

    def __len__(self) -> int:
        return len(self.rows_N)
