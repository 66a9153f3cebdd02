"""What ``model.json`` holds: everything that decides answers besides the tensors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from regraft.errors import DataError
from regraft.records.base import Record
from regraft.records.features import FeatureOrigin
from regraft.records.heads import HeadSettings
from regraft.records.networks import Readout
from regraft.records.preprocessing import Preprocessing


@dataclass(frozen=True)
class OwnNetwork(Record):
    """A network that a caller gave as a module: how to know it again.

    Attributes
    ----------
    name:
        Of the module's class; told, never looked up.
    answers:
        Numbers that the readouts give for fixed pictures. A module that takes the same tensors but computes something
        else gives others.
    """

    name: str
    answers: tuple[float, ...]


@dataclass(frozen=True)
class ModelRecord(Record):
    """The metadata of a saved model.

    Attributes
    ----------
    classes:
        Names in the order of the head's outputs.
    backbone, weights_digest, licence:
        Catalogue name of the architecture (``own:NAME`` of the caller's own), digest of its tensors, licence of the
        weights.
    preprocessing:
        View 0.
    readouts:
        Every place that the training read, in order; the head uses those it names.
    precision:
        Of the model's answer.
    training_counts:
        Images of each class that the head was fitted on.
    start:
        What the training read: images, or a file of their features.
    own:
        Of a network that the caller gave as a module; the model is loaded with that module.
    """

    classes: tuple[str, ...]
    strategy: str
    backbone: str
    weights_digest: str
    licence: str | None
    preprocessing: Preprocessing
    readouts: tuple[Readout, ...]
    head: HeadSettings
    training_counts: tuple[int, ...]
    precision: Literal["fp32"] = "fp32"
    start: Literal["images", "features"] = "images"
    own: OwnNetwork | None = None

    def __post_init__(self) -> None:
        if len(set(self.classes)) != len(self.classes) or len(self.classes) < 2:
            raise DataError("a model needs at least two classes of different names")
        if len(self.training_counts) != len(self.classes):
            raise DataError("a model counts the training images of every class")
        missing = set(self.head.readouts) - {readout.name for readout in self.readouts}
        if missing:
            raise DataError(f"the head reads {sorted(missing)}, which the backbone does not give")

    @property
    def head_readouts(self) -> tuple[Readout, ...]:
        """The readouts that the head uses, in the head's order."""
        by_name = {readout.name: readout for readout in self.readouts}
        return tuple(by_name[name] for name in self.head.readouts)


@dataclass(frozen=True)
class HeadRecord(Record):
    """The metadata of a saved head without a network: it answers features, not images.

    Attributes
    ----------
    classes, strategy, head, training_counts:
        As in :class:`ModelRecord`.
    features:
        Name of the file it learned from.
    origin:
        What made those features, or None where the file does not say.
    dim:
        Numbers it takes for an image.
    """

    classes: tuple[str, ...]
    strategy: str
    features: str
    origin: FeatureOrigin | None
    head: HeadSettings
    dim: int
    training_counts: tuple[int, ...]

    def __post_init__(self) -> None:
        if len(set(self.classes)) != len(self.classes) or len(self.classes) < 2:
            raise DataError("a model needs at least two classes of different names")
        if len(self.training_counts) != len(self.classes):
            raise DataError("a model counts the training images of every class")
