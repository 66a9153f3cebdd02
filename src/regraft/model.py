"""The saved model: one folder, checked before use, the same answer through every door."""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from regraft import manifest
from regraft.answering import Answerer, named_sources
from regraft.decisions.answering import predictions
from regraft.decisions.labels import label_predictions
from regraft.decisions.novelty import Known, novelty
from regraft.engines.light import does_without_torch, light_engine
from regraft.errors import DataError, ModelError, OutputError, UsageError
from regraft.heads.dense import Head, head_tensors, restore_head
from regraft.heads.solver import sigmoid
from regraft.networks.lite import LiteNetwork, restore_lite
from regraft.progress import Progress, Silent
from regraft.records.base import shown
from regraft.records.exported import export_names
from regraft.records.model import HeadRecord, ModelRecord
from regraft.records.results import Prediction, Predictions
from regraft.records.selftest import SelfTest
from regraft.selftest.answers import record as record_answers

if TYPE_CHECKING:

    from regraft.engines.contract import Engine
    from regraft.networks.weights import State
    from regraft.records.networks import Readout
    from regraft.settings import EngineName

#: A network's tensors where PyTorch is not installed.
Arrays = Mapping[str, NDArray[np.float32]]

RECORD, BACKBONE, HEAD, IMAGES = "model.json", "backbone.safetensors", "head.safetensors", "images.safetensors"
UNKNOWN, SELF_TEST = "unknown.safetensors", "selftest.json"

#: What a model folder may hold, and what it must hold: a head on features alone has no network and no self-test, and
#: not every model knows what is unknown.
FILES = (RECORD, BACKBONE, HEAD, IMAGES, UNKNOWN, SELF_TEST)
HEAD_FILES = (RECORD, HEAD, IMAGES)

#: Where the run that made the model keeps its record; nothing below decides answers.
RUN = "run"

_DIGEST_BYTES = 16


@dataclass(frozen=True)
class SeenImages:
    """Digests of the pixels of the images a model was fitted on (``training``) and chosen on (``validation``)."""

    training: frozenset[bytes]
    validation: frozenset[bytes]

    def count(self, digests: Iterable[bytes]) -> int:
        """How many of the images served for fitting or choosing."""
        return sum(digest in self.training or digest in self.validation for digest in digests)


