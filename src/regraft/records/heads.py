"""Which head was chosen, from which others, by which scores."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from regraft.errors import DataError
from regraft.records.base import Record

HeadKind = Literal["logistic_regression", "nearest_mean"]
Weighting = Literal["by_width", "equal"]


@dataclass(frozen=True)
class HeadSettings(Record):
    """What a head is fitted with.

    Attributes
    ----------
    kind:
        Multinomial logistic regression or nearest class mean.
    readouts:
        Names of the readouts it sees, standardised and joined.
    weighting:
        ``by_width``: every number counts the same; ``equal``: every readout counts the same.
    strength:
        L2 strength of the logistic regression (penalty ``strength / 2 x |W|^2`` beside the mean
        cross-entropy, features scaled to a mean squared length of 1), or the nearest mean's factor from
        distances to logits.
    """

    kind: HeadKind
    readouts: tuple[str, ...]
    weighting: Weighting
    strength: float

    def __post_init__(self) -> None:
        if not self.readouts or self.strength <= 0:
            raise DataError("a head needs at least one readout and a positive strength")

    @property
    def label(self) -> str:
        """Kind and readouts in a few words."""
        kind = "logistic regression" if self.kind == "logistic_regression" else "nearest class mean"
        joined = " + ".join(self.readouts)
        return f"{kind} on {joined}" + (", each counting the same" if self.weighting == "equal" else "")


@dataclass(frozen=True)
class Tried(Record):
    """One candidate and its held-out scores: mean log-loss (nats) and accuracy (fraction)."""

    settings: HeadSettings
    log_loss: float
    accuracy: float


@dataclass(frozen=True)
class Choice(Record):
    """The chosen head and everything that was tried, best first; ``by`` says on what it was judged."""

    chosen: HeadSettings
    by: str
    tried: tuple[Tried, ...] = ()
