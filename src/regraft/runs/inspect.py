"""``inspect``: the files read once, beside the feature pass, and everything that can be told from that."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from regraft.data import index as data_index
from regraft.data import splits
from regraft.data.view import deep_range_of
from regraft.errors import MissingExtraError, OutputError
from regraft.extraction.extract import Features, extract, feature_key
from regraft.extraction.store import FeatureStore
from regraft.inspection import duplicates, findings, labels, lists, names, outliers, quality, shortcuts
from regraft.inspection.findings import Seen
from regraft.inspection.measuring import Measuring
from regraft.metrics import wilson
from regraft.progress import Deadline, Progress
from regraft.records.base import shown
from regraft.records.images import NO_SPLIT, SPLITS, ImageIndex, Quarantined
from regraft.records.inspection import (
    ClassCount,
    DataFinding,
    Duplicate,
    Inspection,
    LabelSuspect,
    NameGroups,
    Shortcut,
)
from regraft.records.preprocessing import Preprocessing
from regraft.records.results import Interval
from regraft.report import preview
from regraft.report.inspection import inspection_page
from regraft.runs.engines import Work, answer_engine
from regraft.runs.folder import fresh_folder, write_whole
from regraft.runs.gather import without_places
from regraft.runs.train import network_and_rules
from regraft.settings import InspectSettings, size_in_bytes

#: The network's side where none is installed that could tell.
_USUAL_SIDE = 224

#: Up to so many images labels are checked twice, by a head on the last layer, the classifier's outputs and four stages.
#: With more the order of suspects hardly changes, the cost does: then once, on the last layer and two stages, and of
#: very many images on the last layer alone, by fewer folds, which bounds memory and time.
_FEW, _MANY = 1_000, 5_000

#: Where the head is checked with and without groups, on at most this many images.
_GROUPED_ROWS = 2_000

_COMMONEST = 20

REPORT = "inspect.json"
_FILES = (REPORT, "inspect.html", "exclude.csv", "groups.csv", "preview.png")


def inspect(settings: InspectSettings, progress: Progress) -> Inspection:
    """Run one inspection; see :func:`regraft.inspect`."""
    out = _folder(settings)
    index = data_index.open_data(settings.data, layout=settings.layout, follow_links=settings.follow_links)
    if settings.limit is not None:
        index = splits.limited(index, settings.limit, settings.seed)
    progress.say(repr(index))
    with ExitStack() as stack:
        seen, features = _look(settings, index, progress, stack)
        found = _Found.of(settings, seen, features, progress)
    result = _result(settings, out, index, seen, found)
    return _write(result, index, seen, settings, progress)


def _folder(settings: InspectSettings) -> Path:
    if settings.out is None:
        return fresh_folder(f"inspect-{Path(str(settings.data)).stem}")
    out = Path(settings.out).expanduser()
    if (out / REPORT).exists() and not settings.force:
        raise OutputError(f"{shown(str(out))} holds an inspection; take another --out, or replace it with --force")
    if out.exists() and not (out / REPORT).exists() and (not out.is_dir() or any(out.iterdir())):
        raise OutputError(f"{shown(str(out))} is neither empty nor the folder of an inspection; take another --out")
    return out


@dataclass(frozen=True)
class _Probe:
    """Features of the readable images: the last layer's readout, and those that labels are checked on."""

    features: Features
    last: str
    readouts: tuple[str, ...]

    def last_layer(self) -> NDArray[np.float32]:
        """The last layer of all images, float32 [N, D]."""
        return self.features.read(np.arange(len(self.features.rows)), (self.last,))


