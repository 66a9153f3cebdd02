"""``evaluate``: a saved model on given images, with the truth about which of them it knows already."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from regraft import evaluation
from regraft.data.index import open_data
from regraft.data.splits import apply_splits
from regraft.errors import DataError, UnknownNameError, UsageError
from regraft.extraction.extract import Rows, extract, feature_key
from regraft.extraction.store import FeatureStore
from regraft.extraction.stream import Stream
from regraft.model import Model, load
from regraft.progress import Deadline, Progress
from regraft.records.base import shown
from regraft.records.exported import ExportedRecord
from regraft.records.images import NO_SPLIT, SPLITS, ImageIndex, Quarantined
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


def evaluate(settings: EvaluateSettings, progress: Progress) -> Evaluation:
    """Run one evaluation; see :func:`regraft.evaluate`."""
    if is_onnx(settings.model):
        return _evaluate_file(load_onnx(settings.model, settings.module), settings, progress)
    answered = answer(settings, progress)
    model, features, split = answered.model, answered.features, answered.split
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
        # What the model has seen is no test of it, whatever the folder is called.
        P_NK, y_N, classes, split="seen" if seen and split == "test" else split,
        method="answers of the saved model", majority=int(np.argmax(record.training_counts)), seen=seen,
        unreadable=quarantined, rule=record.decision,
        note="" if not seen else f"{seen:,} of {len(y_N):,} images served for fitting or choosing this model")


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


def answer(settings: EvaluateSettings, progress: Progress) -> Answered:
    """Open the images and answer those that can be read."""
    model = load(settings.model, settings.module)
    index, split, y_N = _opened(settings, model.classes)
    return answer_images(model, index, split, y_N, settings, progress)


def answer_images(model: Model, index: ImageIndex, split: str, y_N: NDArray[np.int32], settings: EvaluateSettings,
                  progress: Progress, unknown: bool = False) -> Answered:
    """What a model answers for the images of an index that can be read; ``y_N`` are their labels, as it counts them.

    Of the settings, those count that say where and how fast, and ``max_quarantined``. With ``unknown``, it is told
    which images are unlike what the model knows.
    """
    record, rules = model.record, model.record.preprocessing
    network = model.frozen(settings.device, settings.engine)
    work = Work(record.backbone, network, record.weights_digest, record.readouts, rules)
    with FeatureStore(settings.store) as store:
        engine = answer_engine(work, index, store, settings.engine, settings.device, progress)
        with store.space(feature_key(rules, record.weights_digest, engine)) as space:
            features = extract(index, space, engine, rules, progress, Deadline(None), settings.max_quarantined)
            everything = np.arange(len(features.rows))
            features_ND = features.read(everything, record.head.readouts)
            P_NK = model.head.probabilities(features_ND)
            unknown_N = model.unlike(features_ND) if unknown else None
        store.trim(size_in_bytes(settings.store_limit))
    return Answered(model, index, split, features, y_N[features.rows], P_NK, unknown_N)


def _opened(settings: EvaluateSettings, classes: Sequence[str]) -> tuple[ImageIndex, str, NDArray[np.int32]]:
    """The images of the wanted split, its name, and their labels as the model counts."""
    index = open_data(settings.data, layout=settings.layout, follow_links=settings.follow_links)
    if settings.splits is not None:
        index = apply_splits(index, Path(settings.splits))
    check_slices(index, _slices(settings))
    index, split = _choose_split(index, settings.split)
    return index, split, _as_the_model_counts(index, classes)


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


def _as_the_model_counts(index: ImageIndex, classes: Sequence[str]) -> NDArray[np.int32]:
    """Labels in the model's numbering, by name; raises DataError for a class the model does not know."""
    number = {name: i for i, name in enumerate(classes)}
    counts = index.class_counts()
    strange = [(name, int(count)) for name, count in zip(index.classes, counts, strict=True)
               if count and name not in number]
    if strange:
        named = ", ".join(f"{shown(name)!r} ({count:,} images)" for name, count in strange[:5])
        raise DataError(f"the model does not know {named}; it knows {', '.join(map(shown, classes[:10]))}"
                        f"{', ...' if len(classes) > 10 else ''}; take the others out of the data to evaluate it")
    renumber = np.array([number.get(name, -1) for name in index.classes], np.int32)
    return renumber[index.y_N]
