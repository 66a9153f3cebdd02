"""Where a phase's batches come from: activations kept in the store, or pictures read anew, with the price of each."""

from __future__ import annotations

import functools
import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from regraft.data.decode import read_file
from regraft.engines.contract import Engine
from regraft.engines.light import lightened
from regraft.engines.pytorch import choose_device
from regraft.errors import OutputError, TrainingError
from regraft.extraction.extract import Features, Route, extract_view
from regraft.extraction.store import FeatureKey, FeatureStore, Numbers, Space
from regraft.networks.build import Network
from regraft.networks.graph import Graph, Prefix
from regraft.networks.lite import LiteFront
from regraft.networks.reader import Reader
from regraft.networks.readouts import Tapped
from regraft.networks.weights import weights_digest
from regraft.progress import Deadline, Progress
from regraft.records.images import ImageIndex
from regraft.records.networks import Readout
from regraft.records.preprocessing import Preprocessing
from regraft.records.training import in_views
from regraft.records.views import augmentation
from regraft.runs.engines import Work, views_engine
from regraft.settings import TrainSettings, size_in_bytes
from regraft.training.batches import Batches, Fresh, Kept
from regraft.training.hooks import Hooks
from regraft.training.phases import Understood, kept_bytes, kept_formats, may_keep
from regraft.training.views import Views

#: Share of the free disk that kept activations may take.
_DISK_SHARE = 0.8


class _Shared(Protocol):
    """What a source reads of the training it belongs to."""

    @property
    def settings(self) -> TrainSettings: ...
    @property
    def hooks(self) -> Hooks: ...
    @property
    def rules(self) -> Preprocessing: ...
    @property
    def network(self) -> Network: ...
    @property
    def graph(self) -> Graph: ...
    @property
    def store(self) -> FeatureStore: ...
    @property
    def spaces(self) -> ExitStack: ...
    @property
    def progress(self) -> Progress: ...
    @property
    def deadline(self) -> Deadline: ...
    @property
    def view0(self) -> Space: ...
    @property
    def features(self) -> Features: ...
    @property
    def readable(self) -> ImageIndex: ...
    @property
    def learn(self) -> NDArray[np.int64]: ...
    @property
    def held(self) -> NDArray[np.int64]: ...
    @property
    def trained(self) -> bool: ...


@dataclass(frozen=True)
class Front:
    """What lies before a phase's cut, or all of the network: what learns behind it changes nothing there.

    ``trained`` says whether an earlier phase may have changed the network.
    """

    network: Network
    graph: Graph
    found: Understood
    rules: Preprocessing
    trained: bool = False

    @functools.cached_property
    def digest(self) -> str:
        """Of the tensors before the cut."""
        network, cut = self.network, self.found.cut
        if cut is None and not self.trained:
            return network.digest
        state = network.module.state_dict()
        if cut is None:
            return weights_digest(network.architecture, state)
        names = self.graph.tensors_before(cut)
        return weights_digest(f"{network.architecture}@{cut.name}", {name: state[name] for name in names})

    @property
    def stage(self) -> str | None:
        """The stage that the cut is the end of, where it is."""
        cut = self.found.cut
        return None if cut is None else next(
            (name for name, end in self.graph.stage_ends.items() if end == cut.position), None)

    @property
    def whole(self) -> tuple[Readout, ...]:
        """What is kept of an image, as a run of the whole network reads it; nothing where it can't."""
        if self.stage is None:
            return ()
        *pooled, at_cut = self.found.kept
        return *pooled, replace(at_cut, node=self.graph.readouts[self.stage].node)

    def key(self, view: str, numbers: Numbers, engine: str) -> FeatureKey:
        """The space of what is kept of a view."""
        rules = self.rules
        return FeatureKey(view, self.digest, self.found.kept, engine, rules.mean, rules.std, numbers)

    def bytes(self, rows: int) -> int:
        """What so many kept rows take."""
        return kept_bytes(rows, self.found.kept, kept_formats(self.found.phase)[0])

    def program(self, readouts: Sequence[Readout]) -> nn.Module:
        """It, giving some of its readouts and, last, the tensor at the cut."""
        cut = self.found.cut
        return Tapped(self.network.module, readouts) if cut is None else Prefix(self.graph, cut, readouts)