class Model:
    """A trained classifier; made by :func:`load`.

    ``record`` says what it is, ``head`` is what was learned (calibrated: its logits are divided by the record's
    temperature), ``seen`` which images it knows already, ``known`` what they are like.
    """

    def __init__(self, folder: Path, record: ModelRecord, head: Head, seen: SeenImages, module: object = None,
                 known: Known | None = None) -> None:
        self.folder = folder
        self._record = record
        self.head = head
        self.seen = seen
        self.known = known
        self._module = module
        self._engines: dict[str, Engine] = {}

    @property
    def record(self) -> ModelRecord:
        """What the model is."""
        return self._record

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names, in the order of the probabilities."""
        return self.record.classes

    @property
    def digest(self) -> str:
        """What names the model: a digest of every byte that decides answers, 64 hexadecimal digits."""
        return manifest.model_digest(self.folder)

    @property
    def several(self) -> bool:
        """Whether the model gives an image any number of labels."""
        return self._record.labels is not None

    def require_one_label(self, what: str) -> None:
        """Raise UsageError where the model gives several labels an image, which ``what`` can't take."""
        if self.several:
            raise UsageError(f"{self.folder} gives several labels an image; {what} so far takes models of one label an "
                             "image, while train, evaluate, predict and report take both")

    def __repr__(self) -> str:
        kind = "labels, several an image" if self.several else "classes"
        return (f"Model of {len(self.classes)} {kind} ({', '.join(map(shown, self.classes[:8]))}"
                f"{', ...' if len(self.classes) > 8 else ''}), {self.record.backbone}, {self.record.head.label}")

    def engine(self, device: Literal["auto", "cpu", "cuda", "mps"] = "auto") -> Engine:
        """The engine that gives the head's readouts; built once."""
        record = self.record  # a head without a network refuses here
        if device not in self._engines:
            self._engines[device] = self._reading(record.head_readouts, device)
        return self._engines[device]

    def _reading(self, readouts: Sequence[Readout], device: Literal["auto", "cpu", "cuda", "mps"]) -> Engine:
        """An engine that gives readouts of the network."""
        rules, network = self.record.preprocessing, self.frozen(device)
        if isinstance(network, LiteNetwork):
            return light_engine(network, readouts, rules, device)
        from regraft.engines.pytorch import PyTorchEngine

        return PyTorchEngine(network, readouts, rules, device)

    def frozen(self, device: Literal["auto", "cpu", "cuda", "mps"] = "auto", engine: EngineName = "auto") -> Any:
        """The network as an engine takes it: a bundled backbone without PyTorch where that will do."""
        record = self.record
        if record.own is None and does_without_torch(record.backbone, device, engine):
            light = self._light()
            if set(record.readouts) <= set(light.readouts):
                return light
        return self.network()

    def _light(self) -> LiteNetwork:
        return restore_lite(self.record.backbone, _tensors(self.folder / BACKBONE), "predicting")

    def network(self) -> Any:
        """The backbone with the model's weights: a torch module of its own in inference mode.

        Without PyTorch, a bundled backbone comes as what ONNX Runtime can run. Raises MissingExtraError for another
        one there, BackboneError or ModelError where a network of the caller's own is not the one that was trained.
        """
        record, file = self.record, self.folder / BACKBONE
        try:
            from regraft.networks.build import restore
            from regraft.networks.own import restore_own
            from regraft.networks.weights import read_weights
        except ImportError:
            return self._light()
        state = read_weights(file)
        if record.own is None:
            return restore(record.backbone, state, record.preprocessing.size)
        return restore_own(record.own, self._module, state, record.readouts, record.preprocessing.size)

    def predict(self, images: Any, *, device: Literal["auto", "cpu", "cuda", "mps"] = "auto",
                follow_links: bool = False, progress: Progress | None = None) -> Predictions:
        """Answers in input order.

        ``images`` is one of, or a sequence of: a path of an image or of a folder (all pictures below it), a
        file's bytes, a Pillow image, an RGB array uint8 [H, W, 3]. An unreadable image is an answer with its
        ``error``; the others are answered. Raises DataError where a folder holds no pictures.
        """
        sources = list(named_sources(images, follow_links))
        return Predictions(tuple(self.answerer(device).answers(sources, progress or Silent())))

    def answerer(self, device: Literal["auto", "cpu", "cuda", "mps"] = "auto") -> Answerer:
        """What answers images, any number of them."""
        engine = self.engine(device)
        return Answerer(self.record.preprocessing, engine.batch,
                        lambda names, pixels_BHWC: self.answer(names, engine.run(pixels_BHWC)))

    def answer(self, names: Sequence[str], features_ND: NDArray[np.float32]) -> Sequence[Prediction]:
        """The answer for each of N images, given the joined raw readouts that the head reads, float32 [N, D]."""
        about, logits_NK = self._about, self.head.logits(features_ND)
        if isinstance(about, ModelRecord) and about.labels is not None:
            return label_predictions(names, sigmoid(logits_NK).astype(np.float64, copy=False), about.classes,
                                     about.labels.thresholds)
        novelty_N = None if about.unknown is None else novelty(about.unknown.kind, self.known, features_ND, logits_NK)
        return predictions(names, logits_NK, about.classes, about.unknown, novelty_N, about.decision)

    def unlike(self, features_ND: NDArray[np.float32]) -> NDArray[np.bool_] | None:
        """Which of N images are unlike what the model knows, bool [N], given what :meth:`answer` takes.

        None where the model has no measure of it.
        """
        unknown = self._about.unknown
        if unknown is None:
            return None
        return novelty(unknown.kind, self.known, features_ND, self.head.logits(features_ND)) > unknown.threshold

    def logits(self, pixels_BHWC: NDArray[np.uint8]) -> NDArray[np.float64]:
        """Scores of the classes of any number of images (uint8), on the processor, float64 [B, K]."""
        return self.head.logits(_run(self.engine("cpu"), pixels_BHWC))

    def features(self, pixels_BHWC: NDArray[np.uint8], readouts: Sequence[Readout]) -> NDArray[np.float32]:
        """Joined readouts of the network of any number of images (uint8), on the processor, float32 [B, D]."""
        return _run(self._reading(readouts, "cpu"), pixels_BHWC)

    @property
    def self_test(self) -> SelfTest | None:
        """What the model answered where it was made; None of one that was saved before there was a self-test.

        Raises ModelError where it can't be understood.
        """
        if SELF_TEST not in manifest.listed(self.folder):
            return None
        try:
            return SelfTest.from_dict(_json(self.folder / SELF_TEST))
        except (DataError, ValueError, OSError) as error:
            raise ModelError(f"{self.folder / SELF_TEST} is no self-test that this Regraft can read: {error}") from None

    def record_self_test(self) -> SelfTest:
        """What the model answers here for the pictures of the self-test."""
        return record_answers(self.record.preprocessing, self.classes, self.logits)

    @property
    def _about(self) -> ModelRecord | HeadRecord:
        """What the model says about itself, with or without a network."""
        return self._record


