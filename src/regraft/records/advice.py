"""Advice: what was measured, what is expected of each way to train, what to do and why."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from regraft.progress import duration
from regraft.records.base import Record, columns, shown
from regraft.records.plan import Plan
from regraft.records.results import Interval

Basis = Literal["measured", "tried", "estimated"]

_WIDTH = 110

_STAGES = re.compile(r"stages\[-(\d+):\]")

#: What each basis means to someone who reads a table.
_KNOWN = {"measured": "measured", "tried": "short trial", "estimated": "rough guess"}


@dataclass(frozen=True)
class Forecast(Record):
    """What one way to train is expected to give and to cost on this machine.

    Attributes
    ----------
    strategy, learns:
        ``features``, ``partial``, ``full`` or ``scratch``; what learns, in a plan's words.
    accuracy, basis:
        Expected share of right answers with a 95 % interval. ``measured``: by cross-validation; ``tried``: from a short
        training on part of the images; ``estimated``: from what is usual, which is why it is so wide.
    seconds, bytes:
        Time, and room on the disk for what is kept.
    depth:
        Share of the network's arithmetic in front of the cut, which is computed once: 1 where only the head learns.
    """

    strategy: str
    learns: str
    accuracy: Interval
    basis: Basis
    seconds: float
    bytes: int
    depth: float

    @property
    def words(self) -> str:
        """What learns, for someone who does not know a plan's words."""
        if self.strategy != "partial":
            return {"features": "the answer only", "full": "everything"}.get(self.strategy, "everything, from nothing")
        count = _STAGES.match(self.learns)
        return f"the last {count[1]} stages too" if count and count[1] != "1" else "the last stage too"

    @property
    def line(self) -> str:
        """All of it in a line."""
        return (f"{self.strategy} (learns {self.words}): {self.accuracy!r} right ({_KNOWN[self.basis]}), about "
                f"{duration(self.seconds)}, {self.bytes / 2**20:,.0f} MiB kept")


@dataclass(frozen=True)
class Depth(Record):
    """How well a head does that reads one place of the network: ``depth`` as in :class:`Forecast`, or None."""

    readout: str
    depth: float | None
    accuracy: Interval


@dataclass(frozen=True)
class Scenario(Record):
    """Where the data stands in the published table of size and similarity, and whether measurement agrees.

    Attributes
    ----------
    size, images_per_class:
        ``small`` or ``large``, by the median of the images of a class that may be learned from.
    gain_of_doubling:
        Expected rise of accuracy with twice the images, from the learning curve.
    similarity:
        ``similar`` or ``different`` from what the network was trained on.
    gain_of_stages:
        Accuracy of earlier places joined with the last one less that of the last alone: value, low, high.
    entropy:
        How undecided the network's own classifier is about the images, 0 (sure) to 1 (no idea), mean.
    rule:
        The strategy that the table names.
    agrees:
        Whether that is what is recommended.
    """

    size: Literal["small", "large"]
    images_per_class: int
    gain_of_doubling: float
    similarity: Literal["similar", "different"]
    gain_of_stages: tuple[float, float, float]
    entropy: float
    rule: str
    agrees: bool


@dataclass(frozen=True)
class Pilot(Record):
    """A short training of the last stages on part of the images.

    ``frozen`` and ``trained`` are accuracies on the same ``images`` held out of it.
    """

    images: int
    learned_from: int
    frozen: float
    trained: float
    frozen_log_loss: float
    trained_log_loss: float
    seconds: float

    @property
    def pays(self) -> bool:
        """Whether training did clearly better: a point of accuracy, and the log-loss with it."""
        return self.trained - self.frozen >= 0.01 and self.trained_log_loss < self.frozen_log_loss


