"""What a caller in Python may put in place of the loop's own parts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

    from regraft.training.views import CustomAugmentation


@dataclass(frozen=True)
class Hooks:
    """Own parts of a training by steps; what is None is Regraft's.

    Attributes
    ----------
    on_event:
        Receives every :class:`~regraft.records.training.PhaseForecast` and
        :class:`~regraft.records.training.Epoch`; returning False ends the training.
    loss:
        (class scores [B, K], labels int64 [B]) to a scalar.
    optimiser:
        (parameter groups, each with ``params``, ``lr`` and ``weight_decay``) to an optimiser.
    sampler:
        (labels int32 [N], number of the epoch in its phase, seed) to the rows of the epoch, int64, in order.
    augmentation:
        A function that varies pictures, in place of the phases' ``augment``.
    """

    on_event: Callable[[Any], object] | None = None
    loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | None = None
    optimiser: Callable[[list[dict[str, Any]]], torch.optim.Optimizer] | None = None
    sampler: Callable[[NDArray[np.int32], int, int], NDArray[np.int64]] | None = None
    augmentation: CustomAugmentation | None = None
