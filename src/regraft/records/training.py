"""What a training by steps reports: one record an epoch, one forecast a phase."""

from __future__ import annotations

from dataclasses import dataclass

from regraft.records.base import Record
from regraft.records.networks import Cut


def in_views(augmented: int) -> str:
    """In how many views images are kept: as they are, and augmented in so many ways."""
    return f"{augmented + 1} views" if augmented else "1 view"


@dataclass(frozen=True)
class Rung(Record):
    """One step of the ladder of learning rates: its modules share a rate.

    ``parameters`` counts numbers that learn at it.
    """

    label: str
    rate: float
    parameters: int


@dataclass(frozen=True, repr=False)
class PhaseForecast(Record):
    """What a phase will do, known before its first step.

    Attributes
    ----------
    phase:
        Its name.
    learning, total:
        Parameters that learn, and all that the answer depends on, the head's included.
    head:
        Parameters of the head.
    cut:
        Where the network is cut: what lies before is computed once. None: behind everything that the head reads.
    ladder:
        Learning rates from the head downwards.
    views, cached:
        Augmented views of each image, which take turns with the image as it is (0: none, or fresh ones each epoch);
        whether activations at the cut are kept.
    bytes:
        What the kept activations take on the disk.
    prepared_seconds:
        How long tracing the network and computing what is kept took.
    """

    phase: str
    learning: int
    total: int
    head: int
    cut: Cut | None
    ladder: tuple[Rung, ...]
    views: int
    cached: bool
    bytes: int
    prepared_seconds: float = 0.0

    def __repr__(self) -> str:
        where = "behind the last layer" if self.cut is None else (
            "in front of the first layer") if self.cut.position < 0 else (
            f"after {self.cut.module or self.cut.name}, {' x '.join(map(str, self.cut.shape))}")
        kept = (f"; {in_views(self.views)} kept, {self.bytes / 2**20:,.1f} MiB in {self.prepared_seconds:.1f} s"
                if self.cached else "")
        lines = [f"phase {self.phase}: {self.learning:,} of {self.total:,} parameters learn, {self.head:,} of them in "
                 "the head", f"  cut {where}{kept}"]
        if len(self.ladder) > 1:
            lines += [f"  {rung.rate:<10.3g} {rung.parameters:>12,}  {rung.label}" for rung in self.ladder]
        return "\n".join(lines)


@dataclass(frozen=True, repr=False)
class Epoch(Record):
    """One line of ``run/history.jsonl``.

    Attributes
    ----------
    phase, number, step:
        Name of the phase; epochs and steps since the start of the training. Number 0 of a phase is how it began.
    train_loss, train_accuracy:
        Means over the epoch's images as they were learned from (augmented, with dropout); None where nothing
        has been learned yet.
    validation_loss, validation_accuracy:
        Of the validation images, after the epoch.
    rate:
        Learning rate of the head at the epoch's end.
    seconds:
        Since the start of the epoch, validation included.
    images:
        Images learned from.
    best:
        Whether no earlier epoch did better on validation.
    """

    phase: str
    number: int
    step: int
    train_loss: float | None
    train_accuracy: float | None
    validation_loss: float
    validation_accuracy: float
    rate: float
    seconds: float
    images: int
    best: bool

    def __repr__(self) -> str:
        learned = "" if self.train_loss is None else f"loss {self.train_loss:.3f}, accuracy {self.train_accuracy:.1%}; "
        return (f"{self.phase} {self.number}: {learned}validation loss {self.validation_loss:.3f}, accuracy "
                f"{self.validation_accuracy:.1%} ({self.seconds:.1f} s){' *' if self.best else ''}")