class HeadModel(Model):
    """A head without a network, from a file of features; made by :func:`load`.

    ``answer`` and ``head.probabilities(features_ND)`` answer features; everything that needs the network raises
    ModelError.
    """

    def __init__(self, folder: Path, about: HeadRecord, head: Head, seen: SeenImages, known: Known | None = None,
                 ) -> None:
        self.folder = folder
        self.about = about
        self.head = head
        self.seen = seen
        self.known = known

    @property
    def _about(self) -> ModelRecord | HeadRecord:
        return self.about

    @property
    def record(self) -> ModelRecord:
        """Raises ModelError: there is none of a network."""
        origin = self.about.origin
        how = ("its file of features does not say which network made them" if origin is None else
               f"train again with --weights FILE, the weights of {origin.backbone} that made its features "
               f"(digest {origin.weights_digest[:12]}...)")
        raise ModelError(f"{self.folder} has no network and answers features only (model.head.probabilities), not "
                          f"images; {how}")

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names, in the order of the probabilities."""
        return self.about.classes

    @property
    def several(self) -> bool:
        """False: files of features hold one label an image."""
        return False

    def __repr__(self) -> str:
        return (f"Head of {len(self.classes)} classes ({', '.join(map(shown, self.classes[:8]))}"
                f"{', ...' if len(self.classes) > 8 else ''}) on {self.about.dim:,} features, without a network")


def load(path: str | Path, module: object = None) -> Model:
    """Load a model folder. Every file that decides answers is checked first; nothing in it is executed.

    ``module`` is the network that the model was trained with, where that was no named one.

    Raises ModelError where there is no finished model or the module is another network, TamperedError where a byte
    was changed.
    """
    folder = Path(path).expanduser()
    listed = manifest.verify(folder, HEAD_FILES)
    try:
        head, images = _tensors(folder / HEAD), _tensors(folder / IMAGES)
        seen = SeenImages(_digests(images["training"]), _digests(images["validation"]))
        known = Known.of(_tensors(folder / UNKNOWN)) if UNKNOWN in listed else None
        if BACKBONE in listed:
            record = ModelRecord.from_dict(_json(folder / RECORD))
            width = sum(readout.dim for readout in record.head_readouts)
            model = Model(folder, record, restore_head(record.head, head).tempered(record.temperature), seen, module,
                          known)
        else:
            about = HeadRecord.from_dict(_json(folder / RECORD))
            width = about.dim
            model = HeadModel(folder, about, restore_head(about.head, head).tempered(about.temperature), seen, known)
    except (DataError, KeyError, ValueError, OSError, RecursionError) as error:
        raise ModelError(f"{folder} is no model that this Regraft can read: {error}") from None
    if model.head.shape != (width, len(model.classes)):
        raise ModelError(f"{folder / HEAD} has weights {list(model.head.shape)}, the record says "
                         f"{[width, len(model.classes)]}")
    _require_known(model, width)
    _require_module(model, module)
    return model


def _require_known(model: Model, width: int) -> None:
    """Raise ModelError where what is known of the images is missing or of another width than the head's."""
    unknown, known = model._about.unknown, model.known
    needs = unknown is not None and unknown.kind == "relative_mahalanobis"
    if needs and (known is None or len(known.projection) != width):
        raise ModelError(f"{model.folder / UNKNOWN} does not fit the model's head")


def _require_module(model: Model, module: object) -> None:
    """Raise ModelError where the model needs a module that is not given or is not its own, or needs none."""
    own = None if isinstance(model, HeadModel) else model.record.own
    if own is None:
        if module is not None:
            raise ModelError(f"{model.folder} was trained with a named network or none; leave the module away")
        return
    if module is None:
        raise ModelError(
            f"{model.folder} was trained with a network of your own, {shown(own.name)}, whose program is in no file; "
            f"in Python, give one: regraft.load({str(model.folder)!r}, module={shown(own.name)}(...))")
    model.network()


