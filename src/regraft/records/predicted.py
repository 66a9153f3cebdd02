"""What a prediction over many images leaves: a row for each in a file, and how many there are of what."""

from __future__ import annotations

import json
from dataclasses import dataclass

from regraft.records.base import Record, shown
from regraft.records.results import Prediction

#: A cell of a table of predictions.
Cell = str | float | bool | None

#: Columns of a table of predictions, whatever its format.
COLUMNS = ("path", "label", "decision", "probability", "runner_up", "runner_up_probability", "labels", "unknown",
           "novelty", "model_digest", "error")

#: The same of a model of several labels.
LABELS_COLUMNS = ("path", "label", "probability", "labels", "probabilities", "model_digest", "error")


def labels_row(answer: Prediction, model_digest: str) -> dict[str, Cell]:
    """One row under the names of ``LABELS_COLUMNS``; labels are a JSON list, probabilities a JSON object."""
    texts = (None if value is None else json.dumps(value, ensure_ascii=False)
             for value in (answer.labels, answer.probabilities))
    cells = (answer.path, answer.label, answer.probability, *texts, model_digest, answer.error)
    return dict(zip(LABELS_COLUMNS, cells, strict=True))


def row(answer: Prediction, model_digest: str) -> dict[str, Cell]:
    """One row under the names of ``COLUMNS``; with an error, path, digest and error alone are filled.

    A set of labels is a JSON list.
    """
    others = {label: p for label, p in (answer.probabilities or {}).items() if label != answer.label}
    runner_up = max(others, key=others.__getitem__, default=None)
    cells = (answer.path, answer.label, answer.decision, answer.probability, runner_up,
             None if runner_up is None else others[runner_up],
             None if answer.labels is None else json.dumps(answer.labels, ensure_ascii=False), answer.unknown,
             answer.novelty, model_digest, answer.error)
    return dict(zip(COLUMNS, cells, strict=True))


@dataclass(frozen=True, repr=False)
class PredictedFile(Record):
    """A finished table of predictions.

    Attributes
    ----------
    out:
        The file.
    model_digest:
        Of the model that answered.
    images, errors:
        Rows, and those without an answer.
    labels:
        How many images got each label; of several labels an image counts for each of its own.
    continued:
        Rows that an interrupted run of the same command had made.
    """

    out: str
    model_digest: str
    images: int
    errors: int
    labels: dict[str, int]
    continued: int = 0

    def __repr__(self) -> str:
        counts = ", ".join(f"{shown(label)} {count:,}" for label, count in self.labels.items() if count)
        return (f"{self.images:,} images in {shown(self.out)}: {counts or 'no answers'}"
                + (f"; {self.errors:,} can't be read" if self.errors else "")
                + (f"; {self.continued:,} rows are of an interrupted run" if self.continued else ""))
