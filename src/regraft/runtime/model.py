"""An exported file as a model: the same bytes of a picture, the same answer, without PyTorch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from regraft.answering import Answerer, named_sources
from regraft.data.decode import MAX_BYTES
from regraft.data.view import view0
from regraft.decisions.answering import predictions
from regraft.decisions.novelty import unsureness
from regraft.errors import DataError, ModelError, UsageError
from regraft.heads.solver import softmax
from regraft.progress import Progress, Silent
from regraft.records.base import shown
from regraft.records.exported import LOGITS, MOST_BYTES, NOVELTY, PIXELS, PROBABILITIES, SEAL, ExportedRecord
from regraft.records.preprocessing import Preprocessing
from regraft.records.results import Prediction, Predictions
from regraft.runtime.wire import has_outside_data

#: Images that wait for the network together; it sees them one by one.
_BATCH = 4


class Outputs(NamedTuple):
    """What an exported file gives for a batch: float32 [B, K], [B, K] and [B]; novelty where it measures that."""

    probabilities: NDArray[np.float32]
    logits: NDArray[np.float32]
    novelty: NDArray[np.float32] | None = None


class OnnxModel:
    """An exported file in ONNX Runtime; made by :func:`load_onnx`. Threads may share one.

    ``record`` is what the file says about itself.
    """

    def __init__(self, data: bytes) -> None:
        """Raises DataError where the bytes are no file that ``regraft export`` wrote."""
        self._session = _session(data)
        texts = self._session.get_modelmeta().custom_metadata_map
        if texts.get("format_version") == str(ExportedRecord.format_version) and SEAL not in texts:
            raise DataError(f"it does not tell its {SEAL}")
        self.record = ExportedRecord.from_metadata(texts)
        size, classes = self.record.preprocessing.size, len(self.record.labels)
        goes_in = [(item.name, item.type, item.shape[1:]) for item in self._session.get_inputs()]
        comes_out = {item.name: (item.type, item.shape[1:]) for item in self._session.get_outputs()}
        self._names = [PROBABILITIES, LOGITS, *([NOVELTY] if NOVELTY in comes_out else [])]
        shapes = {PROBABILITIES: [classes], LOGITS: [classes], NOVELTY: []}
        unknown = self.record.unknown
        # Files of the version before measured what the logits tell, and had no output for it.
        measured = unknown is None or NOVELTY in comes_out or unknown.kind != "relative_mahalanobis"
        if (goes_in != [(PIXELS, "tensor(uint8)", [size, size, 3])] or not measured
                or comes_out != {name: ("tensor(float)", shapes[name]) for name in self._names}):
            raise DataError("it takes and gives other things than what it tells about itself")

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names, in the order of the probabilities."""
        return self.record.labels

    @property
    def several(self) -> bool:
        """Whether the file gives an image any number of labels; such a model is not exported so far."""
        return False

    @property
    def preprocessing(self) -> Preprocessing:
        """From a file's bytes to the network's pixels."""
        return self.record.preprocessing

    @property
    def digest(self) -> str:
        """The digest of the model folder that the file was made of, 64 hexadecimal digits."""
        return self.record.model_digest

    def __repr__(self) -> str:
        return (f"Model of {len(self.classes)} classes ({', '.join(map(shown, self.classes[:8]))}"
                f"{', ...' if len(self.classes) > 8 else ''}), {self.record.backbone}, {self.record.head}, as ONNX"
                f"{'' if self.record.precision == 'fp32' else f' in {self.record.precision}'}")

    def pixels(self, source: str | Path | bytes | IO[bytes]) -> NDArray[np.uint8]:
        """What the network sees of a picture, a path, a file's bytes or an open file: uint8 [H, W, 3].

        Raises ImageError where it can't be read as one.
        """
        if isinstance(source, str):
            source = Path(source)
        elif not isinstance(source, bytes | Path):
            source = source.read(MAX_BYTES + 1)
        return view0(source, self.preprocessing).pixels

    def run(self, pixels_BHWC: NDArray[np.uint8]) -> NDArray[np.float64]:
        """Class probabilities of any number of images (uint8), float64 [B, K].

        The network sees them one by one, so an image's answer does not depend on its company.
        """
        return softmax(self.logits(pixels_BHWC)).astype(np.float64, copy=False)

    def logits(self, pixels_BHWC: NDArray[np.uint8]) -> NDArray[np.float64]:
        """Scores of the classes of any number of images (uint8), before the softmax, float64 [B, K]."""
        return self._each(pixels_BHWC)[0]

    def _each(self, pixels_BHWC: NDArray[np.uint8]) -> tuple[NDArray[np.float64], NDArray[np.float64] | None]:
        """Logits [B, K], and novelty [B] where anything tells it, of images that the network sees one by one."""
        each = [self.outputs(pixels_HWC[None]) for pixels_HWC in pixels_BHWC]
        logits_BK = np.concatenate([one.logits for one in each]).astype(np.float64)
        if NOVELTY in self._names:
            return logits_BK, np.concatenate([one.novelty for one in each if one.novelty is not None], dtype=np.float64)
        if self.record.unknown is None:
            return logits_BK, None
        return logits_BK, unsureness(self.record.unknown.kind, logits_BK)

    def outputs(self, pixels_BHWC: NDArray[np.uint8]) -> Outputs:
        """What the file gives for a batch, as it gives it."""
        size = self.preprocessing.size
        if pixels_BHWC.shape[1:] != (size, size, 3) or pixels_BHWC.dtype != np.uint8:
            raise ValueError(f"images are {pixels_BHWC.dtype} {list(pixels_BHWC.shape[1:])}; this model takes uint8 "
                             f"{[size, size, 3]}")
        return Outputs(*self._session.run(self._names, {PIXELS: pixels_BHWC}))

    def predict(self, images: Any, *, device: Literal["auto", "cpu", "cuda", "mps"] = "auto",
                follow_links: bool = False, progress: Progress | None = None) -> Predictions:
        """Answers in input order, of whatever :meth:`regraft.model.Model.predict` takes.

        An unreadable image is an answer with its ``error``. Raises DataError where a folder holds no pictures,
        UsageError for another device than the processor.
        """
        sources = list(named_sources(images, follow_links))
        return Predictions(tuple(self.answerer(device).answers(sources, progress or Silent())))

    def answerer(self, device: Literal["auto", "cpu", "cuda", "mps"] = "auto") -> Answerer:
        """What answers images, any number of them; raises UsageError for another device than the processor."""
        if device not in ("auto", "cpu"):
            raise UsageError(f"device: {device!r} is not allowed; an exported file runs on the processor (cpu)")
        return Answerer(self.preprocessing, _BATCH, self._answer)

    def _answer(self, names: Sequence[str], pixels_BHWC: NDArray[np.uint8]) -> list[Prediction]:
        logits_BK, novelty_B = self._each(pixels_BHWC)
        return predictions(names, logits_BK, self.classes, self.record.unknown, novelty_B, self.record.decision)


