"""The list of a bundle's files with their SHA-256, as ``sha256sum --check`` reads it too."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from regraft.errors import TamperedError
from regraft.manifest import file_digest
from regraft.records.base import shown

#: Name of the list, and of the folder of packages.
SUMS, WHEELS = "SHA256SUMS", "wheels"

_LINE = re.compile(r"([0-9a-f]{64})  (.+)")


def sums_text(folder: Path, names: Iterable[str]) -> str:
    """The list of files of a folder."""
    return "".join(f"{file_digest(folder / name)}  {name}\n" for name in sorted(names))


def read_sums(folder: Path) -> dict[str, str]:
    """Paths below a bundle, and their digests; raises TamperedError where its list is none of ours."""
    try:
        lines = (folder / SUMS).read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise TamperedError(f"{shown(str(folder / SUMS))} can't be read ({error})") from None
    matches = [_LINE.fullmatch(line) for line in lines]
    listed = {match[2]: match[1] for match in matches if match is not None}
    if not listed or len(listed) != len(lines) or not all(map(_inside, listed)):
        raise TamperedError(f"{shown(str(folder / SUMS))} was changed after the bundle was made; it can't be used")
    return listed


def unlisted(folder: Path) -> list[str]:
    """Files among a bundle's packages that its list does not name."""
    listed = read_sums(folder)
    there = (f"{WHEELS}/{file.name}" for file in (folder / WHEELS).glob("*"))
    return sorted(name for name in there if name not in listed)


def _inside(name: str) -> bool:
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts and "\\" not in name and str(path) == name
