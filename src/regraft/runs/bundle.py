"""``bundle``: a model and all that runs it, in one folder for a machine without a connection."""

from __future__ import annotations

import re
import secrets
import shutil
import sys
import sysconfig
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from regraft import __version__
from regraft.bundling.sums import SUMS, WHEELS, sums_text
from regraft.bundling.texts import SCRIPTS, TEXTS, filled
from regraft.bundling.wheels import add_needs, own_wheel
from regraft.errors import ModelError, OutputError, SettingsError
from regraft.progress import Progress
from regraft.records.base import shown
from regraft.records.deploying import BundleResult
from regraft.runs.serve import open_model
from regraft.runs.verify import MODEL_FILE, verify
from regraft.runtime import OnnxModel, is_onnx
from regraft.settings import BundleSettings, VerifySettings

_WHEEL_NAME = re.compile(r"regraft-(?P<version>[^-]+)-py3-none-any\.whl")

_PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"


def bundle(settings: BundleSettings, progress: Progress) -> BundleResult:
    """Make one folder; see :func:`regraft.bundle`."""
    started = time.monotonic()
    out = Path(settings.out).expanduser()
    _require_free(out, settings.force)
    wheel, version = _given_wheel(settings.wheel)
    model, name = open_model(settings.model, progress)
    given = Path(settings.model).expanduser()
    file = given if is_onnx(given) else given / MODEL_FILE
    pictures = _verified(file, progress)
    with _staged(out) as stage:
        shutil.copyfile(file, stage / MODEL_FILE)
        if not settings.no_wheels:
            _add_wheels(stage / WHEELS, wheel, progress)
        _write_texts(stage, model, name, version, pictures)
        names = [path.relative_to(stage).as_posix() for path in stage.rglob("*") if path.is_file()]
        (stage / SUMS).write_text(sums_text(stage, names), "utf-8", newline="\n")
        size = sum((stage / one).stat().st_size for one in (*names, SUMS))
    return BundleResult(
        out=str(out), model_digest=model.digest, files=tuple(sorted((*names, SUMS))), bytes=size,
        wheels=sum(one.startswith(f"{WHEELS}/") for one in names), python=_PYTHON, platform=sysconfig.get_platform(),
        seconds=round(time.monotonic() - started, 3))


def _require_free(out: Path, force: bool) -> None:
    """Raise OutputError where something is in the place of the folder that must stay."""
    if not out.parent.is_dir():
        raise OutputError(f"{shown(str(out))} can't be written: there is no folder {shown(str(out.parent))}")
    if not out.exists() and not out.is_symlink():
        return
    ours = (out / SUMS).is_file() and (out / MODEL_FILE).is_file() and not out.is_symlink()
    empty = out.is_dir() and not out.is_symlink() and not any(out.iterdir())
    if not (ours or empty):
        raise OutputError(f"{shown(str(out))} is there already and is no bundle; take another --out")
    if not force:
        raise OutputError(f"{shown(str(out))} is there already; take another --out, or replace it with --force")


def _given_wheel(given: str | Path | None) -> tuple[Path | None, str]:
    """A wheel that is given, and the version of Regraft that goes into the bundle; raises SettingsError."""
    if given is None:
        return None, __version__
    wheel = Path(given).expanduser().resolve()
    match = _WHEEL_NAME.fullmatch(wheel.name)
    if match is None or not wheel.is_file():
        raise SettingsError([f"wheel: {shown(str(given))} is no wheel of Regraft; give a file such as "
                             f"regraft-{__version__}-py3-none-any.whl"])
    return wheel, match["version"]


def _verified(file: Path, progress: Progress) -> int:
    """How many pictures the self-test of a file holds; raises ModelError where it fails here already."""
    found = verify(VerifySettings(file), progress)
    if found.errors:
        raise ModelError(f"{shown(str(file))} is not bundled, for it fails here already: {found.errors[0]}")
    if found.self_test is None:
        raise ModelError(f"{shown(str(file))} holds no self-test, so that nobody could tell whether it answers right "
                         "on another machine; export the model again, then bundle that file")
    return found.self_test.files


@contextmanager
def _staged(out: Path) -> Iterator[Path]:
    """A folder beside ``out`` to write to, in its place at the end; nothing is left of what does not get so far.

    What is there already is replaced last. Raises OutputError where it can't be written.
    """
    mark = secrets.token_hex(4)
    stage, old = (out.with_name(f".{out.name}.{mark}.{end}") for end in ("half", "old"))
    try:
        stage.mkdir()
        yield stage
        if out.exists():
            out.rename(old)
        stage.rename(out)
    except OSError as error:
        if old.exists() and not out.exists():
            old.rename(out)
        raise OutputError(f"{shown(str(out))} can't be written ({error.strerror or error}); take another --out"
                          ) from None
    finally:
        shutil.rmtree(stage, ignore_errors=True)
        if out.exists():
            shutil.rmtree(old, ignore_errors=True)


def _add_wheels(folder: Path, wheel: Path | None, progress: Progress) -> None:
    """Regraft's wheel and those of what it needs."""
    folder.mkdir()
    wheel = own_wheel(folder) if wheel is None else Path(shutil.copyfile(wheel, folder / wheel.name))
    progress.say(f"fetching packages for Python {_PYTHON} on {sysconfig.get_platform()}")
    add_needs(wheel, folder)


def _write_texts(stage: Path, model: OnnxModel, name: str, version: str, pictures: int) -> None:
    """The scripts, the Containerfile and the README."""
    wheels = (stage / WHEELS).is_dir()
    title = shown(name)
    installation = (
        f"This installs the packages in wheels/ into venv/, without a network. They fit Python {_PYTHON} on\n"
        f"{sysconfig.get_platform()}; make the bundle again on a machine of another kind for that kind."
        if wheels else
        f"No packages are in this folder: regraft[serve] {version} must be installed here, so that the command\n"
        "regraft is found.")
    values = {"python": _PYTHON, "version": version, "name": title, "underline": "=" * len(title),
              "digest": model.digest, "classes": ", ".join(map(shown, model.classes)), "pictures": pictures,
              "installation": installation, "source": "--no-index --find-links /bundle/wheels " if wheels else ""}
    for text in TEXTS:
        (stage / text).write_bytes(filled(text, values))
        if text in SCRIPTS:
            (stage / text).chmod(0o755)
