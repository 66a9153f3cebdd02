"""``verify``: is a model the one that was made, and does it answer here what it answered there?"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from regraft import manifest
from regraft.bundling.sums import SUMS, read_sums, unlisted
from regraft.errors import DataError, ModelError
from regraft.model import BACKBONE, HEAD_FILES, load
from regraft.progress import Progress
from regraft.records.base import shown
from regraft.records.deploying import CheckedFile, Verification
from regraft.records.exported import digests, export_name
from regraft.records.selftest import SelfTestDifference, SelfTestResult
from regraft.runtime import OnnxModel, is_onnx
from regraft.runtime.model import read_onnx
from regraft.selftest.answers import TOLERANCE, compare
from regraft.settings import VerifySettings

#: The exported file of a bundle.
MODEL_FILE = export_name("onnx")

_NO_TEST = "there is no self-test in it: it was saved before there was one; {again} records one"


@dataclass(frozen=True)
class _Found:
    """What was found of one kind of thing; ``missing`` says why no self-test was run."""

    kind: Literal["folder", "file", "bundle"]
    model_digest: str | None
    files: tuple[CheckedFile, ...]
    errors: tuple[str, ...] = ()
    self_test: SelfTestResult | None = None
    missing: str = ""


def verify(settings: VerifySettings, progress: Progress) -> Verification:
    """Check one model; see :func:`regraft.verify`."""
    started = time.monotonic()
    path = Path(settings.path).expanduser()
    if is_onnx(path):
        if settings.module is not None:
            raise ModelError(f"{shown(str(path))} holds its network; leave the module away")
        found = _file(path, progress)
    elif (path / SUMS).is_file() and not (path / manifest.NAME).exists():
        found = _bundle(path, progress)
    else:
        found = _folder(path, settings.module, progress)
    return Verification(
        path=str(path), kind=found.kind, model_digest=found.model_digest, files=found.files, self_test=found.self_test,
        notes=tuple(_notes(found)), errors=(*_changed(found.files), *found.errors, *_answers(found.self_test)),
        seconds=round(time.monotonic() - started, 3))


def _folder(folder: Path, module: object, progress: Progress) -> _Found:
    """A model folder: the files of its manifest, then its answers. Raises ModelError where it is none."""
    listed = manifest.listed(folder, HEAD_FILES)
    files, digest = _checked(folder, listed), manifest.model_digest(folder)
    if _changed(files):
        return _Found("folder", digest, files, missing="the self-test was not run: changed files are not loaded")
    if BACKBONE not in listed:
        return _Found("folder", digest, files, missing="there is no self-test: the model has no network and answers "
                                                       "features only")
    model = load(folder, module)
    test = model.self_test
    if test is None:
        return _Found("folder", digest, files, missing=_NO_TEST.format(again="training again"))
    progress.say(f"asking the {len(test.files)} pictures of the self-test")
    return _Found("folder", digest, files,
                  self_test=compare(test, model.record.preprocessing, model.classes, model.logits))


def _file(path: Path, progress: Progress) -> _Found:
    """An exported file: its own digest, then its answers. Raises ModelError where it is none."""
    data = read_onnx(path)
    own = digests(data)
    files = () if own is None else (CheckedFile(path.name, *own),)
    if _changed(files):
        return _Found("file", None, files, missing="the self-test was not run: a changed file is not loaded")
    try:
        model = OnnxModel(data)
        test = model.record.self_test
        if test is None:
            return _Found("file", model.digest, files, missing=_NO_TEST.format(again="exporting again"))
        progress.say(f"asking the {len(test.files)} pictures of the self-test")
        return _Found("file", model.digest, files,
                      self_test=compare(test, model.preprocessing, model.classes, model.logits))
    except DataError as error:
        raise ModelError(f"{shown(str(path))} is no model that `regraft export` wrote: {error}") from None


def _bundle(folder: Path, progress: Progress) -> _Found:
    """A bundle: every file that its list names, then the exported file in it."""
    files = _checked(folder, read_sums(folder))
    strange = tuple(f"{shown(name)} does not belong to the bundle and could be installed from it; delete it"
                    for name in unlisted(folder))
    if _changed(files):
        return _Found("bundle", None, files, strange, missing="the self-test was not run: changed files are not loaded")
    inside = _file(folder / MODEL_FILE, progress)
    return _Found("bundle", inside.model_digest, files, (*strange, *inside.errors), inside.self_test, inside.missing)


def _checked(folder: Path, listed: dict[str, str]) -> tuple[CheckedFile, ...]:
    found = manifest.found_digests(folder, listed)
    return tuple(CheckedFile(name, digest, found[name]) for name, digest in listed.items())


def _changed(files: tuple[CheckedFile, ...]) -> tuple[str, ...]:
    """A line for every file that is not as it was."""
    return tuple(f"{shown(file.name)} is missing or can't be read" if file.found is None else
                 f"{shown(file.name)} was changed: its SHA-256 is {file.found[:12]}... instead of "
                 f"{file.expected[:12]}..." for file in files if file.found != file.expected)


def _answers(test: SelfTestResult | None) -> tuple[str, ...]:
    """A line for every picture that is answered otherwise."""
    return () if test is None else tuple(map(_answer, test.differences))


def _answer(one: SelfTestDifference) -> str:
    if one.found is None:
        return f"self-test: {one.file} can't be read here: it {one.reason}"
    label = (f"is {shown(one.found)} instead of {shown(one.expected)}" if one.found != one.expected else
             f"is {shown(one.found)} still")
    where = ("the network is given the same pixels, so it computes something else" if one.pixels_equal else
             "the network is given other pixels, so decoding or preprocessing differs")
    return f"self-test: {one.file} {label}, probabilities by up to {one.probability_difference:.1e} ({TOLERANCE:g} " \
           f"is let pass); {where}"


def _notes(found: _Found) -> Iterator[str]:
    if found.kind == "file" and not found.files:
        yield "it tells no digest of its own: it was exported before files had one; exporting again writes it"
    if found.missing:
        yield found.missing
    test = found.self_test
    if test is None:
        return
    if test.pixels_equal < test.files:
        yield (f"the network is given other pixels for {test.files - test.pixels_equal} of {test.files} pictures: "
               f"recorded with {test.recorded_by}, run with {test.run_by}")
