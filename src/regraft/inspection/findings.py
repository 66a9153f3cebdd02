"""Measurements to findings: what was found, how serious it is, what to do about it. In words for anyone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from regraft.inspection import quality
from regraft.inspection.measuring import Measured
from regraft.inspection.names import alike_names
from regraft.inspection.outliers import Outliers
from regraft.inspection.shortcuts import LEAST_IMAGES
from regraft.records.base import shown
from regraft.records.images import ImageIndex, Quarantined
from regraft.records.inspection import (
    DataFinding,
    Duplicate,
    LabelSuspect,
    NameGroups,
    Severity,
    Shortcut,
)
from regraft.records.preprocessing import Preprocessing

#: The most serious first.
_ORDER: tuple[Severity, ...] = ("serious", "look", "note")

#: Paths that a finding names.
_FILES = 200

#: The largest class has this many times the images of the smallest before it is told.
_IMBALANCE = 10

#: With fewer images of a class no figure of it means anything.
_SMALL_CLASS = 5

#: Two classes that share at least this part of the smaller one are taken for one.
_SAME_CLASS = 0.5

#: A fit that hides more of the pictures than this, on average, is told.
_MUCH_HIDDEN = 0.4

_NAMES = 5


@dataclass(frozen=True)
class Seen:
    """What the pass over the files gave: the readable images of an index in its order, and the others."""

    index: ImageIndex
    measured: tuple[Measured, ...]
    unreadable: tuple[Quarantined, ...]
    rules: Preprocessing


def ordered(found: Iterator[DataFinding]) -> tuple[DataFinding, ...]:
    """The most serious first, else as they were found."""
    return tuple(sorted(found, key=lambda finding: _ORDER.index(finding.severity)))


def of_files(seen: Seen) -> Iterator[DataFinding]:
    """Unreadable, converted, turned files, and what was seen while opening the data."""
    if seen.unreadable:
        reasons = "; ".join(repr(q) for q in seen.unreadable[:2])
        yield _finding("unreadable", "serious" if len(seen.unreadable) > len(seen.measured) / 10 else "look",
                       len(seen.unreadable), f"{_files(len(seen.unreadable))} that can't be read: {reasons}.",
                       "Mend or remove them. Training leaves them out and says so; exclude.csv lists them.",
                       [q.path for q in seen.unreadable])
    for finding in seen.index.findings:
        if finding.kind != "alike_names":
            yield DataFinding(finding.kind, "note", finding.count, f"{finding.text}.",
                              "Nothing, where that is meant; else move or rename them.", finding.examples)
    turned = [row for row, m in enumerate(seen.measured) if "turned by EXIF" in m.notes]
    if turned:
        yield _rows_finding("turned", "note", seen, turned, f"{_files(len(turned))} with a turn noted in the "
                            "metadata (EXIF).", "Nothing: they are turned upright before use. Other programs may "
                            "not do that.")
    converted = [row for row, m in enumerate(seen.measured) if set(m.notes) - {"turned by EXIF", "grey"}]
    if converted:
        yield _rows_finding("converted", "note", seen, converted,
                            f"{_files(len(converted))} not stored as plain 8-bit colour, and converted.",
                            "Look at a few: transparency is laid on white, of several frames the first is used.")


def of_classes(seen: Seen) -> Iterator[DataFinding]:
    """Imbalance, classes that are too small, names that are nearly the same."""
    counts = seen.index.class_counts()
    classes = seen.index.classes
    small = [k for k in np.argsort(counts, kind="stable").tolist() if counts[k] < _SMALL_CLASS]
    if small:
        named = _named([f"{shown(classes[k])} ({counts[k]})" for k in small])
        yield _finding("small_classes", "serious" if len(small) == len(classes) else "look", len(small),
                       f"{_classes(len(small))} fewer than {_SMALL_CLASS} images: {named}.",
                       "Collect more, or merge them with others: nothing can be held out of so few to measure on.", ())
    most, least = int(counts.argmax()), int(counts.argmin())
    if counts[most] >= _IMBALANCE * counts[least] > 0:
        yield _finding("imbalance", "look", 1,
                       f"{shown(classes[most])} has {counts[most]:,} images, {shown(classes[least])} "
                       f"{counts[least]:,}.", "Read the balanced accuracy and the figures of each class: the plain "
                       "accuracy hides how the small ones fare.", ())
    for names in alike_names(classes):
        yield _finding("alike_names", "look", len(names),
                       f"Classes {' and '.join(repr(shown(name)) for name in names)} differ only by capitals, accents "
                       "or what stands between the words.", "Merge them where they mean the same.", ())


def of_quality(seen: Seen) -> Iterator[DataFinding]:
    """Single pictures that show little, and what the fit hides."""
    measured, size, fit = seen.measured, seen.rules.size, seen.rules.fit
    checks: tuple[tuple[str, NDArray[np.bool_], str, str], ...] = (
        ("blank", quality.blank(measured), "of one colour and nothing else",
         "Remove them; exclude.csv lists them for train --exclude."),
        ("dark", quality.dark(measured) & ~quality.blank(measured), "almost black",
         "Look at them; remove those on which you see nothing yourself."),
        ("blurred", quality.blurred(measured), "without fine detail where the others have some",
         "Look at them; blurred pictures are good to learn from only if you will have such later."),
        ("odd_aspect", quality.odd_aspect(measured), f"at least {quality.ODD_ASPECT:g} times as long as wide",
         "Try --fit pad, which shows them whole."),
        ("tiny", quality.tiny(measured, size), f"less than a quarter of the network's {size} pixels wide or high",
         "Use larger originals where there are any: they are enlarged, and detail is missing."),
    )
    for name, which, words, advice in checks:
        usual = quality.usual(which, seen.index.y_N)
        rare = np.flatnonzero(which & ~usual).tolist()
        if rare:
            yield _rows_finding(name, "look", seen, rare, f"{_files(len(rare))} {words}.", advice)
        if usual.any():
            yield _rows_finding(name, "note", seen, np.flatnonzero(usual).tolist(),
                                f"{_files(int(usual.sum()))} {words}; this is common in their classes.",
                                "Look at a few: it may be how these classes look.")
    how = quality.what_is_shown(measured, seen.rules)
    if how is not None and how.mean_hidden > 0:
        much = how.mean_hidden >= _MUCH_HIDDEN
        yield _finding("fit", "look" if much else "note", len(measured),
                       f"With --fit {fit} the network never sees {how.mean_hidden:.0%} of an average picture, "
                       f"{how.most_hidden:.0%} of the most cut one.",
                       "Where the subject stands at the edge, try --fit pad or --fit squash and compare.", ())


def of_duplicates(groups: Sequence[Duplicate]) -> Iterator[DataFinding]:
    """Copies across splits, across classes, and the rest."""
    across_splits = [g for g in groups if len(g.splits) > 1]
    across_classes = [g for g in groups if len(g.classes) > 1]
    rest = [g for g in groups if len(g.splits) < 2 and len(g.classes) < 2]
    if across_splits:
        yield _finding("duplicates_across_splits", "serious", len(across_splits),
                       f"{_pictures(len(across_splits))} in more than one of the given splits "
                       f"({_kinds(across_splits)}). The model is then tested on what it learned by heart, and figures "
                       "look better than they are.",
                       "Train with --exclude exclude.csv, which keeps the copy that is not learned from.",
                       _members(across_splits))
    if across_classes:
        yield _finding("duplicates_across_classes", "serious", len(across_classes),
                       f"{_pictures(len(across_classes))} in more than one class ({_kinds(across_classes)}).",
                       "Decide which class is right and remove the other copy, or add it to exclude.csv.",
                       _members(across_classes))
    if rest:
        yield _finding("duplicates", "look", len(rest),
                       f"{_pictures(len(rest))} that are there more than once ({_kinds(rest)}).",
                       "Train with --group groups.csv, which keeps copies on one side of every new split; --exclude "
                       "exclude.csv leaves exact copies out, all but one.", _members(rest))


def of_same_classes(groups: Sequence[Duplicate], counts: dict[str, int]) -> Iterator[DataFinding]:
    """Classes that are mostly the same pictures under two names."""
    shared: dict[tuple[str, str], int] = {}
    for group in groups:
        for i, first in enumerate(group.classes):
            for second in group.classes[i + 1:]:
                shared[first, second] = shared.get((first, second), 0) + 1
    for (first, second), number in shared.items():
        if number >= _SAME_CLASS * min(counts[first], counts[second]):
            yield _finding("same_classes", "serious", number,
                           f"Classes {shown(first)!r} and {shown(second)!r} share {_pictures(number)}.",
                           "They can't be told apart. Merge them, or find out which pictures belong where.", ())


def of_labels(suspects: Sequence[LabelSuspect]) -> Iterator[DataFinding]:
    """Labels that are probably wrong."""
    likely = [s for s in suspects if s.likely]
    if likely:
        first = likely[0]
        yield _finding("label_suspects", "look", len(likely),
                       f"{_files(len(likely))} with a doubtful label: the pictures look like another class, the first "
                       f"one like {shown(first.suggested)} instead of {shown(first.label)}.",
                       "Look at them in inspect.html and correct what is wrong. Some will be right: a rare view of "
                       "the subject looks wrong too.", [s.path for s in likely])


def of_outliers(seen: Seen, found: Outliers) -> Iterator[DataFinding]:
    """Images that are unlike their class or unlike everything."""
    if len(found.unlike_any):
        yield _rows_finding("unlike_any", "look", seen, found.unlike_any.tolist(),
                            f"{_files(len(found.unlike_any))} unlike anything else here.",
                            "Look at them: logos, error pages and wrong downloads look so, and rare good pictures.")
    if len(found.unlike_class):
        yield _rows_finding("unlike_class", "note", seen, found.unlike_class.tolist(),
                            f"{_files(len(found.unlike_class))} unlike the rest of the same class.",
                            "Look at them: they are rare views of the subject, or belong elsewhere.")


def of_shortcuts(found: Sequence[Shortcut]) -> Iterator[DataFinding]:
    """Cues that give the class away."""
    for shortcut in found:
        if shortcut.alarm:
            yield _finding("shortcut", "serious", max(1, len(shortcut.classes)),
                           f"{shortcut.text} A model may learn this trace instead of the subject, and fail on new "
                           "images that do not carry it.", shortcut.advice, ())
        elif shortcut.is_content and shortcut.accuracy.low > shortcut.majority + 0.1:
            yield _finding("cue", "note", max(1, len(shortcut.classes)), shortcut.text, shortcut.advice, ())


def of_names(found: NameGroups | None) -> Iterator[DataFinding]:
    """Groups hinted at by names; serious where they make figures too good."""
    if found is None:
        return
    text = (f"File names hint at groups: {found.images:,} images of {found.groups:,}, such as "
            f"{_named([shown(name) for name in found.examples])} (by {found.what}).")
    inflated = found.mixed is not None and found.apart is not None and found.apart.high < found.mixed.value
    if found.mixed is not None and found.apart is not None:
        text += (f" Measured with groups on both sides the accuracy is {found.mixed.value:.1%}, with each group on "
                 f"one side {found.apart.value:.1%}.")
    yield _finding("name_groups", "serious" if inflated else "look", found.groups, text,
                   f"Where pictures of one group are alike, train with --group '{found.pattern}'.", ())


def of_size(number: int) -> Iterator[DataFinding]:
    """So few images that hardly anything can be said."""
    if number < 10 * LEAST_IMAGES:
        yield _finding("few_images", "look", number, f"There are {number:,} readable images in all: too few to say "
                       "much about labels, shortcuts or how good a model will be.",
                       "Collect more before trusting a figure.", ())


def _finding(name: str, severity: Severity, count: int, text: str, advice: str, files: Sequence[str]) -> DataFinding:
    return DataFinding(name, severity, count, text, advice, tuple(files[:_FILES]))


def _rows_finding(name: str, severity: Severity, seen: Seen, rows: Sequence[int], text: str, advice: str,
                  ) -> DataFinding:
    return _finding(name, severity, len(rows), text, advice, [seen.index.paths[row] for row in rows[:_FILES]])


def _files(count: int) -> str:
    return "1 image" if count == 1 else f"{count:,} images"


def _pictures(count: int) -> str:
    return "1 picture" if count == 1 else f"{count:,} pictures"


def _classes(count: int) -> str:
    return "1 class has" if count == 1 else f"{count:,} classes have"


def _named(names: Sequence[str]) -> str:
    return ", ".join(names[:_NAMES]) + (f" and {len(names) - _NAMES:,} more" if len(names) > _NAMES else "")


def _kinds(groups: Sequence[Duplicate]) -> str:
    kinds = [group.kind for group in groups]
    return ", ".join(f"{kinds.count(kind):,} {kind}" for kind in dict.fromkeys(kinds))


def _members(groups: Sequence[Duplicate]) -> list[str]:
    return [file for group in groups for file in group.files]
