"""A first look at divided images through a frozen network: what heads on it reach, place by place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from regraft.errors import DataError
from regraft.extraction.store import FeatureStore
from regraft.heads.choose import Candidate
from regraft.heads.probe import FOLDS, Probe, joined, measure
from regraft.progress import Deadline, Progress
from regraft.records.advice import Forecast
from regraft.records.images import ImageIndex
from regraft.runs.rank import NOTHING_HELD, SCORED, Race, Runner
from regraft.runs.train import blocks_of
from regraft.settings import TrainSettings
from regraft.strategy.advising import Frozen, Measured, entropy, expected
from regraft.strategy.learning_curve import fit

#: Images on which single places of the network are compared.
_PLACES = 1_000


def images_per_class(index: ImageIndex, rows: NDArray[np.int64]) -> int:
    """Of the median class, among some rows."""
    counts = index.class_counts(rows)
    return int(np.median(counts[counts > 0]))


def features_forecast(found: Frozen, runner: Runner, images: int, solving: float) -> Forecast:
    """What frozen features of so many images are expected to give, where solving heads takes so many seconds."""
    seconds, size = first_pass(runner, images)
    return Forecast("features", "head", *expected("features", found, None), round(seconds + solving, 1), size, 1.0)


def first_pass(runner: Runner, images: int) -> tuple[float, int]:
    """Seconds of the first pass over so many images, and bytes of what it leaves in the store."""
    return images / runner.images_per_second, images * 4 * sum(readout.dim for readout in runner.network.readouts)


@dataclass(frozen=True)
class Part:
    """Some of the images looked at: features [N, D] by readout, classes from 0 on, files, digests of their pixels."""

    blocks: Mapping[str, NDArray[np.float32]]
    y_N: NDArray[np.int32]
    groups_N: NDArray[np.int32] | None
    classes: int
    files: tuple[Path, ...]
    digests: tuple[bytes, ...]


class Look:
    """The network of the settings on divided images, the test images left alone.

    Attributes
    ----------
    runner:
        The network, its engine and its speed.
    features:
        Of the images looked at, whose rows of the index ``features.rows`` are.
    seed:
        Of the settings.
    store, spaces:
        Where features are kept, and what ends with the look.
    """

    def __init__(self, settings: TrainSettings, index: ImageIndex, store: FeatureStore, spaces: ExitStack,
                 progress: Progress, deadline: Deadline, most: int | None = None) -> None:
        """Compute the features of the images that may be learned from, of ``most`` of them at most."""
        race = Race(settings, index, store, spaces, progress, deadline)
        self.runner = race.enter(settings)
        self.features = race.extract(self.runner, np.sort(race.order[:most]))
        self.seed = settings.seed
        self.store, self.spaces = store, spaces
        self._index, self._learnable = index, race.order
        self._taken = race.order[np.isin(race.order, self.features.rows)][:SCORED]
        self._names = [readout.name for readout in self.runner.network.readouts]
        self._blocks = blocks_of(self.features, np.searchsorted(self.features.rows, self._taken), self._names)
        labels, y_N = np.unique(index.y_N[self._taken], return_inverse=True)
        self._classes, self._y_N = len(labels), y_N.astype(np.int32)
        self._groups = None if index.groups is None else index.groups[self._taken]

    def _probe(self, head: Candidate, count: int) -> Probe | None:
        some = {name: self._blocks[name][:count] for name in head.readouts}
        groups = None if self._groups is None else self._groups[:count]
        return measure(some, self._y_N[:count], groups, self._classes, [head], self.seed)

    def _needed(self, head: Candidate, count: int) -> Probe:
        found = self._probe(head, count)
        if found is None:
            raise DataError(NOTHING_HELD)
        return found

    def part(self, most: int, readouts: Sequence[str]) -> Part:
        """The first images, each class with its share of them."""
        rows = self._taken[:most]
        positions = np.searchsorted(self.features.rows, rows)
        return Part({name: self._blocks[name][:most] for name in readouts}, self._y_N[:most],
                    None if self._groups is None else self._groups[:most], self._classes,
                    tuple(self._index.file(int(row)) for row in rows),
                    tuple(self.features.digests[int(position)] for position in positions))

    def frozen(self) -> Frozen:
        """What the last place tells, and the joined ones; raises DataError where nothing can be held out."""
        n = len(self._taken)
        last, several = self._needed(Candidate((self._names[-2],)), n), self._needed(joined(self._names), n)
        return Frozen(last, several, images_per_class(self._index, self._learnable))

    def measured(self) -> tuple[Measured, tuple[tuple[int, float], ...]]:
        """What each place tells too, and accuracies after learning from a quarter, half and all."""
        n, found = len(self._taken), self.frozen()
        places = {name: self._needed(Candidate((name,)), min(n, _PLACES)) for name in self._names}
        head = Candidate(found.best.settings.readouts, found.best.settings.weighting)
        points = {count: self._probe(head, count) for count in (n // 4, n // 2) if count} | {n: found.best}
        known = {round(count * (FOLDS - 1) / FOLDS): probe for count, probe in points.items() if probe is not None}
        curve = fit(list(known), [int((~probe.right).sum()) for probe in known.values()],
                    [len(probe.right) for probe in known.values()])
        measured = Measured(found.last, found.joined, found.images_per_class, places,
                            curve.gain_of_doubling(len(self.features.rows)), entropy(self._blocks[self._names[-1]]))
        return measured, tuple((count, probe.accuracy) for count, probe in known.items())
