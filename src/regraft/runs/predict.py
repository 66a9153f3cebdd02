"""``predict``: images to answers, to a table and into folders."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from regraft.answering import Answerer, Named, named_sources
from regraft.errors import UsageError
from regraft.progress import Progress
from regraft.records.labels import LabelsPrediction
from regraft.records.predicted import COLUMNS, LABELS_COLUMNS, PredictedFile, labels_row, row
from regraft.records.results import Prediction, Predictions
from regraft.settings import PredictSettings

if TYPE_CHECKING:
    from regraft.runs.prediction_table import Journal


def predict(settings: PredictSettings, model: Any, progress: Progress) -> Predictions | PredictedFile:
    """Run one prediction with a loaded model; see :func:`regraft.predict`."""
    if model.several and settings.sort_into is not None:
        raise UsageError("sort_into: a picture goes into one folder, and the model gives several labels an image; "
                         "leave --sort-into away")
    table = settings.out if settings.out is not None else settings.csv
    paths = [settings.paths] if isinstance(settings.paths, str | Path) else list(settings.paths)
    sources = list(named_sources(paths, settings.follow_links))
    answerer: Answerer = model.answerer(settings.device)
    if table is None:
        answers = Predictions(tuple(answerer.answers(sources, progress)))
        _sort(settings, model, answers)
        return answers
    return _to_table(settings, Path(table).expanduser(), model, sources, answerer, progress)


def _to_table(settings: PredictSettings, table: Path, model: Any, sources: Sequence[Named], answerer: Answerer,
              progress: Progress) -> Predictions | PredictedFile:
    """Answers by way of a journal: none is computed twice, and few are in memory unless all are asked for."""
    # One picture's answer does not wait for what writes tables.
    from regraft.runs.prediction_table import open_journal, require_format, write_table

    require_format(table)
    columns, as_row = (LABELS_COLUMNS, labels_row) if model.several else (COLUMNS, row)
    # An exported file has its folder's digest whatever its precision, and other answers.
    with open_journal(table, sources, f"{model.digest} {model.record.precision}",
                      LabelsPrediction if model.several else Prediction) as journal:
        continued = journal.count
        if continued:
            progress.say(f"continuing after {continued:,} of {len(sources):,} images")
        journal.add(answerer.answers(sources[continued:], progress))
        _sort(settings, model, journal)
        write_table(table, (as_row(answer, model.digest) for answer in journal), columns)
        if settings.out is None:
            return Predictions(tuple(journal))
        return _summary(table, model, journal, continued)


def _sort(settings: PredictSettings, model: Any, answers: Iterable[Prediction]) -> None:
    if settings.sort_into is not None:
        from regraft.runs.sorting import sort_into

        sort_into(Path(settings.sort_into).expanduser(), model.classes, answers)


def _summary(table: Path, model: Any, journal: Journal, continued: int) -> PredictedFile:
    counts: Counter[str | None] = Counter()
    errors = 0
    for answer in journal:
        errors += answer.error is not None
        counts.update((answer.labels or ()) if model.several else (answer.label,))
    labels = {label: counts[label] for label in model.classes}
    return PredictedFile(str(table), model.digest, journal.count, errors, labels, continued)
