"""What decides answers is hashed: the manifest of a model folder, written last, checked before anything is used."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from regraft.errors import ModelError, TamperedError

NAME = "manifest.json"
_FORMAT = 1


def file_digest(path: Path) -> str:
    """SHA-256 of a file, 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def model_digest(folder: Path) -> str:
    """The digest that names a model, of a folder that :func:`verify` has passed."""
    return str(json.loads((folder / NAME).read_text("utf-8"))["digest"])


def manifest_text(files: dict[str, str]) -> str:
    """The one way to write a manifest: names, their SHA-256, and the SHA-256 of that."""
    listed = {"format_version": _FORMAT, "files": dict(sorted(files.items()))}
    digest = hashlib.sha256(json.dumps(listed, sort_keys=True).encode()).hexdigest()
    return json.dumps({**listed, "digest": digest}, indent=2) + "\n"


def verify(folder: Path, expected: Sequence[str]) -> frozenset[str]:
    """Check every byte that decides answers; the names of the files that were checked.

    Raises ModelError where the folder holds no finished model, TamperedError naming the file that differs.
    """
    files = listed(folder, expected)
    for name, found in found_digests(folder, files).items():
        if found is None:
            raise TamperedError(f"{folder / name} is missing or can't be read; the model can't be used")
        if found != files[name]:
            raise TamperedError(f"{folder / name} was changed after the model was finished (SHA-256 {found[:12]}... "
                                f"instead of {files[name][:12]}...); the model can't be used")
    return frozenset(files)


def found_digests(folder: Path, files: Mapping[str, str]) -> dict[str, str | None]:
    """The digests that files of a folder have by now; None for one that is missing or can't be read."""
    found: dict[str, str | None] = {}
    for name in files:
        try:
            found[name] = file_digest(folder / name)
        except OSError:
            found[name] = None
    return found


def listed(folder: Path, expected: Sequence[str] = ()) -> dict[str, str]:
    """The files that a model folder's manifest names, with their digests.

    Raises ModelError where the folder holds no finished model, TamperedError where the manifest was changed or does
    not name what is ``expected``.
    """
    if not folder.is_dir():
        raise ModelError(f"{folder} is no model folder; `regraft train DATA --out {folder}` writes one")
    try:
        text = (folder / NAME).read_text("utf-8")
    except FileNotFoundError:
        unfinished = (folder / "run").is_dir()
        raise ModelError(
            f"{folder} holds no finished model (no {NAME}); "
            + ("its training did not end: run the same train command again" if unfinished
               else f"`regraft train DATA --out {folder}` writes one")) from None
    except (OSError, UnicodeDecodeError) as error:
        raise TamperedError(f"{folder / NAME} can't be read ({error})") from None
    files = _listed(folder, text)
    missing = sorted(set(expected) - set(files))
    if missing:
        raise TamperedError(f"{folder / NAME} does not list {', '.join(missing)}")
    return files


def _listed(folder: Path, text: str) -> dict[str, str]:
    """Files and digests of a manifest that is, byte for byte, one that we wrote."""
    changed = TamperedError(f"{folder / NAME} was changed after the model was finished; the model can't be used")
    try:
        parsed: Any = json.loads(text)
        files = parsed["files"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise changed from None
    if isinstance(parsed, dict) and parsed.get("format_version") not in (_FORMAT, None):
        raise ModelError(f"{folder / NAME} has format_version {parsed['format_version']!r}; this Regraft reads "
                         f"{_FORMAT}")
    plain = isinstance(files, dict) and all(
        isinstance(digest, str) and name == Path(name).name and name not in ("", ".", "..", NAME)
        for name, digest in files.items())
    if not plain or text != manifest_text(files):
        raise changed
    return dict(files)
