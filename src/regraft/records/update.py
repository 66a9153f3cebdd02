"""What an update of a model did, and why."""

from __future__ import annotations

from dataclasses import dataclass

from regraft.records.base import Record, shown
from regraft.records.images import Finding
from regraft.records.pairing import PairedComparison
from regraft.records.results import Interval, TrainResult


@dataclass(frozen=True)
class NewClass(Record):
    """A class that the old model did not know.

    ``images`` of it came, ``test`` of them are test images, of which ``recall`` is the share that the candidate
    answers rightly; None without one.
    """

    label: str
    images: int
    test: int
    recall: Interval | None


@dataclass(frozen=True, repr=False)
class Drift(Record):
    """How the new images differ from the old, as the old model sees them.

    Images that it learned from or was chosen on are left out.

    Attributes
    ----------
    unknown_new, unknown_old:
        Share of the new images, and of the old test images, that it calls unknown; None without such images, or where
        it has no measure of it.
    accuracy_new, accuracy_old:
        Its accuracy on the new images of classes that it knows, and on the old test images; None without such images.
    text:
        What that says, in words.
    """

    unknown_new: Interval | None
    unknown_old: Interval | None
    accuracy_new: Interval | None
    accuracy_old: Interval | None
    text: str

    def __repr__(self) -> str:
        return self.text


@dataclass(frozen=True, repr=False)
class UpdateResult(Record):
    """Whether new images made a better model.

    Attributes
    ----------
    model:
        The model folder.
    promoted:
        Whether it holds the new model now.
    candidate:
        The folder of the new model where it was not promoted, else None.
    previous:
        The folder that the old model was moved to, or None.
    reasons:
        Why it was promoted or not, a sentence each.
    tolerance:
        By how much the accuracy may be lower.
    data:
        The new images, as given.
    old_images, new_images:
        How many of each are in which split.
    known:
        Images of the new data that the old model has been trained or tested on already, by their place.
    comparison:
        Old and new model on all test images of classes that both know.
    old_test:
        The same on the old test images alone; None where there are none.
    new_classes:
        Classes that the old model did not know.
    absent_classes:
        Classes of the old model of which no new image came.
    vanished_classes:
        Classes of the old model of which no image is left.
    drift:
        How the new images differ from the old.
    training:
        The training of the new model.
    findings:
        What was seen in the images.
    seconds:
        Wall time of the whole command, without imports.
    """

    model: str
    promoted: bool
    candidate: str | None
    previous: str | None
    reasons: tuple[str, ...]
    tolerance: float
    data: tuple[str, ...]
    old_images: dict[str, int]
    new_images: dict[str, int]
    known: int
    comparison: PairedComparison
    old_test: PairedComparison | None
    new_classes: tuple[NewClass, ...]
    absent_classes: tuple[str, ...]
    vanished_classes: tuple[str, ...]
    drift: Drift
    training: TrainResult
    findings: tuple[Finding, ...]
    seconds: float

    @property
    def exit_code(self) -> int:
        """What the command ends with: 0, or 3 where the new model was not promoted."""
        return 0 if self.promoted else 3

    def __repr__(self) -> str:
        if self.promoted:
            head = f"{shown(self.model)} was updated in {self.seconds:.1f} s"
            kept = f"; the old model is in {shown(self.previous or '')}"
        else:
            head = f"{shown(self.model)} was not updated"
            kept = f"; the candidate stays in {shown(self.candidate or '')}"
        features = self.training.features
        lines = [head + kept,
                 *(f"  {reason}" for reason in self.reasons),
                 f"  images: {_counts(self.old_images)}; new {_counts(self.new_images)}",
                 f"  features: {features.computed:,} computed, {features.reused:,} reused",
                 repr(self.comparison)]
        lines += [_told(new) for new in self.new_classes]
        for names, words in ((self.vanished_classes, "no image is left of"), (self.absent_classes, "no new image of")):
            if names:
                lines.append(f"{words} {', '.join(map(shown, names[:10]))}"
                             + (f" and {len(names) - 10:,} more" if len(names) > 10 else ""))
        return "\n".join([*lines, repr(self.drift)])


def _counts(images: dict[str, int]) -> str:
    return f"{sum(images.values()):,} ({', '.join(f'{name} {n:,}' for name, n in images.items() if n)})"


def _told(new: NewClass) -> str:
    figure = "none of them is a test image" if new.recall is None else (
        f"of {new.test:,} test images the candidate answers {new.recall!r} rightly")
    return f"new class {shown(new.label)}: {new.images:,} images, {figure}"
