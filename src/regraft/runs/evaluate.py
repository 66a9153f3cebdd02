"""``evaluate``: a saved model on given images, with the truth about which of them it knows already."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

from regraft import evaluation
from regraft.data.index import open_data
from regraft.data.splits import apply_splits
from regraft.errors import DataError, UnknownNameError, UsageError
from regraft.extraction.extract import Features, Rows, extract, feature_key
from regraft.extraction.store import FeatureStore
from regraft.extraction.stream import Stream
from regraft.model import Model, load
from regraft.progress import Deadline, Progress
from regraft.records.base import shown
from regraft.records.exported import ExportedRecord
from regraft.records.images import NO_SPLIT, SPLITS, ImageIndex, Quarantined
from regraft.records.labels import LabelsEvaluation
from regraft.records.model import ModelRecord
from regraft.records.networks import Readout
from regraft.records.preprocessing import Preprocessing
from regraft.records.results import Evaluation
from regraft.runs.engines import Work, answer_engine
from regraft.runs.slicing import check_slices, slicings
from regraft.runtime import OnnxModel, is_onnx, load_onnx
from regraft.settings import EvaluateSettings, size_in_bytes


@dataclass(frozen=True)
class Answered:
    """What a model answers for the images of some data; positions count the readable ones.

    ``unknown_N`` says which of them are unlike what the model knows, bool [N]; None where that was not asked for or
    the model has no measure of it.
    """

    model: Model
    index: ImageIndex
    split: str
    features: Rows
    y_N: NDArray[np.int32]
    P_NK: NDArray[np.float64]
    unknown_N: NDArray[np.bool_] | None = None


class _Provenance(TypedDict):
    """What every evaluation says of where its figures come from."""

    split: str
    method: str
    seen: int
    note: str


def evaluate(settings: EvaluateSettings, progress: Progress) -> Evaluation | LabelsEvaluation:
    """Run one evaluation; see :func:`regraft.evaluate`."""
    if is_onnx(settings.model):
        return _evaluate_file(load_onnx(settings.model, settings.module), settings, progress)
    model = load(settings.model, settings.module)
    if model.several:
        return _evaluate_labels(model, settings, progress)
    answered = answer(model, settings, progress)
    features, split = answered.features, answered.split
    seen = model.seen.count(features.digests)
    figures = _judged(model.record, answered.P_NK, answered.y_N, model.classes, split, seen, features.quarantined)
    return _sliced(figures, answered.index.take(features.rows), answered.P_NK, answered.y_N, settings,
                   model.record.preprocessing)


def _sliced(figures: Evaluation, readable: ImageIndex, P_NK: NDArray[np.float64], y_N: NDArray[np.int32],
            settings: EvaluateSettings, rules: Preprocessing) -> Evaluation:
    """With figures of the slices that were asked for."""
    right_N = P_NK.argmax(1) == y_N
    return replace(figures, slices=tuple(
        found for one in slicings(readable, _slices(settings), rules)
        for found in evaluation.slice_figures(one.by, one.names, one.groups_N, right_N)))


def _slices(settings: EvaluateSettings) -> list[str]:
    return [name.strip() for name in (settings.slices or "").split(",") if name.strip()]


def _judged(record: ModelRecord | ExportedRecord, P_NK: NDArray[np.float64], y_N: NDArray[np.int32],
            classes: Sequence[str], split: str, seen: int, quarantined: Sequence[Quarantined]) -> Evaluation:
    return evaluation.judge(
        P_NK, y_N, classes, majority=int(np.argmax(record.training_counts)), unreadable=quarantined,
        rule=record.decision, **_provenance(split, seen, len(y_N)))


def _evaluate_file(model: OnnxModel, settings: EvaluateSettings, progress: Progress) -> Evaluation:
    """An exported file gives no features that the store could keep."""
    model.answerer(settings.device)  # which refuses another device
    if settings.engine not in ("auto", "onnxruntime"):
        raise UsageError(f"engine: {settings.engine!r} is not allowed; an exported file runs in onnxruntime")
    index, split, y_N = _opened(settings, model.classes)
    stream = Stream(index, _Probabilities(model), model.preprocessing, progress, settings.max_quarantined)
    P_NK = np.concatenate(list(stream.blocks((len(model.classes),)))).astype(np.float64)
    seen = sum(digest in model.record.seen for digest in stream.digests)
    figures = _judged(model.record, P_NK, y_N[stream.rows], model.classes, split, seen, stream.quarantined)
    return _sliced(figures, index.take(np.array(stream.rows, np.int64)), P_NK, y_N[stream.rows], settings,
                   model.preprocessing)


class _Probabilities:
    """An exported file as an engine whose features are probabilities."""

    key = "onnxruntime-cpu-fp32"
    batch = 4
    readouts: tuple[Readout, ...] = ()
    concurrent = 1

    def __init__(self, model: OnnxModel) -> None:
        self._model = model

    def run(self, pixels_BHWC: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Probabilities, float32 [B, K]."""
        return self._model.run(pixels_BHWC).astype(np.float32)


def answer(model: Model, settings: EvaluateSettings, progress: Progress) -> Answered:
    """Open the images and answer those that can be read; raises ModelError where the model has no network."""
    index, split, y_N = _opened(settings, model.record.classes)
    return answer_images(model, index, split, y_N, settings, progress)