def _look(settings: InspectSettings, index: ImageIndex, progress: Progress, stack: ExitStack,
          ) -> tuple[Seen, _Probe | str]:
    """What is seen in the files, and their features or why there are none; every file is read once."""
    try:
        network, rules = network_and_rules(settings, index, "comparing what pictures show")
    except MissingExtraError as missing:
        rules = Preprocessing(settings.size or _USUAL_SIDE, settings.fit, deep_range=deep_range_of(
            index, np.arange(len(index))))
        measuring = Measuring(index, rules)
        measuring.look_at_all(progress)
        return _seen(index, measuring, measuring.errors, rules), str(missing)
    measuring = Measuring(index, rules)
    store = stack.enter_context(FeatureStore(settings.store))
    stack.callback(store.trim, size_in_bytes(settings.store_limit))
    work = Work(network.name, network.module, network.digest, network.readouts, rules)
    engine = answer_engine(work, index, store, settings.engine, settings.device, progress)
    space = stack.enter_context(store.space(feature_key(rules, network.digest, engine)))
    features = extract(index, space, engine, rules, progress, Deadline(None), 1.0, watch=measuring.look)
    reasons = {q.path: q.reason for q in features.quarantined}
    errors = {row: reasons[index.paths[row]] for row in sorted(set(range(len(index))) - set(features.rows.tolist()))}
    *stages, last, logits = (readout.name for readout in network.readouts)
    few, many = (*stages[-4:], last, logits), (*stages[-2:], last)
    number = len(features.rows)
    probe = _Probe(features, last, few if number <= _FEW else many if number <= _MANY else (last,))
    return _seen(index, measuring, errors, rules), probe


def _seen(index: ImageIndex, measuring: Measuring, errors: Mapping[int, str], rules: Preprocessing) -> Seen:
    rows = [row for row in range(len(index)) if row not in errors]
    return Seen(index.take(np.array(rows, np.int64)), tuple(measuring.seen[row] for row in rows),
                tuple(Quarantined(index.paths[row], reason) for row, reason in sorted(errors.items())), rules)


@dataclass(frozen=True)
class _Found:
    """What was found in the readable images."""

    duplicates: tuple[Duplicate, ...]
    suspects: tuple[LabelSuspect, ...]
    shortcuts: tuple[Shortcut, ...]
    names: NameGroups | None
    outliers: outliers.Outliers
    left_out: tuple[str, ...]

    @classmethod
    def of(cls, settings: InspectSettings, seen: Seen, features: _Probe | str, progress: Progress) -> _Found:
        """Look for everything that the features allow."""
        y_N, probe = seen.index.y_N, None if isinstance(features, str) else features
        X_ND = None if probe is None else probe.last_layer()
        progress.say("comparing pictures with each other")
        groups = _groups(seen, X_ND)
        group_N = _group_numbers(len(y_N), [rows for _, rows in groups])
        hinted = names.name_groups(list(seen.index.paths), y_N)
        suspects: tuple[LabelSuspect, ...] = ()
        left_out: tuple[str, ...] = () if probe is not None else (
            f"pictures unlike the others, doubtful labels, copies that look very different: {features}",)
        found = outliers.outliers(X_ND, y_N) if X_ND is not None else outliers.Outliers(
            np.empty(0, np.int64), np.empty(0, np.int64))
        if probe is not None:
            suspects, reason = _suspects(seen, probe, group_N, settings.seed, progress)
            left_out += (reason,) if reason else ()
            hinted = hinted and _measured(hinted, seen, probe, settings.seed)
        cues = shortcuts.shortcuts(seen.measured, y_N, group_N, seen.index.classes, settings.seed)
        if not cues:
            left_out += (f"shortcuts: fewer than two classes have {shortcuts.LEAST_IMAGES} images",)
        return cls(tuple(_duplicate(seen.index, kind, rows) for kind, rows in groups), suspects, cues, hinted, found,
                   left_out)


def _groups(seen: Seen, X_ND: NDArray[np.float32] | None) -> list[tuple[duplicates.Kind, tuple[int, ...]]]:
    """Groups of exact copies, then groups with near ones among them; exact copies may stand in one of each."""
    exact = duplicates.same_content([m.content for m in seen.measured])
    copies = set(exact.pairs_P2[:, 1].tolist())
    first = np.array([row for row in range(len(seen.measured)) if row not in copies], np.int64)
    if len(first) < 2:
        return duplicates.grouped(len(seen.measured), [exact])
    grey = np.stack([seen.measured[row].grey for row in first])
    sides = np.array([min(seen.measured[row].width, seen.measured[row].height) for row in first])
    near = duplicates.near(grey, sides, None if X_ND is None else X_ND[first])
    located = duplicates.Pairs(first[near.pairs_P2], near.kinds)
    whole = duplicates.grouped(len(seen.measured), [exact, located])
    return [*duplicates.grouped(len(seen.measured), [exact]), *(group for group in whole if group[0] != "exact")]


