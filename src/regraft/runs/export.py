"""``export``: a saved model to a file for other programs, compared with the model before it is written."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from regraft import __version__
from regraft.data.decode import DECODER
from regraft.data.splits import TRAIN, VALIDATION, read_labels, read_splits
from regraft.data.view import view0
from regraft.errors import ExportError, ImageError, MissingExtraError, OutputError
from regraft.model import RUN, Model, load
from regraft.progress import Progress
from regraft.records.base import shown
from regraft.records.exported import EXPORT_RECORD, OPSET, ExportedRecord, export_name
from regraft.records.preprocessing import Preprocessing
from regraft.records.results import ExportResult
from regraft.runs.folder import begun_with, write_whole
from regraft.runs.originals import originals
from regraft.selftest import answers
from regraft.settings import ExportSettings

if TYPE_CHECKING:
    from regraft.exports.candidate import Candidate

#: Compare on this many images at least, where there are as many.
_AT_LEAST = 200

#: Images that int8 learns its ranges on, at most.
_CALIBRATION = 128

#: What is said while it is written.
_IN_WORDS = {"onnx": "ONNX", "openvino": "OpenVINO", "torch": "a PyTorch program", "timm": "weights for timm"}

_T = TypeVar("_T")


@dataclass(frozen=True)
class Compared:
    """The files to compare on, how many of them are of which split, their classes as far as the training recorded them,
    and what ranges may be learned on.
    """

    files: list[Path]
    splits: dict[str, int]
    labels: dict[Path, str]
    learned: list[Path]


def export(settings: ExportSettings, progress: Progress) -> ExportResult:
    """Run one export; see :func:`regraft.export`."""
    started = time.monotonic()
    try:
        import regraft.exports.onnx_file  # noqa: F401  - what all formats need is told at once
        from regraft.exports.agreement import check
    except ImportError:
        raise MissingExtraError("exporting", "train,export") from None
    model = load(settings.model, settings.module)
    model.require_one_label("export, and serve with it,")
    out = (Path(settings.out).expanduser() if settings.out is not None
           else model.folder / export_name(settings.format, settings.precision))
    if not out.parent.is_dir() or out.is_dir():
        raise OutputError(f"{shown(str(out))} can't be written: "
                          + ("it is a folder" if out.is_dir() else f"there is no folder {shown(str(out.parent))}"))
    compared = images(model.folder, settings.data)
    progress.say(f"translating {model.record.backbone} to {_IN_WORDS[settings.format]}")
    about = _about(model)
    made = _candidate(settings, model, about, compared, progress)
    agreement = check(made, model, compared.files, compared.splits, progress, compared.labels)
    if settings.precision != "fp32":
        made = _with_change(made, replace(about, precision=settings.precision, agreement=agreement))
    files = {out.with_suffix(ending): data for ending, data in made.files.items()}
    digests = {path.name: hashlib.sha256(data).hexdigest() for path, data in files.items()}
    result = ExportResult(
        model=str(model.folder), model_digest=about.model_digest, out=str(out), bytes=sum(map(len, files.values())),
        sha256=digests[out.name], format=settings.format, precision=settings.precision, outputs=made.given,
        opset=OPSET if settings.format == "onnx" else None, files=digests, agreement=agreement,
        seconds=round(time.monotonic() - started, 3))
    _write(out, files, result)
    return result


def images(folder: Path, given: str | Path | None) -> Compared:
    """All validation images and, up to ``_AT_LEAST``, training images; of given data that is not the run's own, any.

    Raises ExportError where there are none.
    """
    kept = begun_with(folder)
    where = given if given is not None else kept.get("data")
    if not isinstance(where, str | Path):
        raise ExportError(f"{shown(str(folder))} does not tell which images it was trained on, and a file is written "
                          "only after a comparison; say where images are with --data DIR")
    there = originals(where, follow_links=kept.get("follow_links") is True)
    table = folder / RUN / "splits.csv"
    split_of, label_of = (read_splits(table), read_labels(table)) if table.is_file() else ({}, {})
    held, learned = ([there[key] for key, split in split_of.items() if split == wanted and key in there]
                     for wanted in (VALIDATION, TRAIN))
    if held or learned:
        labels = {there[key]: label for key, label in label_of.items() if key in there}
        more = _spread(learned, _AT_LEAST - len(held))
        return Compared([*held, *more], {"validation": len(held), "train": len(more)}, labels,
                        _spread(learned or held, _CALIBRATION))
    if given is None or not there:
        missing = "holds none of the images of the training" if given is None else "holds no pictures"
        raise ExportError(f"{shown(str(where))} {missing}, and a file is written only after a comparison; say where "
                          "images are with --data DIR")
    files = _spread(list(there.values()), _AT_LEAST)
    return Compared(files, {"given": len(files)}, {}, _spread(files, _CALIBRATION))


def _spread(items: Sequence[_T], most: int) -> list[_T]:
    """At most so many of the items, from all over the list: classes stand one after another in it."""
    count = max(0, min(most, len(items)))
    return [items[i * len(items) // count] for i in range(count)]


def _about(model: Model) -> ExportedRecord:
    """What the file will say about itself."""
    record = model.record
    return ExportedRecord(
        labels=record.classes, preprocessing=record.preprocessing, model_digest=model.digest,
        regraft_version=__version__, decoder=DECODER, backbone=record.backbone, head=record.head.label,
        training_counts=record.training_counts, seen=model.seen.training | model.seen.validation,
        unknown=record.unknown, decision=record.decision, self_test=model.self_test or model.record_self_test())


def _candidate(settings: ExportSettings, model: Model, about: ExportedRecord, compared: Compared, progress: Progress,
               ) -> Candidate:
    """What is to be compared with the model; raises ExportError where it can't be made."""
    size = about.preprocessing.size
    if settings.format == "timm":
        from regraft.exports.timm_file import timm_files

        return timm_files(model, about)
    classifier = _classifier(model, half=settings.precision == "fp16")
    if settings.format == "torch":
        from regraft.exports.torch_file import torch_files

        return torch_files(classifier, size, about.metadata())
    from regraft.exports.onnx_file import onnx_bytes, onnx_candidate, onnx_model

    graph = onnx_model(classifier, size)
    if settings.format == "openvino":
        try:
            from regraft.exports.openvino_file import openvino_files
        except ImportError:
            raise MissingExtraError("exporting to OpenVINO", "train") from None
        return openvino_files(onnx_bytes(graph), about.metadata())
    if settings.precision == "int8":
        from regraft.exports.quantised import int8

        progress.say(f"learning the ranges of int8 on {len(compared.learned):,} images")
        graph = int8(graph, _pixels(compared.learned, about.preprocessing))
    return onnx_candidate(onnx_bytes(graph, replace(about, precision=settings.precision).metadata()))