def _run(engine: Engine, pixels_BHWC: NDArray[np.uint8]) -> NDArray[np.float32]:
    """What an engine gives for any number of images, float32 [B, D]."""
    return np.concatenate([engine.run(pixels_BHWC[at:at + engine.batch])
                           for at in range(0, len(pixels_BHWC), engine.batch)])


def _json(path: Path) -> Any:
    return json.loads(path.read_text("utf-8"))


def _tensors(path: Path) -> dict[str, NDArray[Any]]:
    """The arrays of a safetensors file; raises ModelError where it is none."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        return load_file(path)
    except SafetensorError as error:
        raise ModelError(f"{path} holds no readable tensors ({error}); the model can't be used") from None


def _digests(rows_NB: NDArray[np.uint8]) -> frozenset[bytes]:
    return frozenset(row.tobytes() for row in rows_NB)


def _packed(digests: Iterable[bytes]) -> NDArray[np.uint8]:
    """Digests as uint8 [N, 16], in sorted order: nothing of the order of the files is told."""
    ordered = sorted(set(digests))
    return np.frombuffer(b"".join(ordered), np.uint8).reshape(len(ordered), _DIGEST_BYTES).copy()


def save(folder: Path, record: ModelRecord | HeadRecord, backbone: State | Arrays | None, head: Head,
         seen: SeenImages, known: Known | None = None, module: object = None,
         self_test: Callable[[Model], SelfTest] = Model.record_self_test) -> None:
    """Write a model into a folder; the manifest comes last, so that a half-written model is none.

    Without a backbone it is a head that answers features, described by a HeadRecord. The head is the one that was
    fitted: the record's temperature is applied where the model is loaded. A model with a backbone is loaded from its
    new files, with ``module`` where the network is the caller's own, and its ``self_test`` is recorded.

    A model that is there already stays whole until the new files are complete. Raises OutputError.
    """
    contents: dict[str, Callable[[], bytes]] = {
        RECORD: lambda: record.to_json().encode(),
        **({} if backbone is None else {BACKBONE: lambda: _packed_network(backbone)}),
        HEAD: lambda: packed_arrays(head_tensors(head)),
        IMAGES: lambda: packed_arrays({"training": _packed(seen.training), "validation": _packed(seen.validation)}),
        **({} if known is None else {UNKNOWN: lambda: packed_arrays(known.tensors())}),
    }
    stage = folder / RUN / f"finishing-{secrets.token_hex(4)}"
    try:
        stage.mkdir(parents=True)
        for name, make in contents.items():
            _write(stage / name, make())
        digests = {name: manifest.file_digest(stage / name) for name in contents}
        _sign(stage, digests)
        if backbone is not None:
            answered = self_test(load(stage, module))
            _write(stage / SELF_TEST, (json.dumps(answered.to_dict()) + "\n").encode())
            digests[SELF_TEST] = manifest.file_digest(stage / SELF_TEST)
            _sign(stage, digests)
        # An export of the model that is replaced would answer for this one.
        for stale in (manifest.NAME, *export_names()):
            (folder / stale).unlink(missing_ok=True)
        for name in (*digests, manifest.NAME):
            os.replace(stage / name, folder / name)
        for name in set(FILES) - set(digests):  # of a model that was here before
            (folder / name).unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(f"{folder} can't be written ({error.strerror or error}); {shutil.disk_usage(folder).free:,} "
                          "bytes are free there") from None
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def _sign(folder: Path, digests: Mapping[str, str]) -> None:
    """Write the manifest of files in a folder, with their digests."""
    _write(folder / manifest.NAME, manifest.manifest_text(dict(digests)).encode())


def packed_arrays(arrays: Mapping[str, NDArray[Any]], about: dict[str, str] | None = None) -> bytes:
    """Arrays as the bytes of a safetensors file, with what is to be said about them."""
    from safetensors.numpy import save as tensors

    # The package writes an array's memory as it lies, in whatever order: a transposed one would come back scrambled.
    data: bytes = tensors({name: np.ascontiguousarray(array) for name, array in arrays.items()}, about)
    return data


def _packed_network(state: State | Arrays) -> bytes:
    arrays = {name: tensor for name, tensor in sorted(state.items()) if isinstance(tensor, np.ndarray)}
    if arrays:
        return packed_arrays(arrays)
    from regraft.networks.weights import packed

    return packed(cast("State", state))


def _write(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
