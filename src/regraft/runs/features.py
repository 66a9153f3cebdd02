"""``features``: images to index, one layer of the frozen network, one file."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from regraft.data import index as data_index
from regraft.data import splits
from regraft.engines.contract import Engine
from regraft.errors import OutputError
from regraft.extraction import files
from regraft.extraction.extract import Features, extract, feature_key
from regraft.extraction.store import FeatureStore
from regraft.extraction.stream import Stream
from regraft.progress import Deadline, Progress
from regraft.records.base import shown
from regraft.records.features import FeatureExport, FeatureOrigin
from regraft.records.images import ImageIndex, Quarantined
from regraft.records.networks import Readout
from regraft.records.results import FeatureCount
from regraft.runs.engines import Work, answer_engine
from regraft.runs.folder import whole_file
from regraft.runs.train import network_and_rules
from regraft.settings import FeaturesSettings, size_in_bytes

#: Rows that are copied from the store to the file at a time.
_COPIED = 1024


def features(settings: FeaturesSettings, progress: Progress) -> FeatureExport:
    """Run one export; see :func:`regraft.features`."""
    started = time.monotonic()
    out = Path(settings.out).expanduser()
    kind = files.format_of(out)
    if out.exists() and (not settings.force or out.is_dir()):
        raise OutputError(f"{shown(str(out))} exists; take another --out, or replace a file with --force")
    index = _images(settings)
    for finding in index.findings:
        progress.say(str(finding))
    progress.say(repr(index))
    export = _Export(settings, index, progress)
    pooled = len(export.shape) == 1
    with whole_file(out, files.forecast(len(index), export.shape, out, pooled)) as half:
        # The name of the place that is written to does not end in what says how.
        count, quarantined = export.from_store(half, kind) if pooled else export.from_stream(half, kind)
    return FeatureExport(
        str(out), out.stat().st_size, export.network.name, settings.layer, export.shape, len(index) - len(quarantined),
        index.classes, count, len(quarantined), quarantined, round(time.monotonic() - started, 3))


def _images(settings: FeaturesSettings) -> ImageIndex:
    index = data_index.open_data(settings.data, layout=settings.layout, follow_links=settings.follow_links)
    return index if settings.limit is None else splits.limited(index, settings.limit, settings.seed)


class _Export:
    """One layer of one network on the images of an index, on its way to a file."""

    def __init__(self, settings: FeaturesSettings, index: ImageIndex, progress: Progress) -> None:
        self._settings, self._index, self._progress = settings, index, progress
        self._labels = index.y_N
        self.network, self._rules = network_and_rules(settings, index, "computing features", layers=True)
        from regraft.networks.readouts import find_layer

        self.readout, self.shape = find_layer(
            self.network.module, self.network.readouts, settings.layer, settings.pool, self._rules.size)

    def from_store(self, half: Path, kind: str) -> tuple[FeatureCount, tuple[Quarantined, ...]]:
        """Pooled features: small, so they are kept in the store, and found there by a later training."""
        # The readouts of the network are computed together, as every training does: nothing is computed twice.
        shared = self.readout in self.network.readouts
        readouts = self.network.readouts if shared else (self.readout,)
        with FeatureStore(self._settings.store) as store:
            engine = answer_engine(self._work(readouts), self._index, store, self._settings.engine,
                                   self._settings.device, self._progress)
            with store.space(feature_key(self._rules, self.network.digest, engine)) as space:
                found = extract(self._index, space, engine, self._rules, self._progress, Deadline(None),
                                self._settings.max_quarantined)
                self._write(half, kind, engine, self._copied(found), len(found.rows), found.rows, found.digests)
            store.trim(size_in_bytes(self._settings.store_limit))
        return FeatureCount(found.computed, found.reused), found.quarantined

    def _copied(self, found: Features) -> Iterator[NDArray[np.float32]]:
        for start in range(0, len(found.rows), _COPIED):
            yield found.read(np.arange(start, min(start + _COPIED, len(found.rows))), [self.readout.name])

    def from_stream(self, half: Path, kind: str) -> tuple[FeatureCount, tuple[Quarantined, ...]]:
        """Features in their own shape: large, so they go to the file as they come."""
        with FeatureStore(self._settings.store) as store:
            engine = answer_engine(self._work((self.readout,)), self._index, store, self._settings.engine,
                                   self._settings.device, self._progress)
        stream = Stream(self._index, engine, self._rules, self._progress, self._settings.max_quarantined)
        self._write(half, kind, engine, stream.blocks(self.shape), None, stream.rows, stream.digests)
        return FeatureCount(len(stream.rows), 0), stream.quarantined

    def _work(self, readouts: tuple[Readout, ...]) -> Work:
        return Work(self.network.name, self.network.module, self.network.digest, readouts, self._rules)

    def _write(self, half: Path, kind: str, engine: Engine, blocks: files.Blocks, count: int | None,
               rows: Sequence[int] | NDArray[np.int64], digests: Sequence[bytes]) -> None:
        """Write the blocks; ``rows`` and ``digests`` are complete once the blocks are at their end."""
        def columns() -> files.Columns:
            taken = self._index.take(np.asarray(rows, np.int64))
            return files.Columns(taken.y_N, taken.splits, list(taken.paths),
                                 np.frombuffer(b"".join(digests), np.uint8).reshape(len(digests), -1))

        origin = FeatureOrigin(
            self.network.name, self.network.digest, self.network.licence, self._settings.layer, self.readout.node,
            self.readout.pooling, engine.key, self._rules)
        files.write(half, kind, blocks, len(self._index) if count is None else count, self.shape,
                    counted=count is not None, columns=columns, classes=self._index.classes, origin=origin)