def is_onnx(path: str | Path) -> bool:
    """Whether a path is to be read as an exported file: its name says so, and it is no folder."""
    return Path(path).suffix.lower() == ".onnx" and not Path(path).expanduser().is_dir()


def load_onnx(path: str | Path, module: object = None) -> OnnxModel:
    """Load a file that ``regraft export`` wrote.

    Raises ModelError for anything else: no such file, too large, damaged, of another program, with data in other files;
    and where a ``module`` is given, as the file holds its network.
    """
    if module is not None:
        raise ModelError(f"{shown(str(path))} holds its network; leave the module away")
    try:
        return OnnxModel(read_onnx(path))
    except DataError as error:
        raise ModelError(f"{shown(str(path))} is no model that `regraft export` wrote: {error}") from None


def read_onnx(path: str | Path) -> bytes:
    """The bytes of a file that may be an exported one; raises ModelError where there is none or it is too large."""
    file = Path(path).expanduser()
    try:
        if not file.is_file():
            raise ModelError(f"{shown(str(path))} does not exist; `regraft export MODEL --out {shown(str(path))}` "
                             "writes it")
        if file.stat().st_size > MOST_BYTES:
            raise ModelError(f"{shown(str(path))} is no model that `regraft export` wrote: it has "
                             f"{file.stat().st_size:,} bytes, and one ONNX file holds at most {MOST_BYTES:,}")
        return file.read_bytes()
    except OSError as error:
        raise ModelError(f"{shown(str(path))} can't be read ({error.strerror or error})") from None


def _session(data: bytes) -> Any:
    """ONNX Runtime with the file in it; raises DataError."""
    try:
        outside = has_outside_data(data)
    except ValueError as error:
        raise DataError(str(error)) from None
    if outside:
        raise DataError("some of its numbers lie in another file")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors; it warns of constants that its own optimiser folds
    try:
        return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime has a type of its own for each thing that can be wrong with a file
        lines = str(error).strip().splitlines()
        raise DataError(lines[0] if lines else type(error).__name__) from None