def _group_numbers(number: int, groups: Sequence[Sequence[int]]) -> NDArray[np.int32] | None:
    """A group number for each image, copies sharing one, int32 [N]; None without copies. Larger groups stand last."""
    if not groups:
        return None
    numbers = np.arange(number, dtype=np.int32)
    for rows in groups:
        numbers[list(rows)] = rows[0]
    return numbers


def _duplicate(index: ImageIndex, kind: str, rows: Sequence[int]) -> Duplicate:
    given = sorted({int(index.splits[row]) for row in rows} - {NO_SPLIT})
    return Duplicate(kind, tuple(index.paths[row] for row in rows), tuple(SPLITS[split] for split in given),
                     tuple(sorted({label for row in rows for label in index.labels(row)})))


def _suspects(seen: Seen, probe: _Probe, group_N: NDArray[np.int32] | None, seed: int, progress: Progress,
              ) -> tuple[tuple[LabelSuspect, ...], str]:
    """All images by how doubtful their label is; or why that can't be told."""
    y_N, classes = seen.index.y_N, seen.index.classes
    kept_K = np.bincount(y_N, minlength=len(classes)) >= shortcuts.LEAST_IMAGES
    rows = np.flatnonzero(kept_K[y_N])
    if kept_K.sum() < 2:
        return (), f"labels: fewer than two classes have {shortcuts.LEAST_IMAGES} images"
    kept = np.flatnonzero(kept_K)
    y = np.searchsorted(kept, y_N[rows]).astype(np.int32)
    answers = _answers(probe, rows, y, None if group_N is None else group_N[rows], len(kept), seed, progress)
    if answers is None:
        return (), "labels: all images of a class are copies of one"
    found = labels.doubts(answers, y)
    return tuple(
        LabelSuspect(seen.index.paths[rows[row]], classes[kept[y[row]]], classes[kept[other]], round(float(score), 4),
                     bool(likely))
        for row, other, score, likely in zip(found.rows, found.suggested_M, found.score_M, found.likely_M, strict=True)
    ), ""


def _answers(probe: _Probe, rows: NDArray[np.int64], y_N: NDArray[np.int32], group_N: NDArray[np.int32] | None,
             classes: int, seed: int, progress: Progress) -> labels.HeldOut | None:
    repeats = 2 if len(rows) <= _FEW else 1
    blocks = {name: probe.features.read(rows, [name]) for name in probe.readouts}
    if len(rows) > _MANY:
        progress.say("checking labels")
        return labels.held_out_of_many(blocks, probe.readouts, y_N, group_N, classes, seed)
    with progress.task("checking labels", labels.number_of_fits(repeats)) as task:
        return labels.held_out(blocks, probe.readouts, y_N, group_N, classes, seed, repeats, task.advance)


def _measured(hinted: NameGroups, seen: Seen, probe: _Probe, seed: int) -> NameGroups:
    """The hint with the probe's accuracy where a group may lie on both sides, and where it may not."""
    grouped = data_index.with_groups(seen.index, hinted.pattern).groups
    assert grouped is not None
    y_N = seen.index.y_N
    rows = np.arange(len(y_N))
    if len(rows) > _GROUPED_ROWS:
        rows = np.sort(rows[splits.holdout(y_N, grouped, _GROUPED_ROWS / len(rows), seed)])
    blocks = {probe.last: probe.features.read(rows, [probe.last])}
    both = [labels.held_out(blocks, (probe.last,), y_N[rows], groups, len(seen.index.classes), seed, 1, lambda: None)
            for groups in (None, grouped[rows])]
    mixed, apart = (None if answers is None else _accuracy(answers, y_N[rows]) for answers in both)
    return NameGroups(hinted.what, hinted.pattern, hinted.groups, hinted.images, hinted.examples, mixed, apart)


def _accuracy(answers: labels.HeldOut, y_N: NDArray[np.int32]) -> Interval:
    right = answers.P_MK.argmax(1) == y_N[answers.rows]
    return Interval(*wilson(float(right.sum()), len(right)))


