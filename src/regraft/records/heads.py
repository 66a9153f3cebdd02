"""Which head was chosen, from which others, by which scores."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from regraft.errors import DataError
from regraft.records.base import Record

HeadKind = Literal["logistic_regression", "nearest_mean", "trained", "independent"]
Weighting = Literal["by_width", "equal"]


@dataclass(frozen=True)
class HeadSettings(Record):
    """What a head is fitted with.

    Attributes
    ----------
    kind:
        Multinomial logistic regression or nearest class mean, both solved on features; trained by steps; or
        ``independent``, a logistic regression for each of several labels an image.
    readouts:
        Names of the readouts it sees, standardised and joined.
    weighting:
        ``by_width``: every number counts the same; ``equal``: every readout counts the same.
    strength:
        L2 strength of the logistic regression (penalty ``strength / 2 x |W|^2`` beside the mean
        cross-entropy, features scaled to a mean squared length of 1), or the nearest mean's factor from
        distances to logits; 0 for a trained head.
    hidden:
        Activation after each hidden layer of a trained head; empty for a linear one.
    """

    kind: HeadKind
    readouts: tuple[str, ...]
    weighting: Weighting
    strength: float
    hidden: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.readouts or self.strength < 0 or (self.strength == 0 and self.kind != "trained"):
            raise DataError("a head needs at least one readout and, if it is solved, a positive strength")
        if self.hidden and self.kind != "trained":
            raise DataError("only a trained head has hidden layers")

    @property
    def label(self) -> str:
        """Kind and readouts in a few words."""
        kind = {"logistic_regression": "logistic regression", "nearest_mean": "nearest class mean",
                "independent": "a logistic regression for each label",
                "trained": f"{len(self.hidden) + 1} dense layers" if self.hidden else "linear head"}[self.kind]
        joined = " + ".join(self.readouts)
        return f"{kind} on {joined}" + (", each counting the same" if self.weighting == "equal" else "")


@dataclass(frozen=True)
class Tried(Record):
    """One candidate and its held-out scores: mean log-loss (nats) and accuracy (fraction).

    Of several labels an image, both are means over the labels too.
    """

    settings: HeadSettings
    log_loss: float
    accuracy: float


@dataclass(frozen=True)
class Choice(Record):
    """The chosen head and everything that was tried, best first; ``by`` says on what it was judged."""

    chosen: HeadSettings
    by: str
    tried: tuple[Tried, ...] = ()