@dataclass(frozen=True)
class Augmented(Record):
    """What learning from changed pictures too does, measured on the frozen network.

    Attributes
    ----------
    augmentation:
        In a plan's words.
    images:
        Unchanged images that were answered by heads that had not learned from them.
    log_loss, changed_log_loss:
        Of heads that learned from the others as they are, and from one changed view of each beside.
    difference:
        The second less the first: value, low, high (95 %).
    """

    augmentation: str
    images: int
    log_loss: float
    changed_log_loss: float
    difference: tuple[float, float, float]

    @property
    def harms(self) -> bool:
        """Whether answers became worse by more than chance."""
        return self.difference[1] > 0


@dataclass(frozen=True)
class Recommended(Record):
    """The way to take: a strategy, what the head reads, the plan, and its file where one was written."""

    strategy: str
    reads: tuple[str, ...]
    plan: Plan
    file: str | None = None


@dataclass(frozen=True, repr=False)
class Advice(Record):
    """What to do with these images, from measurements on them.

    Attributes
    ----------
    data, backbone, images, classes:
        What it is about; ``images`` counts those that were looked at, which the test images are not among.
    recommended, reasons:
        What to do, and why, a sentence each.
    forecasts:
        What each way is expected to give and cost.
    scenario:
        Size and similarity.
    depths:
        Accuracy by place in the network, first to last.
    learning_curve:
        Images learned from and accuracy reached, at a quarter, half and all.
    pilot:
        The short training, where one was made.
    seconds:
        Wall time of the advice.
    augmentations:
        What each augmentation of the plan does, where stages may learn.
    not_tried:
        Why no short training was made although it could have changed the advice; else empty.
    """

    data: str
    backbone: str
    images: int
    classes: int
    recommended: Recommended
    reasons: tuple[str, ...]
    forecasts: tuple[Forecast, ...]
    scenario: Scenario
    depths: tuple[Depth, ...]
    learning_curve: tuple[tuple[int, float], ...]
    pilot: Pilot | None
    seconds: float
    augmentations: tuple[Augmented, ...] = ()
    not_tried: str = ""

    def __repr__(self) -> str:
        lines = [f"advice for {shown(self.data)}: {self.images:,} images of {self.classes} classes",
                 f"  seen by {shown(self.backbone)}, a network that was trained on a million everyday photos",
                 *textwrap.wrap(f"do this: {self.headline}", _WIDTH, subsequent_indent="  "), "why:"]
        for reason in self.reasons:
            lines += textwrap.wrap(reason, _WIDTH, initial_indent="  - ", subsequent_indent="    ")
        lines += ["what to expect on this machine:", *columns([_TITLES, *map(_cells, self.forecasts)], indent=2),
                  *_MEANING]
        lines += [f"next: {line}" for line in self._next()]
        return "\n".join([*lines, f"this took {duration(self.seconds)}; the test images were not looked at"])

    @property
    def headline(self) -> str:
        """What to do, in a line."""
        if self.recommended.strategy == "features":
            stages = ", those of earlier stages too" if self.scenario.similarity == "different" else ""
            worth = "whether fine-tuning pays is not known" if self.not_tried else "fine-tuning is not worth it here"
            return (f"keep the network frozen and learn only what its features mean{stages} (--strategy features); "
                    + worth)
        return "let the last stages of the network learn too (--strategy partial)"

    def _next(self) -> Iterator[str]:
        if self.recommended.file is not None:
            yield f"regraft train {shown(self.data)} --plan {shown(self.recommended.file)}"
        else:
            yield f"regraft train {shown(self.data)} --strategy {self.recommended.strategy}"


_TITLES = ("way", "what learns", "right answers", "known from", "time", "disk")
_MEANING = (
    "  right answers: expected share of new images named rightly; in brackets, the range it should lie in.",
    "  A rough guess comes from what is usual for such images, not from yours. Reading the pictures adds to the time.")


def _cells(one: Forecast) -> tuple[str, ...]:
    return (one.strategy, one.words, repr(one.accuracy), _KNOWN[one.basis], duration(one.seconds),
            f"{one.bytes / 2**20:,.0f} MiB")