def room(store: FeatureStore, settings: TrainSettings) -> int:
    """Bytes that kept activations may take: the disk's, or the store's."""
    return min(int(_DISK_SHARE * shutil.disk_usage(store.folder).free), size_in_bytes(settings.store_limit))


class Source:
    """Where a phase's batches come from: decided, with its price, before anything is computed."""

    def __init__(self, training: _Shared, found: Understood) -> None:
        self._all = training
        self._phase = phase = found.phase
        self._cut = cut = found.cut
        self._frozen = found.before
        self._front = Front(training.network, training.graph, found, training.rules, training.trained)
        self._custom = training.hooks.augmentation
        varied = self._custom or augmentation(phase.augment) if phase.augment or self._custom else augmentation(())
        self._views = Views(varied, training.rules, training.settings.seed)
        self._augmented = bool(phase.augment or self._custom)
        self.views = phase.views if self._augmented else 0
        why_not = may_keep(phase, cut, self._augmented, self._views.cacheable)
        if phase.cached == "always" and why_not:
            raise TrainingError(f"{phase.name}: cached = \"always\" is impossible, {why_not}")
        self._keeps_held = cut is None or cut.position >= 0
        self.kept = not why_not and self._has_room()
        self.bytes = self._bytes(self.views) if self.kept else 0
        if not self.kept:
            self.views = phase.views if self._augmented else 0

    @property
    def _shape(self) -> tuple[int, ...] | None:
        return None if self._cut is None else self._cut.shape

    @property
    def _from_view0(self) -> bool:
        """Whether everything is in the store already: frozen readouts of a network that has not changed."""
        return self._cut is None and not self._all.trained and not self._augmented

    def _bytes(self, views: int) -> int:
        """What is kept on the disk for so many views."""
        if self._from_view0:
            return 0
        return self._front.bytes(len(self._all.learn) * (views + 1) + len(self._all.held))

    def _has_room(self) -> bool:
        """Whether disk and store have room; takes fewer views where that helps, and says so."""
        free, wanted = room(self._all.store, self._all.settings), self._bytes(self.views)
        if wanted <= free:
            return True
        what = (f"{self._phase.name}: keeping {in_views(self.views)} takes {wanted:,} bytes, "
                f"{wanted - free:,} more than there is room for")
        if self._phase.cached == "always":
            raise OutputError(f"{what} ({free:,}); free the disk, raise --store-limit, or take fewer views")
        while self.views > 1 and self._bytes(self.views) > free:
            self.views -= 1
        fits = self._bytes(self.views) <= free
        self._all.progress.say(f"{what}; {f'{in_views(self.views)} are kept' if fits else 'nothing is kept'} instead")
        return fits

    def _key(self, view: int, numbers: Numbers, engine: str) -> FeatureKey:
        return self._front.key(self._views.key(view), numbers, engine)

    @property
    def _device(self) -> str:
        return choose_device(self._all.settings.device)

    def batches(self) -> tuple[Batches, Batches]:
        """Batches of the training and of the validation images."""
        everything = self._all
        if self._from_view0 and self.kept:
            located = everything.view0.locate(everything.features.digests)
            names = [readout.name for readout in self._frozen]
            return (Kept({0: everything.view0}, {0: located[everything.learn]}, names, None),
                    Kept({0: everything.view0}, {0: located[everything.held]}, names, None))
        # The many come first: what is measured and converted for them serves the few as well.
        learn = (self._keep(dict.fromkeys(range(self.views + 1), everything.learn)) if self.kept else
                 self._fresh(everything.learn))
        return learn, self._keep({0: everything.held}) if self._keeps_held else self._fresh(everything.held)

    def _frozen_part(self) -> nn.Module | LiteFront:
        """What engines run: of a bundled backbone cut behind a stage, the part that needs no PyTorch."""
        network, settings, stage = self._all.network, self._all.settings, self._front.stage
        light = None if stage is None else lightened(network.name, network.module, self._pooled, settings.device,
                                                     settings.engine)
        return self._front.program(self._pooled) if light is None or stage is None else light.before(stage)

    @property
    def _pooled(self) -> tuple[Readout, ...]:
        """What is kept of an image but the tensor at the cut."""
        kept = self._front.found.kept
        return kept if self._cut is None else kept[:-1]

    def _keep(self, rows_of: dict[int, NDArray[np.int64]]) -> Kept:
        """Compute views of images once, in the smallest number format that holds them."""
        for numbers in kept_formats(self._phase):
            try:
                return self._kept_as(numbers, rows_of)
            except OverflowError:
                self._all.progress.say(f"{self._phase.name}: activations are too large for {numbers}; the next larger "
                                       "format is taken")
        raise AssertionError("float32 holds everything")

    def _kept_as(self, numbers: Numbers, rows_of: dict[int, NDArray[np.int64]]) -> Kept:
        everything = self._all
        spaces: dict[int, Space] = {}
        located: dict[int, NDArray[np.int64]] = {}
        digests = {view: [everything.features.digests[int(row)] for row in rows] for view, rows in rows_of.items()}
        engine = self._engine(numbers, digests)
        for view, rows in rows_of.items():
            spaces[view] = everything.spaces.enter_context(
                everything.store.space(self._key(view, numbers, engine.key)))
            files = [everything.readable.file(int(row)) for row in rows]
            title = f"{self._phase.name}: view {view}" if view else f"{self._phase.name}: frozen part"
            extract_view(files, digests[view], Route(spaces[view], engine), functools.partial(self._pixels, view),
                         title, everything.progress, everything.deadline)
            located[view] = spaces[view].locate(digests[view])
        return Kept(spaces, located, [readout.name for readout in self._frozen], self._shape)

    def _engine(self, numbers: Numbers, digests: dict[int, list[bytes]]) -> Engine:
        """What runs the frozen part."""
        everything = self._all
        settings, network = everything.settings, everything.network

        def known(engine: str) -> NDArray[np.bool_]:
            missing = {view: everything.store.missing(self._key(view, numbers, engine), of)
                       for view, of in digests.items()}
            return np.array([digest not in missing[view] for view, of in digests.items() for digest in of], np.bool_)

        ends = f" up to {self._cut.module or self._cut.name}" if self._cut else ""
        work = Work(f"the frozen part of {network.name}{ends}", self._frozen_part(), self._front.digest,
                    self._front.found.kept, everything.rules)
        return views_engine(work, everything.readable, known, everything.store, settings.engine, settings.device,
                            everything.progress)

    def _pixels(self, view: int, data: bytes, digest: bytes) -> NDArray[np.uint8]:
        return self._views.pixels(data, view, digest)

    def _fresh(self, rows: NDArray[np.int64]) -> Fresh:
        everything = self._all
        device = self._device
        at_front = self._cut is not None and self._cut.position < 0
        program = self._front.program(self._frozen)
        reader = Reader(program, self._frozen, everything.rules).to(device)

        def pixels(row: int, view: int) -> NDArray[np.uint8]:
            at = int(rows[row])
            return self._views.pixels(read_file(everything.readable.file(at)), view, everything.features.digests[at])

        def prepare(x_BHWC: Tensor) -> Tensor:
            return reader.normalised(x_BHWC.to(device))

        return Fresh(pixels, prepare, None if at_front else program, self._shape, everything.settings.workers)
