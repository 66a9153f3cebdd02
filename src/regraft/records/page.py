"""Everything that the page of a run shows, gathered from its folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from regraft.records.answers import Answers
from regraft.records.base import Record, shown
from regraft.records.images import Quarantined
from regraft.records.labels import LabelCurves, LabelsResult
from regraft.records.model import HeadRecord, ModelRecord
from regraft.records.plan import Run
from regraft.records.results import TrainResult
from regraft.records.review import FeatureMap, Review
from regraft.records.training import Epoch, PhaseForecast


@dataclass(frozen=True)
class Attribution:
    """Which part of a picture spoke for an answer.

    ``row`` is the data row of ``run/splits.csv``, ``truth`` its own class, ``address`` a ``data:`` address.
    """

    row: int
    answer: str
    truth: str
    address: str


@dataclass(frozen=True)
class Pictures:
    """What a page shows of the images themselves.

    Attributes
    ----------
    thumbnails:
        ``data:`` addresses by data row of ``run/splits.csv``.
    attributions:
        Where the network looked, for a handful of images.
    note, attribution_note:
        Why there are none, or not all; else empty.
    """

    thumbnails: Mapping[int, str] = field(default_factory=dict)
    attributions: tuple[Attribution, ...] = ()
    note: str = ""
    attribution_note: str = ""


@dataclass(frozen=True)
class RunPage:
    """One run as its page shows it.

    Attributes
    ----------
    name, data, model:
        What to call it, the data's name, the model folder's name: the last parts of paths, never whole ones.
    unfinished:
        Why there is no model yet, in a sentence; empty where there is one.
    command:
        What to type for the same training again.
    settings:
        What the run was begun with.
    run, plan, plan_file:
        What was to be done, as a record, in words and, of a training by steps, as TOML.
    record, parameters:
        The saved model, and how many numbers its network has where that is known.
    result:
        Of a finished training.
    counts:
        Images of each class in each split, by label.
    quarantined:
        Files that can't be read.
    epochs, forecasts:
        Of a training by steps.
    answers, reviews:
        Stored answers by split, and what is worth looking at among them.
    feature_map:
        Images on a plane.
    environment:
        Versions that decide figures.
    roots:
        Number of the data folder that each answered image lies in, by data row, as ``splits.csv`` has it.
    private:
        Whether pictures and file names are left out.
    """

    name: str
    data: str
    model: str
    unfinished: str
    command: str
    settings: Mapping[str, Any]
    run: Run | None
    plan: str
    plan_file: str
    record: ModelRecord | HeadRecord | None
    result: TrainResult | None
    counts: Mapping[str, Mapping[str, int]]
    quarantined: tuple[Quarantined, ...]
    epochs: tuple[Epoch, ...]
    forecasts: tuple[PhaseForecast, ...]
    answers: Mapping[str, Answers]
    reviews: Mapping[str, Review]
    feature_map: FeatureMap | None
    environment: Mapping[str, str]
    roots: Mapping[int, str]
    pictures: Pictures = Pictures()
    private: bool = False


@dataclass(frozen=True)
class LabelsPage:
    """One run with several labels an image as its page shows it.

    ``curves`` are of test images where there are any; the rest is as in :class:`RunPage`.
    """

    name: str
    data: str
    model: str
    unfinished: str
    command: str
    run: Run | None
    record: ModelRecord | HeadRecord | None
    result: LabelsResult | None
    counts: Mapping[str, Mapping[str, int]]
    quarantined: tuple[Quarantined, ...]
    curves: LabelCurves | None
    environment: Mapping[str, str]
    private: bool = False


@dataclass(frozen=True, repr=False)
class ReportResult(Record):
    """What ``report`` wrote.

    Attributes
    ----------
    page:
        The page.
    bytes:
        Its size.
    runs:
        Model folders that it tells of.
    files:
        Pictures for reuse, and model cards.
    notes:
        What is missing on the page, and why.
    seconds:
        Wall time, imports apart.
    """

    page: str
    bytes: int
    runs: tuple[str, ...]
    files: tuple[str, ...]
    notes: tuple[str, ...]
    seconds: float

    def __repr__(self) -> str:
        lines = [f"{shown(self.page)}: {self.bytes / 1e6:.1f} MB, in {self.seconds:.1f} s"]
        if self.files:
            lines.append(f"  beside it {', '.join(map(shown, self.files))}")
        return "\n".join([*lines, *(f"  {shown(note)}" for note in self.notes)])
