"""The engines of a pass: what is known of them is kept in the store's folder, what is worth knowing is measured."""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import json
import operator
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import filelock
import numpy as np
from numpy.typing import NDArray

from regraft.data.view import view0, view_key
from regraft.engines import processor
from regraft.engines.choose import KINDS, LIGHT_KINDS, Pair, missing, pairs, shortest
from regraft.engines.contract import ANSWER_PRECISION, Engine, engine_key
from regraft.errors import BackboneError, DataError, ImageError, MissingExtraError, UsageError
from regraft.extraction.extract import known_features
from regraft.extraction.store import ENGINES, ENGINES_DIGITS, FeatureKey, FeatureStore, Memory
from regraft.networks.lite import LiteFront, LiteNetwork
from regraft.progress import Progress
from regraft.records.base import shown
from regraft.records.engines import EngineChoice, EngineFigures, EngineKind
from regraft.records.images import ImageIndex
from regraft.records.networks import Readout
from regraft.records.preprocessing import Preprocessing
from regraft.runs.folder import write_whole
from regraft.settings import Device, EngineName

#: Packages that decide how fast an engine is and which bits it gives.
PACKAGES = ("torch", "openvino", "onnxruntime", "onnxscript")

#: With fewer images to compute, nothing is measured: what is known already will do.
_FEW = 128

#: From so many images to learn from on, a lower precision saves more than it may cost: on small sets a head that was
#: learned in bf16 answered an image in 300 worse in fp32, or more (LOG.md).
LOWER_FROM = 10_000

#: Images that candidates are compared on.
_SAMPLE = 32

#: A graph is written where what it can save is this many times what it costs: forecasts are rough.
_WORTH = 1.5

#: Images a run of the engines beside PyTorch, each on one core.
_BATCH = 8

#: Seconds until an engine beside PyTorch is loaded, and one candidate is measured, roughly.
_LOADING, _MEASURING = 0.7, 1.5

#: Characters of an engine's own words that are shown.
_LONGEST = 200


@dataclass(frozen=True)
class Work:
    """A network to be run: its parts, the digest of its tensors, where it is read, how it sees."""

    backbone: str
    module: Any
    digest: str
    readouts: tuple[Readout, ...]
    rules: Preprocessing


def engines_for(work: Work, index: ImageIndex, learns_N: NDArray[np.bool_], store: FeatureStore, wanted: EngineName,
                device: Device, progress: Progress, memories: Sequence[Memory | None] | None = None,
                ) -> tuple[Engine, Engine]:
    """The engines that compute an index's images, those to learn from (``learns_N``) and those for figures.

    Often they are one. ``memories`` are what the store remembers of the images, where that is known. Raises UsageError
    where the ``wanted`` one can't run here.
    """
    engines = Engines(work, store, wanted, device, progress, lower=int(learns_N.sum()) >= LOWER_FROM)
    return engines.choose(index, learns_N, memories)


def answer_engine(work: Work, index: ImageIndex, store: FeatureStore, wanted: EngineName, device: Device,
                  progress: Progress) -> Engine:
    """The engine that computes all images at the answer's precision."""
    return engines_for(work, index, np.zeros(len(index), np.bool_), store, wanted, device, progress)[1]


def views_engine(work: Work, index: ImageIndex, known: Callable[[str], NDArray[np.bool_]], store: FeatureStore,
                 wanted: EngineName, device: Device, progress: Progress) -> Engine:
    """The engine that computes views of an index's images at the answer's precision.

    In a lower one, what learns behind them answers otherwise than the whole network will: a solved head that told 97 %
    of digits told 94 % of them behind a frozen part in bf16, and 83 % of them after training there (LOG.md). ``known``
    says of an engine's key which of the views have been computed by it.
    """
    engines = Engines(work, store, wanted, device, progress)
    by_kind = {kind: known(engines.key(kind).engine) for kind in engines.kinds}
    count = len(by_kind[engines.kinds[0]])
    return engines.choose_from(index, by_kind, np.zeros(count, np.bool_))[1]


