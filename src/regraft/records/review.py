"""What is worth looking at among the answers for one split."""

from __future__ import annotations

from dataclasses import dataclass

from regraft.errors import DataError
from regraft.records.base import Record
from regraft.records.results import Interval


@dataclass(frozen=True)
class Answered(Record):
    """The answer for one image.

    Attributes
    ----------
    row, path:
        The data row of ``run/splits.csv``, from 0, and the path there.
    split:
        Where it belongs.
    truth, answer:
        Its own class and the best answer.
    probability, own:
        Of the answer, and of its own class.
    """

    row: int
    path: str
    split: str
    truth: str
    answer: str
    probability: float
    own: float

    @property
    def right(self) -> bool:
        """Whether the answer is its own class."""
        return self.answer == self.truth


@dataclass(frozen=True)
class Confused(Record):
    """How many of the ``of`` images of one class were answered as another."""

    truth: str
    answer: str
    count: int
    of: int


@dataclass(frozen=True)
class Bin(Record):
    """Answers with a probability between ``low`` and ``high``: how sure they were on average, how many were right."""

    low: float
    high: float
    n: int
    probability: float
    right: Interval


@dataclass(frozen=True)
class PrecisionRecall(Record):
    """Precision and recall of one class at falling thresholds, and the area below; points are thinned."""

    label: str
    average_precision: float
    precision: tuple[float, ...]
    recall: tuple[float, ...]


@dataclass(frozen=True)
class Review(Record):
    """The answers for one split, looked through.

    Attributes
    ----------
    split, method, n:
        Which images, how the answers came about, how many.
    pairs:
        Classes that were confused, the most frequent first.
    mistakes:
        Wrong answers, those that gave their own class the least probability first; ``wrong`` counts all of them.
    sure, unsure:
        Right answers with the highest probability, a class each in turn; answers with the lowest.
    doubtful:
        Images whose own label got hardly any probability from a model that had not learned from them: either hard
        or labelled wrongly.
    bins:
        For the reliability diagram.
    curves:
        Precision and recall of the classes that are told the least well.
    """

    split: str
    method: str
    n: int
    wrong: int
    pairs: tuple[Confused, ...]
    mistakes: tuple[Answered, ...]
    sure: tuple[Answered, ...]
    unsure: tuple[Answered, ...]
    doubtful: tuple[Answered, ...]
    bins: tuple[Bin, ...]
    curves: tuple[PrecisionRecall, ...]


@dataclass(frozen=True)
class FeatureMap(Record):
    """Images on a plane: their features along the two directions in which they differ most.

    Attributes
    ----------
    rows:
        Data rows of ``run/splits.csv``, from 0.
    labels:
        Their classes.
    x, y:
        Coordinates, scaled to at most 1 from the middle.
    explained:
        Share of all variance that the plane shows.
    """

    rows: tuple[int, ...]
    labels: tuple[str, ...]
    x: tuple[float, ...]
    y: tuple[float, ...]
    explained: float

    def __post_init__(self) -> None:
        if len({len(column) for column in (self.rows, self.labels, self.x, self.y)}) > 1:
            raise DataError("the columns of a map must have the same length")
