"""What a model does with its probabilities: thresholds, costs, when to ask a person, what it calls unknown."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from regraft.errors import DataError
from regraft.records.base import Record

#: What an image's novelty is: a distance from the known images, or a lack of confidence.
NoveltyKind = Literal["relative_mahalanobis", "softmax", "energy"]

#: The decision that a person should look.
ASK = "ask"


@dataclass(frozen=True)
class Unknown(Record):
    """When an image is like nothing that the model knows.

    Attributes
    ----------
    kind:
        Which score.
    threshold:
        An image of a larger novelty is unknown.
    accept:
        Share of known images that were to stay below it.
    accepted:
        Share of the held-out known images that do.
    chosen_by:
        How the kind came about, in words.
    tried:
        Of each kind, the share of pairs of a left-out and a known image that it ranks rightly (area under the ROC
        curve); empty where no class was left out.
    """

    kind: NoveltyKind
    threshold: float
    accept: float
    accepted: float
    chosen_by: str
    tried: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not math.isfinite(self.threshold):
            raise DataError(f"the threshold of the unknown is a number, not {self.threshold}")


@dataclass(frozen=True)
class Threshold(Record):
    """A class that is decided for from a probability on, ``at_least``, so that ``recall`` of it is caught."""

    label: str
    recall: float
    at_least: float

    def __post_init__(self) -> None:
        if not (0 <= self.at_least <= 1 and 0 < self.recall <= 1):
            raise DataError(f"a threshold and a recall lie between 0 and 1, not {self.at_least} and {self.recall}")


@dataclass(frozen=True)
class DecisionRule(Record):
    """From probabilities to a decision.

    Attributes
    ----------
    thresholds:
        A class whose probability reaches its threshold is decided for, of several the one furthest above its own; of
        the other classes the most probable one, where none does.
    costs:
        ``costs[i][j]``: what it costs to decide for class j where i is right; the decision is the cheapest in
        expectation. Empty without costs; never together with thresholds.
    ask_cost:
        What it costs to ask a person, in the same unit; None where that is no choice.
    ask_below:
        A person is asked where the decided class is less probable than this; None: never.
    ask_right:
        The share of right decisions among the others for which that was chosen.
    set_share:
        The share of images whose right class the set of labels was to hold; None: there are no sets.
    set_at_least:
        A class is in the set from this probability on; the most probable one is in any case.
    """

    thresholds: tuple[Threshold, ...] = ()
    costs: tuple[tuple[float, ...], ...] = ()
    ask_cost: float | None = None
    ask_below: float | None = None
    ask_right: float | None = None
    set_share: float | None = None
    set_at_least: float = 0.0

    def __post_init__(self) -> None:
        if self.thresholds and self.costs:
            raise DataError("a decision follows thresholds or costs, not both")

    @property
    def decides(self) -> bool:
        """Whether a decision may be another than the most probable class."""
        return bool(self.thresholds or self.costs or self.ask_below is not None)


@dataclass(frozen=True)
class Requirement(Record):
    """The share ``recall`` of the images of a class must be caught."""

    label: str
    recall: float


@dataclass(frozen=True)
class Wanted(Record):
    """What a training is to settle besides the head; see the settings ``require``, ``costs``, ``ask`` and so on."""

    accept: float
    requirements: tuple[Requirement, ...] = ()
    costs: tuple[tuple[float, ...], ...] = ()
    ask_cost: float | None = None
    ask: float | None = None
    conformal: float | None = None


@dataclass(frozen=True)
class LabelRule(Record):
    """How a model answers that gives an image any number of labels.

    Attributes
    ----------
    thresholds:
        A label is given from this probability on; one for each class, in their order.
    chosen_by:
        How the thresholds were chosen, in words.
    separator:
        What stood between the labels in a cell of the training's table; ``evaluate`` reads its table so.
    """

    thresholds: tuple[float, ...]
    chosen_by: str
    separator: str

    def __post_init__(self) -> None:
        if not all(0 <= threshold <= 1 for threshold in self.thresholds):
            raise DataError("a threshold of a label lies in 0..1")