class Engines:
    """The candidates for one network on this machine; those of a ``lower`` precision than the answer's where asked."""

    def __init__(self, work: Work, store: FeatureStore, wanted: EngineName, device: Device, progress: Progress,
                 lower: bool = False) -> None:
        self._work = work
        self._store = store
        self._progress = progress
        self._wanted_device = device
        if self._is_light:
            self._device, there = "cpu", light_candidates(wanted, device)
        else:
            from regraft.engines.pytorch import choose_device

            self._device = choose_device(device)
            there = candidates(wanted, self._device)
        self.kinds = [kind for kind in there if lower or kind.precision == ANSWER_PRECISION]
        self._reference = (LIGHT_KINDS if self._is_light else KINDS)[0]
        self._file = store.folder / ENGINES / f"{work.digest[:ENGINES_DIGITS]}-{self._id}.json"
        self._choice = _read(self._file) or EngineChoice(
            work.backbone, work.digest, work.rules.size, processor.name(), processor.cores(), versions())

    @property
    def _is_light(self) -> bool:
        """Whether the network is one that does without PyTorch."""
        return isinstance(self._work.module, LiteNetwork | LiteFront)

    @property
    def _graph(self) -> Path:
        return self._file.with_suffix(".onnx")

    @property
    def _id(self) -> str:
        """Of all that decides what is measured: network, readouts, rules, machine and versions."""
        work = self._work
        decides = [work.digest, self._is_light, [readout.to_dict() for readout in work.readouts], work.rules.size,
                   work.rules.mean, work.rules.std, self._device, processor.name(), processor.cores(), versions(),
                   _BATCH]
        return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:16]

    # -- the choice --------------------------------------------------------------------------------

    def choose(self, index: ImageIndex, learns_N: NDArray[np.bool_], memories: Sequence[Memory | None] | None = None,
               ) -> tuple[Engine, Engine]:
        """The engines that compute an index's images; see :meth:`choose_from`."""
        found = known_features(index, self._store, [self.key(kind) for kind in self.kinds], memories)
        return self.choose_from(index, dict(zip(self.kinds, found, strict=True)), learns_N)

    def known_share(self, index: ImageIndex) -> float:
        """Of how many of an index's images features are known, by the candidate that knows most."""
        found = known_features(index, self._store, [self.key(kind) for kind in self.kinds])
        return max(float(known_N.mean()) for known_N in found)

    def choose_from(self, index: ImageIndex, known: Mapping[EngineKind, NDArray[np.bool_]],
                    learns_N: NDArray[np.bool_]) -> tuple[Engine, Engine]:
        """The pair with the shortest forecast of those that agree; an engine that fails is left out, and it is said.

        ``known`` says which of N pictures each candidate has computed; the index is what candidates are measured on.
        """
        self._file.parent.mkdir(exist_ok=True)
        # Of several processes one measures; the others wait, and find what it found.
        with filelock.FileLock(self._file.with_suffix(".lock")):
            self._choice = _read(self._file) or self._choice
            while True:
                pair = self._pair(index, known, learns_N)
                try:
                    return self._both(pair, *missing(pair, known, learns_N))
                except _FailedError as failure:
                    self._fail(failure.kind, failure.reason)

    def _both(self, pair: Pair, to_learn: int, to_answer: int) -> tuple[Engine, Engine]:
        """The engines of a pair, with how many images each has to compute."""
        if pair.learning == pair.answers:
            engine = self._made(pair.learning, to_learn + to_answer)
            return engine, engine
        return self._made(pair.learning, to_learn), self._made(pair.answers, to_answer)

    def _pair(self, index: ImageIndex, known: Mapping[EngineKind, NDArray[np.bool_]], learns_N: NDArray[np.bool_],
              ) -> Pair:
        """The pair to take; measures what is worth it first."""
        best, fewest = shortest(self._pairs(), known, learns_N, lambda _, images: images)
        # What is asked for by name is measured in any case: it must agree.
        if not fewest or self.kinds == [self._reference] or (fewest < _FEW and self._reference in self.kinds):
            return best
        left = [kind for kind in self.kinds if self._choice.of(kind) is None]
        sample_NHWC = self._sample(index) if left else None
        if sample_NHWC is not None and len(sample_NHWC):  # else the pass will tell why none can be read
            if self.kinds[0] in left:
                self._measure(self.kinds[:1], sample_NHWC)
            left = [kind for kind in left if kind != self.kinds[0]]
            if left and shortest(self._pairs(), known, learns_N, self._forecast)[1] > _WORTH * self._price(left):
                self._measure(left, sample_NHWC)
                left = []
        best, _ = shortest(self._pairs(), known, learns_N, self._forecast)
        reason = (f"the others cost more to prepare than they save on {fewest:,} images" if left else
                  f"the shortest forecast of those that agree with {self._reference}")
        self._write(replace(self._choice, learning=best.learning if learns_N.any() else self._choice.learning,
                            answers=best.answers, reason=reason))
        return best

    def _pairs(self) -> list[Pair]:
        """Pairs of candidates that did not fail and are not known to disagree; what was taken last comes first."""
        figures = {kind: self._choice.of(kind) for kind in self.kinds}
        left = pairs([kind for kind, of in figures.items() if of is None or of.agrees])
        if not left:
            [reason, *_] = (of.reason for of in figures.values() if of is not None)
            raise BackboneError(f"{self.kinds[0]} does not compute what {self._reference} does for "
                                f"{self._work.backbone} ({reason}); leave --engine away")
        return sorted(left, key=lambda pair: (pair.learning, pair.answers) != (self._choice.learning,
                                                                                self._choice.answers))

    def _forecast(self, kind: EngineKind, images: int) -> float:
        """Seconds that an engine takes from now on; nothing where there is nothing to do."""
        if not images:
            return 0.0
        figures = self._choice.of(kind)
        if figures is None or figures.images_per_second is None:
            return float("inf")
        return images / figures.images_per_second + (0.0 if kind.engine == "pytorch" else _LOADING + self._converting())

    def _price(self, kinds: Sequence[EngineKind]) -> float:
        """Seconds that measuring candidates takes."""
        converted = any(kind.engine != "pytorch" for kind in kinds)
        return _MEASURING * len(kinds) + (self._converting() if converted else 0.0)

    def _converting(self) -> float:
        """Seconds that writing the graph takes from now on."""
        if self._converted or self._is_light:
            return 0.0
        from regraft.engines.convert import forecast_seconds

        return self._choice.converted_seconds or forecast_seconds(self._work.module)

    # -- candidates --------------------------------------------------------------------------------

    def _measure(self, kinds: Sequence[EngineKind], sample_NHWC: NDArray[np.uint8]) -> None:
        """Measure candidates and compare them with the reference; one that fails is left out, and it is said."""
        from regraft.engines.measure import compare, features_of, images_per_second

        known = {kind: self._speed_of_kin(kind) for kind in kinds}
        if list(kinds) == [self._reference] and (speed := known[self._reference]):
            self._note(EngineFigures(self._reference, speed, agrees=True))
            return
        self._progress.say(("comparing " if all(known.values()) else "measuring ") + ", ".join(map(str, kinds)))
        reference = self.make(self._reference)
        if list(kinds) == [self._reference]:
            self._note(EngineFigures(self._reference, round(images_per_second(reference, sample_NHWC), 1), agrees=True))
            return
        reference_ND = features_of(reference, sample_NHWC)
        self._choice = replace(self._choice, images=len(sample_NHWC))
        for kind in kinds:
            try:
                engine = self.make(kind)
                speed = known[kind] or images_per_second(engine, sample_NHWC)
                figures = compare(kind, speed, features_of(engine, sample_NHWC), reference_ND, self._work.readouts)
            except Exception as error:  # engines fail in as many ways as there are networks and machines
                self._fail(kind, _reason(error))
            else:
                self._note(figures)
                if figures.reason:
                    self._progress.say(f"{kind} is not taken: {figures.reason}")

    def _speed_of_kin(self, kind: EngineKind) -> float | None:
        """Images a second of a network with other weights or readouts, measured here; None where none was.

        Weights decide whether an engine agrees, not how fast it is, and a training makes new ones each time.
        """
        of = operator.attrgetter("backbone", "size", "processor", "cores", "versions")
        kin = (choice.of(kind) for choice in choices(self._store.folder) if of(choice) == of(self._choice))
        return next((figures.images_per_second for figures in kin if figures and figures.images_per_second), None)

    def _fail(self, kind: EngineKind, reason: str) -> None:
        """Leave a candidate out from now on, and say so; raises BackboneError for the one there is no other for."""
        if kind == self.kinds[0]:
            raise BackboneError(f"{kind} can't run {self._work.backbone} ({reason})")
        self._progress.say(f"{kind} is not taken: {reason}")
        self._note(EngineFigures(kind, reason=reason))

    def _note(self, figures: EngineFigures) -> None:
        others = tuple(known for known in self._choice.figures if known.kind != figures.kind)
        self._write(replace(self._choice, figures=(*others, figures)))

    def _made(self, kind: EngineKind, images: int) -> Engine:
        """An engine, loaded at once where it has something to do, else when it is asked."""
        if not images:
            return _Sleeping(self.key(kind).engine, self._work.readouts, partial(self.make, kind))
        try:
            return self.make(kind)
        except Exception as error:  # as above
            raise _FailedError(kind, _reason(error)) from error

    def make(self, kind: EngineKind) -> Engine:
        """An engine, loaded; raises what it raises where it fails."""
        work = self._work
        if kind.engine == "pytorch":
            from regraft.engines.pytorch import PyTorchEngine

            return PyTorchEngine(work.module, work.readouts, work.rules, self._wanted_device, kind.precision)
        self._convert()
        if kind.engine == "openvino":
            from regraft.engines.openvino import OpenVINOEngine

            return OpenVINOEngine(self._graph, work.readouts, work.rules, _BATCH, kind.precision)
        from regraft.engines.onnxruntime import ONNXRuntimeEngine

        return ONNXRuntimeEngine(self._graph, work.readouts, work.rules, _BATCH)

    # -- what is kept ------------------------------------------------------------------------------

    @property
    def _converted(self) -> bool:
        """Whether there is a graph."""
        return self._choice.converted_sha256 is not None and self._graph.is_file()

    def _convert(self) -> None:
        """Write the graph unless it is there as it was written."""
        if self._converted and _sha256(self._graph.read_bytes()) == self._choice.converted_sha256:
            return
        started = time.monotonic()
        graph = self._written()
        self._graph.parent.mkdir(exist_ok=True)
        write_whole(self._graph, graph)
        self._write(replace(self._choice, converted_seconds=round(time.monotonic() - started, 3),
                            converted_sha256=_sha256(graph)))

    def _written(self) -> bytes:
        """The graph, as the network writes it itself or as PyTorch's exporter does."""
        work = self._work
        if isinstance(work.module, LiteNetwork | LiteFront):
            return work.module.onnx(work.readouts, work.rules, _BATCH)
        from regraft.engines.convert import convert

        self._progress.say(f"converting {work.backbone} for OpenVINO and ONNX Runtime")
        return convert(work.module, work.readouts, work.rules, _BATCH)

    def _write(self, choice: EngineChoice) -> None:
        self._choice = choice
        write_whole(self._file, choice.to_json())

    def key(self, kind: EngineKind) -> FeatureKey:
        """What names a candidate's features of view 0."""
        work = self._work
        return FeatureKey(view_key(work.rules), work.digest, work.readouts,
                          engine_key(kind.engine, self._device, kind.precision), work.rules.mean, work.rules.std)

    def _sample(self, index: ImageIndex) -> NDArray[np.uint8]:
        """Pictures from all over the index, uint8 [M, S, S, 3]; none where none can be read."""
        size = self._work.rules.size
        pictures: list[NDArray[np.uint8]] = []
        for row in np.linspace(0, len(index) - 1, min(_SAMPLE, len(index))).astype(int):
            with suppress(ImageError):  # the pass quarantines it
                pictures.append(view0(index.file(int(row)), self._work.rules).pixels)
        return np.stack(pictures) if pictures else np.empty((0, size, size, 3), np.uint8)


