"""The images of an update: those of the old model's training, joined by the new ones, each on its side."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regraft.data import index as data_index
from regraft.data import joining
from regraft.data.splits import read_splits
from regraft.errors import DataError, MissingExtraError, ModelError, UsageError
from regraft.extraction.files import is_feature_file
from regraft.model import RUN, Model, load
from regraft.records.base import shown
from regraft.records.images import ImageIndex
from regraft.records.plan import Plan
from regraft.runs.folder import begun_with
from regraft.runs.train import divide, open_images
from regraft.settings import TrainSettings, UpdateSettings


@dataclass(frozen=True)
class Begun:
    """How the old model was trained: settings, the plan of a training by steps, and what updates have added."""

    settings: TrainSettings
    plan: Plan | None
    added: tuple[Mapping[str, Any], ...]


@dataclass(frozen=True)
class Joined:
    """Old and new images in their splits; ``new_N`` says which are new, bool [N].

    ``known`` images of the new data are old ones by their place; ``update`` names what is trained on these images.
    """

    index: ImageIndex
    new_N: NDArray[np.bool_]
    known: int
    added: tuple[Mapping[str, Any], ...]
    update: str


def take_up(folder: Path, settings: UpdateSettings) -> Begun:
    """What the model's own run says; raises ModelError or UsageError where it can't be taken up."""
    kept = begun_with(folder)
    if not kept:
        load(folder)  # which says so where there is no model at all
        raise ModelError(f"{shown(str(folder))} keeps no settings of its training (run/settings.json), which an update "
                         "takes up; train again with `regraft train`")
    if kept.get("module") is not None:
        raise UsageError(f"{shown(str(folder))} was trained with a network of your own, whose starting weights are in "
                         "no file; train again with regraft.train(..., module=...)")
    names = {field.name for field in dataclasses.fields(TrainSettings)} - {"data", "plan"}
    data = str(kept.get("data") if settings.originals is None else settings.originals)
    if is_feature_file(data):
        raise UsageError(f"{shown(str(folder))} was trained on a file of features, to which no images can be added; "
                         "write a new file with `regraft features`, and train again")
    if not (data.startswith("torchvision:") or Path(data).expanduser().exists()):
        raise DataError(f"the images that {shown(str(folder))} was trained on are not at {shown(data)} any more; say "
                        "where they are with --originals DATA")
    own = TrainSettings(data, **{name: value for name, value in kept.items() if name in names})
    plan = None if kept.get("plan") is None else Plan.from_dict(kept["plan"])
    return Begun(own, plan, tuple(kept.get("added", ())))


def join(old: Model, run: Begun, settings: UpdateSettings) -> Joined | None:
    """All images in their splits, or None where none is new."""
    own = steps().settle(run.settings, run.plan)[0] if run.plan is not None else run.settings
    index = open_images(replace(own, exclude=None))  # what was left out stands in no split, so it stays out
    for one in run.added:
        index = data_index.join(index, _opened(one))
    table = old.folder / RUN / "splits.csv"
    index = joining.taken_up(index, read_splits(table), table)
    n, known = len(index), 0
    there = {joining.where(index, row) for row in range(n)}
    added = given(settings)
    for one in added:
        more = _opened(one)
        rows = joining.strangers(more, there)
        known += len(more) - len(rows)
        more = more.take(rows)
        there |= {joining.where(more, row) for row in range(len(more))}
        index = data_index.join(index, more)
    if len(index) == n:
        return None
    index = index.with_findings(*data_index.alike_names(index.classes))
    if own.group is not None:
        index = data_index.with_groups(index, own.group)
    new_N = np.arange(len(index)) >= n
    contents_N = joining.contents(index, new_N)
    held = len(index.take(np.flatnonzero(~new_N)).rows("validation")) > 0
    index = joining.with_sides(index, new_N, contents_N, 0.0 if own.no_test else own.test_share,
                               own.validation_share if held else None, own.seed)
    index = index.with_findings(*joining.copy_findings(index, new_N, contents_N))
    # Groups and the limit have had their say.
    index = divide(index, replace(own, limit=None, group=None, splits=None), by_split=run.plan is not None)
    name = _name(old, index, new_N, contents_N)
    return Joined(index, new_N, known, (*run.added, *({**one, "update": name} for one in added)), name)


def given(settings: UpdateSettings) -> list[dict[str, Any]]:
    """The new data as the record of the run names it, wherever a later update is called from; raises UsageError."""
    found = []
    for data in (settings.data,) if isinstance(settings.data, str | Path) else settings.data:
        text = str(data)
        if is_feature_file(text):
            raise UsageError(f"{shown(text)} is a file of features; an update takes images")
        if not text.startswith("torchvision:"):
            text = str(Path(text).expanduser().resolve())
        found.append({"data": text, "layout": settings.layout, "follow_links": settings.follow_links})
    return found


def _opened(added: Mapping[str, Any]) -> ImageIndex:
    return data_index.open_data(added["data"], layout=added["layout"], follow_links=added["follow_links"])


def _name(old: Model, index: ImageIndex, new_N: NDArray[np.bool_], contents_N: Sequence[bytes]) -> str:
    """What names an update: a digest of the old model, of all places, labels and splits, and of the new files."""
    digest = hashlib.sha256(old.digest.encode())
    for row in range(len(index)):
        place = (int(index.root_ids[row]), index.paths[row], index.labels(row), int(index.splits[row]),
                 contents_N[row].hex() if new_N[row] else "")
        digest.update(repr(place).encode())
    return digest.hexdigest()


def require_comparable(old: Model, index: ImageIndex) -> None:
    """Raise UsageError where no image could tell which model is better."""
    labels = {index.classes[k] for k in np.unique(index.y_N[index.rows("test")])}
    if not labels & set(old.classes):
        raise UsageError(f"{shown(str(old.folder))} was trained without test images of its classes, and the new images "
                         "bring none, so old and new model can't be compared; give new images with a split folder test")


def steps() -> Any:
    """The module that trains by steps; raises MissingExtraError where PyTorch is not installed."""
    try:
        from regraft.runs import steps as module
    except ImportError:
        raise MissingExtraError("training by steps", "train") from None
    return module