def _result(settings: InspectSettings, out: Path, index: ImageIndex, seen: Seen, found: _Found) -> Inspection:
    measured = seen.measured
    return Inspection(
        out=str(out), data=str(settings.data), images=len(index), readable=len(measured), classes=_counts(index),
        formats=_commonest(m.header.format for m in measured), modes=_commonest(m.header.mode for m in measured),
        sizes=_commonest(f"{m.width} x {m.height}" for m in measured),
        conversions=_commonest(note for m in measured for note in m.notes), unreadable=seen.unreadable,
        shown=quality.what_is_shown(measured, seen.rules), duplicates=found.duplicates, label_suspects=found.suspects,
        shortcuts=found.shortcuts, name_groups=() if found.names is None else (found.names,),
        findings=findings.ordered(_findings(index, seen, found)), left_out=found.left_out, files=())


def _findings(index: ImageIndex, seen: Seen, found: _Found) -> Iterator[DataFinding]:
    counts = dict(zip(seen.index.classes, seen.index.class_counts().tolist(), strict=True))
    yield from findings.of_size(len(seen.measured))
    yield from findings.of_same_classes(found.duplicates, counts)
    yield from findings.of_duplicates(found.duplicates)
    yield from findings.of_shortcuts(found.shortcuts)
    yield from findings.of_names(found.names)
    yield from findings.of_files(seen)
    yield from findings.of_classes(seen)
    yield from findings.of_labels(found.suspects)
    yield from findings.of_quality(seen)
    yield from findings.of_outliers(seen, found.outliers)


def _counts(index: ImageIndex) -> tuple[ClassCount, ...]:
    total = index.class_counts()
    by_split = {name: index.class_counts(index.rows(name)) for name in SPLITS if len(index.rows(name))}
    return tuple(ClassCount(label, int(total[k]), {name: int(counts[k]) for name, counts in by_split.items()})
                 for k, label in enumerate(index.classes))


def _commonest(words: Iterable[str]) -> dict[str, int]:
    return dict(Counter(words).most_common(_COMMONEST))


def _write(result: Inspection, index: ImageIndex, seen: Seen, settings: InspectSettings, progress: Progress,
           ) -> Inspection:
    """Write everything that the inspection leaves; returns the result with the names of the files in it."""
    out = Path(result.out)
    written: dict[str, str | bytes] = {
        "exclude.csv": _csv(("path", "reason"), lists.exclusions(seen, result.duplicates)),
        "groups.csv": _csv(("path", "group"), lists.together(result.duplicates))}
    if settings.preview and len(seen.index):
        written["preview.png"], reason = _preview(seen, settings.seed)
        result = replace(result, left_out=(*result.left_out, *reason))
    try:
        file_of = {path: index.file(row) for row, path in enumerate(index.paths)}
        of_page = replace(result, data=without_places(result.data))
        written["inspect.html"] = inspection_page(of_page, lambda path: file_of[path], seen.rules)
    except MissingExtraError as missing:
        progress.say(str(missing))
    written = {name: content for name, content in written.items() if content}
    result = replace(result, files=(REPORT, *written))
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name in _FILES:  # what an earlier inspection left must not stay beside this one's
            (out / name).unlink(missing_ok=True)
        for name, content in {**written, REPORT: result.to_json()}.items():
            write_whole(out / name, content)
    except OSError as error:
        raise OutputError(f"{shown(str(out))} can't be written ({error.strerror or error}); take another --out"
                          ) from None
    return result


def _preview(seen: Seen, seed: int) -> tuple[bytes, tuple[str, ...]]:
    """A PNG of samples and of each augmentation on the first image; and what it lacks."""
    pictures = preview.samples(seen.index, seen.rules, seed)
    reason: tuple[str, ...] = ()
    try:
        pictures = [*pictures, *preview.augmented(seen.index.file(0), seen.rules, seed)]
    except MissingExtraError as missing:
        reason = (f"augmentations in the preview: {missing}",)
    file = io.BytesIO()
    preview.sheet(pictures).save(file, "png")
    return file.getvalue(), reason


def _csv(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A CSV file's text; empty without rows."""
    listed = list(rows)
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([header, *listed])
    return text.getvalue() if listed else ""
