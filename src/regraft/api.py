"""The doors in Python: a function for each command, same name, same settings. Wiring only."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from regraft.progress import Progress, Silent, default
from regraft.settings import (
    BackbonesSettings,
    DemoSettings,
    EvaluateSettings,
    ExportSettings,
    PredictSettings,
    StoreSettings,
    TrainSettings,
    size_in_bytes,
    takes,
)

if TYPE_CHECKING:
    from regraft.demonstration import DemoResult
    from regraft.features.store import StoreUse
    from regraft.model import Model
    from regraft.records.networks import BackboneDetail, Backbones
    from regraft.records.results import Evaluation, ExportResult, Predictions, TrainResult


def _progress(quiet: bool) -> Progress:
    return Silent() if quiet else default()


@takes(TrainSettings)
def train(settings: TrainSettings) -> TrainResult:
    """Make a classifier of labelled images; say how good it is.

    The result names the folder (``out``) and holds the figures of validation and test.

    Raises
    ------
    DataError
        The images can't be used as they are.
    SettingsError, UsageError
        The call is wrong.
    OutputError
        ``out`` is finished already, in use or not writable.
    BackboneError
        The backbone's weights can't be had or do not fit.
    TimeLimitError
        The time limit was reached; what is computed is kept.
    """
    from regraft.runs.train import train as run

    return run(settings, _progress(settings.quiet))


@takes(EvaluateSettings)
def evaluate(settings: EvaluateSettings) -> Evaluation:
    """Measure a model on labelled images.

    The figures say how many of the images served for fitting or choosing the model.

    Raises ModelError (TamperedError) for an unusable model, DataError for unusable images.
    """
    from regraft.runs.evaluate import evaluate as run

    return run(settings, _progress(settings.quiet))


@takes(PredictSettings)
def predict(settings: PredictSettings) -> Predictions:
    """Answer images with a model.

    Label and probabilities of each, in input order. An unreadable image is an answer with its ``error``; the
    others are answered. Raises ModelError (TamperedError) for an unusable model.
    """
    paths = settings.paths if isinstance(settings.paths, Sequence) else [settings.paths]
    answers = load(settings.model).predict(
        [paths] if isinstance(paths, str) else list(paths), device=settings.device,
        follow_links=settings.follow_links, progress=_progress(settings.quiet or _is_few(paths)))
    if settings.csv is not None:
        from regraft.runs.folder import write_whole

        write_whole(Path(settings.csv), predictions_csv(answers))
    return answers


def _is_few(paths: str | Sequence[str | Path]) -> bool:
    """A handful of files needs no progress; a folder may hold any number."""
    listed = [paths] if isinstance(paths, str) else paths
    return len(listed) < 20 and not any(Path(path).is_dir() for path in listed)


def predictions_csv(answers: Predictions) -> str:
    """Path, label, probability, unknown and error of each prediction, with a header."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["path", "label", "probability", "unknown", "error"])
    for p in answers:
        writer.writerow([p.path, p.label, p.probability, p.unknown, p.error])
    return text.getvalue()


def load(path: str | Path) -> Model:
    """Load a model folder; every file that decides answers is checked first. See :meth:`Model.predict`.

    Raises ModelError where there is no finished model, TamperedError where a byte was changed.
    """
    from regraft.model import load as run

    return run(path)


@takes(ExportSettings)
def export(settings: ExportSettings) -> ExportResult:
    """Write a model as one ONNX file from pixels to probabilities.

    The file is compared with the model on images of the training first, and written only where both answer alike.

    Raises
    ------
    ModelError, TamperedError
        The model can't be used.
    ExportError
        The network can't be translated, there are no images to compare on, or the file does not agree.
    SettingsError
        ``out`` does not end in ``.onnx``.
    OutputError
        ``out`` can't be written.
    MissingExtraError
        The extra ``export`` is not installed.
    """
    from regraft.runs.export import export as run

    return run(settings, _progress(settings.quiet))


@takes(BackbonesSettings)
def backbones(settings: BackbonesSettings) -> Backbones | BackboneDetail:
    """List pre-trained networks, or tell all about one.

    Raises UnknownNameError with the nearest names.
    """
    from regraft.networks import catalogue
    from regraft.records.networks import Backbones

    if settings.name is None or any(c in settings.name for c in "*?["):
        found, more = catalogue.search(settings.name, settings.offline)
        return Backbones(tuple(found), more)
    catalogue.resolve(settings.name)
    from regraft.networks.build import describe

    return describe(settings.name)


@takes(StoreSettings)
def store(settings: StoreSettings) -> StoreUse:
    """Tell what the feature store holds; clear or shrink it.

    What a running command uses stays.

    Raises StoreError where the store can't be used.
    """
    from regraft.features.store import FeatureStore

    limit = 0 if settings.clear else None if settings.store_limit is None else size_in_bytes(settings.store_limit)
    with FeatureStore(settings.store) as opened:
        return opened.use(0 if limit is None else opened.trim(limit))


@takes(DemoSettings)
def demo(settings: DemoSettings) -> DemoResult:
    """Train and try a model on 1,797 real hand-written digits.

    The pictures come with scikit-learn; nothing is downloaded.
    """
    from regraft.demonstration import demonstrate

    return demonstrate(settings, train, evaluate, predict)
