"""What ``model.json`` holds: everything that decides answers besides the tensors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from regraft.errors import DataError
from regraft.records.base import Record
from regraft.records.decisions import DecisionRule, LabelRule, Unknown
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
    temperature:
        The head's logits are divided by it; fitted on held-out answers.
    unknown, decision:
        When an image is unknown, and what is decided; None: no measure, no rule.
    task:
        ``one_label`` an image, or ``several_labels``: any number of them.
    labels:
        Of several labels: from which probability on each is given. Else None.
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
    temperature: float = 1.0
    unknown: Unknown | None = None
    decision: DecisionRule | None = None
    task: Literal["one_label", "several_labels"] = "one_label"
    labels: LabelRule | None = None

    def __post_init__(self) -> None:
        _check(self)
        several = self.task == "several_labels"
        if several != (self.labels is not None) or several != (self.head.kind == "independent"):
            raise DataError("a model of several labels has a threshold and a regression for each, another model none")
        if self.labels is not None and len(self.labels.thresholds) != len(self.classes):
            raise DataError("a model of several labels has a threshold for each")
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
    temperature, unknown, decision:
        As in :class:`ModelRecord`.
    """

    classes: tuple[str, ...]
    strategy: str
    features: str
    origin: FeatureOrigin | None
    head: HeadSettings
    dim: int
    training_counts: tuple[int, ...]
    temperature: float = 1.0
    unknown: Unknown | None = None
    decision: DecisionRule | None = None

    def __post_init__(self) -> None:
        _check(self)


def _check(record: ModelRecord | HeadRecord) -> None:
    """Raise DataError where classes, counts, temperature and rule do not fit each other."""
    classes = record.classes
    if len(set(classes)) != len(classes) or len(classes) < 2:
        raise DataError("a model needs at least two classes of different names")
    if len(record.training_counts) != len(classes):
        raise DataError("a model counts the training images of every class")
    if not 0 < record.temperature < float("inf"):
        raise DataError(f"a temperature is a positive number, not {record.temperature}")
    rule = record.decision or DecisionRule()
    strange = {threshold.label for threshold in rule.thresholds} - set(classes)
    if strange:
        raise DataError(f"the rule of decision names {sorted(strange)}, which the model does not know")
    if rule.costs and {len(rule.costs), *map(len, rule.costs)} != {len(classes)}:
        raise DataError("a rule of costs has a row and a column for every class")
