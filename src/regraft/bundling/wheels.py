"""The packages of a bundle: Regraft's own as a wheel of what runs, the others from where pip finds them."""

from __future__ import annotations

import base64
import hashlib
import io
import subprocess
import sys
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
    """Write the Regraft that runs as a wheel into a folder.

    It is packed from its files, as they are imported, and the facts of its installation: so an editable installation
    gives one too, no build tool is needed, and no other package of that name can come in its place. Raises BundleError
    where it is not installed, or its facts are of another version.
    """
    way = f"give a wheel of it with --wheel FILE, or {_NO_WHEELS}"
    try:
        facts = metadata.distribution("regraft")
    except metadata.PackageNotFoundError:
        raise BundleError(f"Regraft runs here without being installed, so that its needs are not known; {way}") from None
    version = regraft.__version__
    if facts.version != version:
        raise BundleError(f"Regraft was installed as {facts.version} and is {version} by now; install it again, {way}")
    contents = {**dict(_program()), **dict(_facts(facts, f"regraft-{version}.dist-info"))}
    file = folder / f"regraft-{version}-py3-none-any.whl"
    file.write_bytes(_packed(contents, f"regraft-{version}.dist-info"))
    return file


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
    """Let pip put a wheel of Regraft, and of every package that serving with it needs, into a folder.

    Raises BundleError, in one line, where it can't.
    """
    if find_spec("pip") is None:
        raise BundleError(f"the packages are fetched by pip, which this Python does not have; install it, or "
                          f"{_NO_WHEELS}")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check", "--no-input",
               "--retries", "1", "--wheel-dir", str(folder), f"{wheel}[serve]"]
    done = subprocess.run(command, capture_output=True, text=True, check=False,  # noqa: S603 - no text of others
                          stdin=subprocess.DEVNULL)
    if done.returncode:
        raise BundleError(f"pip can't get the packages ({_reason(done.stderr)}); connect this machine, or {_NO_WHEELS}")


def _reason(told: str) -> str:
    """The first mistake that pip names, in one line."""
    lines = [line.strip() for line in told.splitlines() if line.strip()]
    named = [line.removeprefix("ERROR:").strip() for line in lines if line.startswith("ERROR:")]
    return shown((named or lines[-1:] or ["it does not say why"])[0])