def candidates(wanted: EngineName, device: str) -> list[EngineKind]:
    """What may run here, as far as is known without loading it; raises UsageError where the wanted one can't."""
    there = [kind for kind in KINDS if _is_installed(kind)
             and (kind.engine == "pytorch" or device == "cpu")
             and (kind.precision == ANSWER_PRECISION or (device == "cpu" and processor.has_bf16()))]
    chosen = [kind for kind in there if wanted in ("auto", kind.engine)]
    if not chosen:
        why = (f"it runs on the processor, not on {device}; leave --device away" if device != "cpu" else
               f"it is not installed; type: pip install -U {wanted}")
        raise UsageError(f"engine: {wanted!r} is not to be had here, {why}")
    return chosen


def light_candidates(wanted: EngineName, device: Device) -> list[EngineKind]:
    """What may run a bundled backbone without PyTorch; raises MissingExtraError where the wanted one can't."""
    if device not in ("auto", "cpu"):
        raise MissingExtraError(f"device {device}", "train")
    there = [kind for kind in LIGHT_KINDS if _is_there(kind.engine)
             and (kind.precision == ANSWER_PRECISION or processor.has_bf16())]
    chosen = [kind for kind in there if wanted in ("auto", kind.engine)]
    if not chosen:
        raise MissingExtraError(f"the engine {wanted}", "train")
    return chosen


