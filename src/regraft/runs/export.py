"""``export``: a saved model to one file, compared with the model before it is written."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from regraft import __version__
from regraft.data.decode import DECODER
from regraft.data.splits import TRAIN, VALIDATION, read_splits
from regraft.errors import ExportError, MissingExtraError, OutputError
from regraft.model import EXPORT, EXPORT_RECORD, RUN, Model, load
from regraft.progress import Progress
from regraft.records.base import shown
from regraft.records.exported import OPSET, ExportedRecord
from regraft.records.results import ExportResult
from regraft.runs.folder import begun_with, write_whole
from regraft.runs.originals import originals
from regraft.settings import ExportSettings

#: Compare on this many images at least, where there are as many.
_AT_LEAST = 200

_T = TypeVar("_T")


def export(settings: ExportSettings, progress: Progress) -> ExportResult:
    """Run one export; see :func:`regraft.export`."""
    started = time.monotonic()
    try:
        from regraft.exports.agreement import check
        from regraft.exports.onnx_file import onnx_bytes
    except ImportError:
        raise MissingExtraError("exporting", "train,export") from None
    model = load(settings.model, settings.module)
    model.require_one_label("export, and serve with it,")
    out = Path(settings.out).expanduser() if settings.out is not None else model.folder / EXPORT
    if not out.parent.is_dir() or out.is_dir():
        raise OutputError(f"{shown(str(out))} can't be written: "
                          + ("it is a folder" if out.is_dir() else f"there is no folder {shown(str(out.parent))}"))
    files, splits = images(model.folder, settings.data)
    progress.say(f"translating {model.record.backbone} to ONNX")
    digest = model.digest
    data = onnx_bytes(_classifier(model), model.record.preprocessing.size, _about(model, digest).metadata())
    agreement = check(data, model, files, splits, progress)
    result = ExportResult(
        model=str(model.folder), model_digest=digest, out=str(out), bytes=len(data),
        sha256=hashlib.sha256(data).hexdigest(), format=settings.format, opset=OPSET, agreement=agreement,
        seconds=round(time.monotonic() - started, 3))
    _write(out, data, result)
    return result


def images(folder: Path, given: str | Path | None) -> tuple[list[Path], dict[str, int]]:
    """The files to compare on, and how many of them are of which split.

    All validation images and, up to ``_AT_LEAST``, training images; of given data that is not the run's own, any.
    Raises ExportError where there are none.
    """
    kept = begun_with(folder)
    where = given if given is not None else kept.get("data")
    if not isinstance(where, str | Path):
        raise ExportError(f"{shown(str(folder))} does not tell which images it was trained on, and a file is written "
                          "only after a comparison; say where images are with --data DIR")
    there = originals(where, follow_links=kept.get("follow_links") is True)
    table = folder / RUN / "splits.csv"
    split_of = read_splits(table) if table.is_file() else {}
    held, learned = ([there[key] for key, split in split_of.items() if split == wanted and key in there]
                     for wanted in (VALIDATION, TRAIN))
    if held or learned:
        learned = _spread(learned, _AT_LEAST - len(held))
        return [*held, *learned], {"validation": len(held), "train": len(learned)}
    if given is None or not there:
        missing = "holds none of the images of the training" if given is None else "holds no pictures"
        raise ExportError(f"{shown(str(where))} {missing}, and a file is written only after a comparison; say where "
                          "images are with --data DIR")
    files = _spread(list(there.values()), _AT_LEAST)
    return files, {"given": len(files)}


def _spread(items: Sequence[_T], most: int) -> list[_T]:
    """At most so many of the items, from all over the list: classes stand one after another in it."""
    count = max(0, min(most, len(items)))
    return [items[i * len(items) // count] for i in range(count)]


def _about(model: Model, digest: str) -> ExportedRecord:
    """What the file will say about itself."""
    record = model.record
    return ExportedRecord(
        labels=record.classes, preprocessing=record.preprocessing, model_digest=digest, regraft_version=__version__,
        decoder=DECODER, backbone=record.backbone, head=record.head.label, training_counts=record.training_counts,
        seen=model.seen.training | model.seen.validation, decision=record.decision,
        # What is far from the known images is told from their features, which the file does not give.
        unknown=None if record.unknown is None or record.unknown.kind == "relative_mahalanobis" else record.unknown)


def _classifier(model: Model) -> Any:
    """The whole model as one module."""
    from regraft.exports.graph import Classifier
    from regraft.networks.reader import Reader

    record = model.record
    network = model.network()
    return Classifier(Reader(network, record.head_readouts, record.preprocessing), model.head)


def _write(out: Path, data: bytes, result: ExportResult) -> None:
    """The file and its record, each whole or not at all; raises OutputError."""
    record = out.with_name(out.name + EXPORT_RECORD)
    try:
        record.unlink(missing_ok=True)  # never the record of another file beside this one
        write_whole(out, data)
        write_whole(record, result.to_json())
    except OSError as error:
        raise OutputError(f"{shown(str(out))} can't be written ({error.strerror or error})") from None
