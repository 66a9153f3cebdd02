"""What an inspection found: counts, duplicates, doubtful labels, shortcuts, and what to do about each."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from regraft.records.base import Record, columns, shown
from regraft.records.images import Quarantined
from regraft.records.results import Interval

#: From what spoils figures or models to what is merely good to know.
Severity = Literal["serious", "look", "note"]

_WIDTH = 110
_CLASSES_SHOWN = 12
_FILES_SHOWN = 3


@dataclass(frozen=True)
class ClassCount(Record):
    """Images of one class, in each split that the data has."""

    label: str
    images: int
    splits: dict[str, int]


@dataclass(frozen=True)
class Duplicate(Record):
    """Files that show the same picture.

    Attributes
    ----------
    kind:
        The largest change among them: ``exact`` (the same pixels), ``saved anew`` (compressed again or resized),
        ``mirrored`` or ``cropped``.
    files:
        Their paths.
    splits, classes:
        The splits and the classes that they lie in, each once.
    """

    kind: str
    files: tuple[str, ...]
    splits: tuple[str, ...]
    classes: tuple[str, ...]


@dataclass(frozen=True)
class LabelSuspect(Record):
    """One image, by how much its picture speaks against its label.

    Attributes
    ----------
    path, label:
        The file, and the class it is in.
    suggested:
        The likeliest other class.
    score:
        0 to 1: 1 where the label can't be right, 0 where nothing else can.
    likely:
        Whether it is called a likely error.
    """

    path: str
    label: str
    suggested: str
    score: float
    likely: bool


@dataclass(frozen=True)
class Shortcut(Record):
    """How well one cue beside the content predicts the class.

    Attributes
    ----------
    cue:
        What the guess was made from, such as ``JPEG quality``.
    alarm:
        Whether it gives away what it should not.
    is_content:
        Whether the cue belongs to what is shown as well: then it is told and never raises the alarm.
    accuracy:
        Of guesses from the cue alone, cross-validated.
    majority:
        What always naming the commonest class would reach.
    classes:
        Classes that the cue alone tells apart from all others.
    text, advice:
        The same in words, and what to do.
    """

    cue: str
    alarm: bool
    is_content: bool
    accuracy: Interval
    majority: float
    classes: tuple[str, ...]
    text: str
    advice: str


@dataclass(frozen=True)
class NameGroups(Record):
    """Groups that file names hint at.

    Attributes
    ----------
    what:
        What the groups may be, such as ``patient``.
    pattern:
        What to give to ``--group``.
    groups, images:
        How many groups there are, and how many images are in one.
    examples:
        Names of groups.
    mixed, apart:
        Accuracy of the probe where a group may lie on both sides, and where it may not; None where not measured.
    """

    what: str
    pattern: str
    groups: int
    images: int
    examples: tuple[str, ...]
    mixed: Interval | None = None
    apart: Interval | None = None


@dataclass(frozen=True)
class DataFinding(Record):
    """One thing found in the data.

    Attributes
    ----------
    id:
        A fixed name for it, such as ``duplicates_across_splits``.
    severity:
        ``serious``: figures or the model will be wrong; ``look``: worth a look; ``note``: good to know.
    count:
        How many images, groups or classes it is about.
    text, advice:
        What was found, and what to do about it.
    files:
        Paths of the images it is about, at most 200.
    """

    id: str
    severity: Severity
    count: int
    text: str
    advice: str
    files: tuple[str, ...] = ()


@dataclass(frozen=True)
class Shown(Record):
    """What a fit does to the pictures: shares of their area that the network never sees."""

    fit: str
    mean_hidden: float
    most_hidden: float


@dataclass(frozen=True, repr=False)
class Inspection(Record):
    """What ``regraft inspect`` found; nothing was changed or deleted.

    Attributes
    ----------
    out:
        The folder that it was written to.
    data:
        What was inspected.
    images, readable:
        Files in the index, and those of them that can be read.
    classes:
        Images by class and split.
    formats, modes, sizes:
        How many images have which format, kind of pixels and size (the commonest twenty of these).
    conversions:
        How many images needed what on the way to 8-bit RGB.
    unreadable:
        Files that can't be read, with the reason.
    shown:
        What the chosen fit hides; None where no image can be read.
    duplicates:
        Groups of files that show the same picture.
    label_suspects:
        All images whose label could be checked, the most doubtful first.
    shortcuts:
        What each cue beside the content gives away; empty with too few images a class.
    name_groups:
        Groups that file names hint at.
    findings:
        What was found, the most serious first.
    left_out:
        What was not looked at, and why.
    files:
        What was written, by name.
    """

    out: str
    data: str
    images: int
    readable: int
    classes: tuple[ClassCount, ...]
    formats: dict[str, int]
    modes: dict[str, int]
    sizes: dict[str, int]
    conversions: dict[str, int]
    unreadable: tuple[Quarantined, ...]
    shown: Shown | None
    duplicates: tuple[Duplicate, ...]
    label_suspects: tuple[LabelSuspect, ...]
    shortcuts: tuple[Shortcut, ...]
    name_groups: tuple[NameGroups, ...]
    findings: tuple[DataFinding, ...]
    left_out: tuple[str, ...]
    files: tuple[str, ...]

    def __repr__(self) -> str:
        return "\n".join([*self._counts(), "", *self._found(), *(f"not looked at: {text}" for text in self.left_out),
                          "", f"in {self.out}: {', '.join(self.files)}",
                          "Nothing was changed: what to do is up to you."])

    def _counts(self) -> Iterator[str]:
        yield (f"{self.readable:,} of {self.images:,} images of {len(self.classes):,} classes can be read"
               if self.readable < self.images else f"{self.images:,} images of {len(self.classes):,} classes")
        names = sorted({name for count in self.classes for name in count.splits})
        names = [name for name in ("train", "validation", "test") if name in names]
        rows = sorted(self.classes, key=lambda count: (-count.images, count.label))
        table = [["class", "images", *names]]
        table += [[shown(c.label), f"{c.images:,}", *(f"{c.splits.get(name, 0):,}" for name in names)]
                  for c in rows[:_CLASSES_SHOWN]]
        yield from columns(table, indent=2)
        if len(rows) > _CLASSES_SHOWN:
            least = rows[-1]
            yield f"  ... and {len(rows) - _CLASSES_SHOWN:,} more, down to {shown(least.label)} with {least.images:,}"
        kinds = ", ".join(f"{name} {count:,}" for name, count in self.formats.items())
        sizes = ", ".join(f"{name} ({count:,})" for name, count in list(self.sizes.items())[:3])
        if kinds:
            yield f"formats: {kinds}; commonest sizes in pixels: {sizes}"

    def _found(self) -> Iterator[str]:
        if not self.findings:
            yield "Nothing wrong was found."
        words = {"serious": "SERIOUS", "look": "LOOK", "note": "note"}
        for finding in self.findings:
            yield from textwrap.wrap(f"{words[finding.severity]}  {finding.text}", _WIDTH, subsequent_indent="    ")
            yield from textwrap.wrap(f"What to do: {finding.advice}", _WIDTH, initial_indent="    ",
                                     subsequent_indent="    ")
            if finding.files and finding.severity != "note":
                more = ", ..." if len(finding.files) > _FILES_SHOWN else ""
                yield "    e.g. " + ", ".join(shown(file) for file in finding.files[:_FILES_SHOWN]) + more