def _pixels(files: Sequence[Path], rules: Preprocessing) -> Iterator[NDArray[np.uint8]]:
    """View 0 of those files that can be read; the comparison counts the others."""
    for file in files:
        with suppress(ImageError):
            yield view0(file, rules).pixels


def _classifier(model: Model, half: bool) -> Any:
    """The whole model as one module; ``half``: its network computes in fp16."""
    from regraft.exports.graph import Classifier, HalfReader, novelty_module
    from regraft.networks.reader import Reader

    record = model.record
    reader = (HalfReader if half else Reader)(model.network(), record.head_readouts, record.preprocessing)
    measure = None if record.unknown is None else novelty_module(record.unknown.kind, model.known)
    return Classifier(reader, model.head, measure)


def _with_change(made: Candidate, about: ExportedRecord) -> Candidate:
    """The same ONNX file, which says besides how much its answers changed, and what it answers itself."""
    import onnx

    from regraft.exports.onnx_file import onnx_bytes, onnx_candidate


    def scoring(pixels_NHWC: NDArray[np.uint8]) -> NDArray[np.float64]:
        each = [made.run(pixels_HWC[None]).logits for pixels_HWC in pixels_NHWC]
        return np.concatenate(each).astype(np.float64)

    about = replace(about, self_test=answers.record(about.preprocessing, about.labels, scoring))
    return onnx_candidate(onnx_bytes(onnx.load_from_string(made.files[".onnx"]), about.metadata()))


def _write(out: Path, files: Mapping[Path, bytes], result: ExportResult) -> None:
    """The files and their record, each whole or not at all; raises OutputError."""
    record = out.with_name(out.name + EXPORT_RECORD)
    try:
        record.unlink(missing_ok=True)  # never the record of another file beside this one
        for path, data in files.items():
            write_whole(path, data)
        write_whole(record, result.to_json())
    except OSError as error:
        raise OutputError(f"{shown(str(out))} can't be written ({error.strerror or error})") from None
