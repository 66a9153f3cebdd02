"""What a training will do, as data: written down before it runs."""

from __future__ import annotations

from dataclasses import dataclass

from regraft.records.base import Record
from regraft.records.networks import Readout
from regraft.records.preprocessing import Preprocessing


@dataclass(frozen=True)
class Plan(Record):
    """The plan of one training.

    Attributes
    ----------
    strategy:
        ``features``: the backbone is frozen, only the head learns.
    backbone, weights_digest:
        The network and the digest of its tensors; empty where features of unknown origin are learned from.
    preprocessing:
        View 0, or None there.
    readouts:
        Where features are read; the head is chosen among them.
    folds, repeats:
        Cross-validation that chooses and measures, or None where a validation split does.
    images:
        How many are in each split.
    """

    strategy: str
    backbone: str
    weights_digest: str
    preprocessing: Preprocessing | None
    readouts: tuple[Readout, ...]
    folds: int | None
    repeats: int
    seed: int
    images: dict[str, int]