def needs(engine: str) -> tuple[str, ...]:
    """Packages that an engine, by its name in the settings, can't run without."""
    return ("torch",) if engine == "pytorch" else (engine, "onnx", "onnxscript")


def _is_installed(kind: EngineKind) -> bool:
    return all(map(_is_there, needs(kind.engine)))


def _is_there(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except ImportError:  # it is there and can't be imported
        return False


def versions() -> dict[str, str]:
    """Versions of the packages that decide how fast an engine is and which bits it gives."""
    found = {}
    for name in PACKAGES:
        with suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def choices(folder: Path) -> tuple[EngineChoice, ...]:
    """What is known of engines in a store's folder, the latest first."""
    files = sorted((folder / ENGINES).glob("*.json"), key=lambda file: file.stat().st_mtime, reverse=True)
    return tuple(choice for choice in map(_read, files) if choice is not None)


def _read(file: Path) -> EngineChoice | None:
    """A choice that was kept; None where there is none, or another version's or a damaged one."""
    try:
        return EngineChoice.from_dict(json.loads(file.read_text("utf-8")))
    except (OSError, ValueError, DataError):
        return None


def _reason(error: Exception) -> str:
    """The first line of what an engine raised."""
    lines = str(error).strip().splitlines()
    return shown(lines[0][:_LONGEST]) if lines else type(error).__name__


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class _FailedError(Exception):
    """A candidate that could not be loaded."""

    def __init__(self, kind: EngineKind, reason: str) -> None:
        super().__init__(reason)
        self.kind = kind
        self.reason = reason


class _Sleeping:
    """An engine that has nothing to do as far as is known: it is loaded once it is asked all the same."""

    def __init__(self, key: str, readouts: tuple[Readout, ...], wake: Callable[[], Engine]) -> None:
        self.key = key
        self.readouts = readouts
        self._wake = wake

    @cached_property
    def _engine(self) -> Engine:
        return self._wake()

    @property
    def batch(self) -> int:
        return self._engine.batch

    @property
    def concurrent(self) -> int:
        return self._engine.concurrent

    def run(self, pixels_BHWC: NDArray[np.uint8]) -> NDArray[np.float32]:
        return self._engine.run(pixels_BHWC)