def answer_images(model: Model, index: ImageIndex, split: str, y_N: NDArray[np.int32], settings: EvaluateSettings,
                  progress: Progress, unknown: bool = False) -> Answered:
    """What a model answers for the images of an index that can be read; ``y_N`` are their labels, as it counts them.

    Of the settings, those count that say where and how fast, and ``max_quarantined``. With ``unknown``, it is told
    which images are unlike what the model knows.
    """
    features, features_ND = _read(model, index, settings, progress)
    return Answered(model, index, split, features, y_N[features.rows], model.head.probabilities(features_ND),
                    model.unlike(features_ND) if unknown else None)


def _read(model: Model, index: ImageIndex, settings: EvaluateSettings, progress: Progress,
          ) -> tuple[Features, NDArray[np.float32]]:
    """Which images can be read, and what the model's head reads of them, float32 [N, D]."""
    record, rules = model.record, model.record.preprocessing
    network = model.frozen(settings.device, settings.engine)
    work = Work(record.backbone, network, record.weights_digest, record.readouts, rules)
    with FeatureStore(settings.store) as store:
        engine = answer_engine(work, index, store, settings.engine, settings.device, progress)
        with store.space(feature_key(rules, record.weights_digest, engine)) as space:
            features = extract(index, space, engine, rules, progress, Deadline(None), settings.max_quarantined)
            everything = np.arange(len(features.rows))
            features_ND = features.read(everything, record.head.readouts)
        store.trim(size_in_bytes(settings.store_limit))
    return features, features_ND


def _evaluate_labels(model: Model, settings: EvaluateSettings, progress: Progress) -> LabelsEvaluation:
    """Figures of a model that gives an image any number of labels."""
    rule = model.record.labels
    assert rule is not None
    if settings.slices is not None:
        raise UsageError("slices: groups are measured with one label an image so far; leave --slices away")
    index, split = _images(settings, settings.label_separator or rule.separator)
    number_K, Y_NK = _numbers(index, model.classes), np.zeros((len(index), len(model.classes)), np.bool_)
    known_K = number_K >= 0  # the others have no image here
    Y_NK[:, number_K[known_K]] = index.Y_NK[:, known_K]
    features, features_ND = _read(model, index, settings, progress)
    return evaluation.judge_labels(model.head.probabilities(features_ND), Y_NK[features.rows], model.classes,
                                   rule.thresholds, unreadable=features.quarantined,
                                   **_provenance(split, model.seen.count(features.digests), len(features_ND)))


def _provenance(split: str, seen: int, images: int) -> _Provenance:
    """Where figures come from; what the model has seen is no test of it, whatever the folder is called."""
    return {"split": "seen" if seen and split == "test" else split, "method": "answers of the saved model",
            "seen": seen,
            "note": "" if not seen else f"{seen:,} of {images:,} images served for fitting or choosing this model"}


def _opened(settings: EvaluateSettings, classes: Sequence[str]) -> tuple[ImageIndex, str, NDArray[np.int32]]:
    """The images of the wanted split, its name, and their labels as the model counts."""
    if settings.label_separator is not None:
        raise UsageError("label_separator: the model gives one label an image, so no cell is taken apart; leave "
                         "--label-separator away")
    index, split = _images(settings, None)
    return index, split, _numbers(index, classes)[index.y_N]


def _images(settings: EvaluateSettings, label_separator: str | None) -> tuple[ImageIndex, str]:
    """The images of the wanted split, and its name."""
    index = open_data(settings.data, layout=settings.layout, follow_links=settings.follow_links,
                      label_separator=label_separator)
    if settings.splits is not None:
        index = apply_splits(index, Path(settings.splits))
    check_slices(index, _slices(settings))
    return _choose_split(index, settings.split)


def _choose_split(index: ImageIndex, wanted: str | None) -> tuple[ImageIndex, str]:
    """The images of the wanted split and its name; without a wish the test split, or all where there is none."""
    allowed = (*SPLITS, "all")
    if wanted is not None and wanted not in allowed:
        raise UnknownNameError("split", wanted, allowed, f"one of {', '.join(allowed)}")
    if wanted is None:
        wanted = "test" if len(index.rows("test")) else "all"
    if wanted == "all":
        return index, wanted
    rows = index.rows(wanted)
    if not len(rows):
        there = [name for name, count in index.split_counts().items() if count]
        has = f"it has {', '.join(there)}" if there and (index.splits != NO_SPLIT).all() else "it is not divided"
        raise DataError(f"the data has no {wanted} split ({has}); --split all takes every image")
    return index.take(rows), wanted


def _numbers(index: ImageIndex, classes: Sequence[str]) -> NDArray[np.int32]:
    """The model's number of each class of the index, by name; -1 of one without an image.

    Raises DataError for a class that the model does not know.
    """
    number = {name: i for i, name in enumerate(classes)}
    counts = index.class_counts()
    strange = [(name, int(count)) for name, count in zip(index.classes, counts, strict=True)
               if count and name not in number]
    if strange:
        named = ", ".join(f"{shown(name)!r} ({count:,} images)" for name, count in strange[:5])
        raise DataError(f"the model does not know {named}; it knows {', '.join(map(shown, classes[:10]))}"
                        f"{', ...' if len(classes) > 10 else ''}; take the others out of the data to evaluate it")
    return np.array([number.get(name, -1) for name in index.classes], np.int32)
