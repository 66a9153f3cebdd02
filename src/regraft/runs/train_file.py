"""``train`` on a file of features: no network runs; the head is chosen and measured as on images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from regraft import model
from regraft.errors import BackboneError, MissingExtraError, UnknownNameError, UsageError
from regraft.extraction.files import FeatureFile, open_features
from regraft.progress import Deadline, Progress
from regraft.records.base import shown
from regraft.records.features import FeatureOrigin
from regraft.records.images import Finding, ImageIndex, Quarantined
from regraft.records.model import HeadRecord, ModelRecord
from regraft.records.plan import Run
from regraft.records.results import FeatureCount, TrainResult
from regraft.runs.folder import RunFolder
from regraft.runs.train import (
    Before,
    Fitted,
    divide,
    environment,
    fit,
    keep_answers,
    keep_map,
    number_of_folds,
    repeats,
    run,
    tell_images,
)
from regraft.runs.wanted import wanted
from regraft.settings import TrainSettings, declared

if TYPE_CHECKING:
    from regraft.networks.weights import State

#: Settings of the network's part, which is over.
_OF_IMAGES = ("backbone", "module", "strategy", "fit", "size", "test", "layout", "follow_links")


def train(settings: TrainSettings, progress: Progress) -> TrainResult:
    """Run one training on a file of features; see :func:`regraft.train`."""
    return run(settings, progress, _prepare, _train)


@dataclass(frozen=True)
class _Data:
    file: FeatureFile
    index: ImageIndex


def _prepare(settings: TrainSettings) -> _Data:
    defaults = TrainSettings(settings.data, strategy="features")
    changed = [name if item.setting.python_only else item.option for item in declared(TrainSettings)
               if (name := item.name) in _OF_IMAGES and getattr(settings, name) != getattr(defaults, name)]
    if changed:
        raise UsageError(f"{', '.join(changed)}: not for a file of features, which are computed already; leave it "
                         "away, or give the images themselves")
    file = open_features(Path(settings.data).expanduser())
    return _Data(file, divide(file.index, settings))


@dataclass(frozen=True)
class _OfFile:
    """Rows of a file for the images of an index; see :class:`regraft.extraction.extract.Rows`."""

    file: FeatureFile
    located_N: NDArray[np.int64]

    @property
    def rows(self) -> NDArray[np.int64]:
        """Every image has features."""
        return np.arange(len(self.located_N))

    @cached_property
    def digests(self) -> tuple[bytes, ...]:
        """Of the images of the index, in its order."""
        return tuple(self.file.digests[row] for row in self.located_N)

    @property
    def quarantined(self) -> tuple[Quarantined, ...]:
        """None: what can't be read is no row of a file."""
        return ()

    def read(self, which: NDArray[np.int64], readouts: Sequence[str]) -> NDArray[np.float32]:  # noqa: ARG002 - has one
        """The features of the given positions, float32 [M, D]; the file holds one readout."""
        return self.file.read(self.located_N[which])

    def width(self, readout: str) -> int:  # noqa: ARG002 - has one
        """How many numbers an image has."""
        return self.file.readout.dim


def _train(settings: TrainSettings, data: _Data, folder: RunFolder, progress: Progress, deadline: Deadline,
           before: Before) -> TrainResult:
    file, index, origin = data.file, data.index, data.file.origin
    tell_images(index, folder, progress)
    plan = Run(settings.strategy, "" if origin is None else origin.backbone,
                "" if origin is None else origin.weights_digest, None if origin is None else origin.preprocessing,
                (file.readout,), number_of_folds(settings, index), repeats(index), settings.seed, index.split_counts())
    folder.write("plan.json", plan)
    folder.write_quarantine(())
    network = _network(settings, origin)  # before the work: it may not be what made the features
    findings = (Finding("no_network", 1, f"the model will answer features only, not images: {network}"),) if isinstance(
        network, str) else ()
    for finding in findings:
        progress.say(str(finding))
    rows = _OfFile(file, file.rows_of(index))
    fitted = fit(index, rows, (file.readout,), plan, progress, deadline, wanted(settings, index.classes))
    _save(settings, data, folder, fitted, None if isinstance(network, str) else network)
    keep_answers(folder, index, rows, fitted.settled.held, fitted.P_test)
    keep_map(folder, index, rows, file.readout.name, settings.seed)
    result = TrainResult(
        out=str(folder.out), strategy=settings.strategy, backbone="none" if origin is None else origin.backbone,
        features=FeatureCount(0, len(index)), quarantined=0, validation=fitted.validation, test=fitted.test,
        seconds=before.seconds(), head=fitted.choice,
        findings=(*index.findings, *fitted.findings, *findings), conversions={})
    folder.write("record.json", {"format_version": 1, "result": result.to_dict(), "tried": fitted.choice.tried,
                                 "environment": environment()})
    return result


def _save(settings: TrainSettings, data: _Data, folder: RunFolder, fitted: Fitted, network: State | None) -> None:
    """Write a model that answers images where the network is at hand, else a head that answers features."""
    file, origin = data.file, data.file.origin
    counts = tuple(int(count) for count in fitted.training_counts)
    # What is no digest of pixels tells nothing of images.
    seen = fitted.seen if file.knows_pixels else model.SeenImages(frozenset(), frozenset())
    settled = fitted.settled
    record: ModelRecord | HeadRecord
    if origin is None or network is None:
        record = HeadRecord(data.index.classes, settings.strategy, file.path.name, origin, fitted.head.settings,
                            file.readout.dim, counts, **settled.recorded)
    else:
        record = ModelRecord(
            classes=data.index.classes, strategy=settings.strategy, backbone=origin.backbone,
            weights_digest=origin.weights_digest, licence=origin.licence, preprocessing=origin.preprocessing,
            readouts=(file.readout,), head=fitted.head.settings, training_counts=counts, start="features",
            **settled.recorded)
    model.save(folder.out, record, network, fitted.head, seen, settled.known)


def _network(settings: TrainSettings, origin: FeatureOrigin | None) -> State | str:
    """The tensors that made the features, or why they are not at hand.

    Raises BackboneError where a file was given for them that holds others.
    """
    if origin is None:
        return "their file does not say which network made them"
    try:
        from regraft.networks.build import load_backbone
    except ImportError:
        return str(MissingExtraError("answering images", "train"))
    given = None if settings.weights is None else Path(settings.weights)
    try:
        network = load_backbone(origin.backbone, given, origin.preprocessing.size)
        if network.digest != origin.weights_digest:
            raise BackboneError(
                f"{shown(str(given or origin.backbone))} holds other weights (digest {network.digest[:12]}...) than "
                f"those that made the features ({origin.weights_digest[:12]}...); give those with --weights FILE")
    except (BackboneError, MissingExtraError, UnknownNameError) as error:
        if given is not None:
            raise
        return str(error)
    return network.state()
