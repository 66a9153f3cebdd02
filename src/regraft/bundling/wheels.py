"""The packages of a bundle: Regraft's own as a wheel of what runs, the others from where pip finds them."""

from __future__ import annotations

import base64
import hashlib
import io
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

import regraft
from regraft.errors import BundleError
from regraft.records.base import shown

_NO_WHEELS = "leave packages out with --no-wheels"

#: What an installed package's folder of facts holds that describes the installation, not the package.
_OF_INSTALLATION = ("INSTALLER", "RECORD", "REQUESTED", "WHEEL", "direct_url.json")

_WHEEL = b"Wheel-Version: 1.0\nGenerator: regraft bundle\nRoot-Is-Purelib: true\nTag: py3-none-any\n"


def own_wheel(folder: Path) -> Path:
    """Write the Regraft that runs as a wheel into a folder; from its source, where it runs from there.

    Otherwise the wheel is packed from the installed files: what goes into the bundle is what runs here, and no other
    package of that name can come in its place. Raises BundleError where it can't be made.
    """
    tree = _source_tree()
    if tree is not None:
        _pip("wheel", "--no-deps", "--wheel-dir", str(folder), str(tree))
        return next(folder.glob("regraft-*.whl"))
    try:
        facts = metadata.distribution("regraft")
    except metadata.PackageNotFoundError:
        raise BundleError("Regraft runs here without being installed, so that its needs are not known; give a wheel "
                          f"of it with --wheel FILE, or {_NO_WHEELS}") from None
    info = f"regraft-{facts.version}.dist-info"
    file = folder / f"regraft-{facts.version}-py3-none-any.whl"
    file.write_bytes(_packed({**dict(_program()), **dict(_facts(facts, info))}, info))
    return file


def _source_tree() -> Path | None:
    """The folder of the source that this program is run from, if it is."""
    root = Path(regraft.__file__).parents[2]
    try:
        project = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return root if project.get("project", {}).get("name") == "regraft" else None


def _program() -> Iterator[tuple[str, bytes]]:
    """Every file of the package, by its place in the wheel."""
    root = Path(regraft.__file__).parent
    for file in sorted(root.rglob("*")):
        if file.is_file() and "__pycache__" not in file.parts:
            yield f"regraft/{file.relative_to(root).as_posix()}", file.read_bytes()


def _facts(facts: metadata.Distribution, info: str) -> Iterator[tuple[str, bytes]]:
    """What the installation knows of the package: its needs, its commands, its licence."""
    for file in facts.files or ():
        parts = file.parts
        if parts[0] == info and parts[-1] not in _OF_INSTALLATION:
            yield file.as_posix(), Path(str(facts.locate_file(file))).read_bytes()
    yield f"{info}/WHEEL", _WHEEL


def _packed(contents: dict[str, bytes], info: str) -> bytes:
    """The wheel, the same bytes for the same contents: a zip with a list of its files and their digests."""
    lines = [f"{name},sha256={base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode().rstrip('=')},{len(data)}"
             for name, data in contents.items()]
    record = f"{info}/RECORD"
    whole = {**contents, record: "\n".join([*lines, f"{record},,", ""]).encode()}
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in whole.items():
            entry = zipfile.ZipInfo(name, (2020, 1, 1, 0, 0, 0))
            entry.external_attr, entry.compress_type = 0o644 << 16, zipfile.ZIP_DEFLATED
            archive.writestr(entry, data)
    return file.getvalue()


def add_needs(wheel: Path, folder: Path) -> None:
    """Let pip put the wheel of every package that serving with Regraft's needs into a folder.

    Raises BundleError, in one line, where it can't.
    """
    if "\nProvides-Extra: serve\n" not in _needs_of(wheel):
        raise BundleError(f"{shown(wheel.name)} does not name what serving needs; give another one with --wheel FILE, "
                          f"or {_NO_WHEELS}")
    _pip("wheel", "--wheel-dir", str(folder), f"{wheel}[serve]")


def _needs_of(wheel: Path) -> str:
    """What a wheel says about itself; empty where it is none. Of an extra that is not there, pip only warns."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            facts = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
            return archive.read(facts).decode("utf-8", "replace").replace("\r", "")
    except (zipfile.BadZipFile, StopIteration, OSError):
        return ""


def _pip(command: str, *arguments: str) -> None:
    """Run pip; raises BundleError where it is missing or fails."""
    if find_spec("pip") is None:
        raise BundleError("the packages are fetched by pip, which this Python does not have; install it, or "
                          f"{_NO_WHEELS}")
    whole = [sys.executable, "-m", "pip", command, "--quiet", "--disable-pip-version-check", "--no-input", "--retries",
             "1", *arguments]
    done = subprocess.run(whole, capture_output=True, text=True, check=False,  # noqa: S603 - our own words and paths
                          stdin=subprocess.DEVNULL)
    if done.returncode:
        raise BundleError(f"pip can't get the packages ({_reason(done.stderr)}); connect this machine, or {_NO_WHEELS}")


def _reason(told: str) -> str:
    """The first mistake that pip names, in one line."""
    lines = [line.strip() for line in told.splitlines() if line.strip()]
    named = [line.removeprefix("ERROR:").strip() for line in lines if line.startswith("ERROR:")]
    return shown((named or lines[-1:] or ["it does not say why"])[0])
