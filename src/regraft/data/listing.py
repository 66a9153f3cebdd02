"""Which files lie below a folder: sorted, without loops, nothing left out in silence."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from regraft.records.base import shown
from regraft.records.images import Finding

#: File endings of pictures Regraft reads ...
READABLE = frozenset({
    ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".gif", ".webp", ".tif", ".tiff", ".bmp", ".dib",
    ".pgm", ".ppm", ".pnm", ".pbm", ".tga", ".ico", ".jp2", ".j2k", ".jpx", ".avif",
})
#: ... and of pictures it does not: they are listed and quarantined with the reason, never passed over.
UNREADABLE = frozenset({
    ".heic", ".heif", ".svg", ".eps", ".ps", ".ai", ".pdf", ".psd", ".fits", ".fit", ".fts", ".dcm", ".nef", ".cr2",
    ".cr3", ".arw", ".dng", ".orf", ".rw2", ".raw", ".exr", ".hdr", ".jxl", ".jxr", ".xcf", ".emf", ".wmf",
})

#: Folders and files that systems leave behind; never a class, never an image.
_SYSTEM_NAMES = frozenset({
    "__MACOSX", "Thumbs.db", "desktop.ini", "$RECYCLE.BIN", "System Volume Information", "lost+found", "@eaDir",
})

_STARTS = (b"\xff\xd8\xff", b"\x89PNG\r\n", b"GIF8", b"II*\0", b"MM\0*", b"BM", b"RIFF")


@dataclass
class Seen:
    """What a walk passed over, by kind; ``findings`` puts it into words."""

    ignored: Counter[str] = field(default_factory=Counter)
    outside: list[str] = field(default_factory=list)
    unreadable_folders: list[str] = field(default_factory=list)

    def findings(self) -> list[Finding]:
        """One finding for each kind of thing that was passed over."""
        found = []
        if self.ignored:
            kinds = ", ".join(f"{shown(ending) or 'no ending'} {n:,}" for ending, n in self.ignored.most_common(5))
            total = self.ignored.total()
            found.append(Finding("ignored_files", total,
                                 f"{total:,} files are no pictures and were ignored ({kinds})"))
        if self.outside:
            found.append(Finding(
                "outside_links", len(self.outside),
                f"{len(self.outside):,} links lead out of the folder and were not followed; "
                "--follow-links follows them", tuple(self.outside[:5])))
        if self.unreadable_folders:
            found.append(Finding(
                "unreadable_folders", len(self.unreadable_folders),
                f"{len(self.unreadable_folders):,} folders can't be read",
                tuple(self.unreadable_folders[:5])))
        return found


def is_hidden(name: str) -> bool:
    """Whether a file or folder is a system's leftover: hidden, or of a known name."""
    return name.startswith(".") or name in _SYSTEM_NAMES


def subfolders(folder: Path, root: Path, seen: Seen, follow_links: bool) -> list[str]:
    """Names of the visible folders in a folder, sorted."""
    return [entry.name for entry in _entries(folder, seen)
            if _is_folder(entry) and _inside(entry, root, seen, follow_links)]


def pictures(folder: Path, root: Path, seen: Seen, follow_links: bool) -> Iterator[str]:
    """Paths of the picture files in a folder and all below it, relative to the folder, sorted.

    A link is followed if its target lies below ``root`` (anywhere with ``follow_links``). However many links
    lead to a folder, it is entered once, and never if it holds the one that is walked.
    """
    walked = os.path.realpath(folder)
    entered = {walked}
    # A stack instead of recursion: folders may lie deeper than Python's calls.
    levels = [("", walked, iter(_entries(folder, seen)))]
    while levels:
        prefix, real, entries = levels[-1]
        entry = next(entries, None)
        if entry is None:
            levels.pop()
        elif not _inside(entry, root, seen, follow_links):
            continue
        elif _is_folder(entry):
            target = os.path.realpath(entry.path) if entry.is_symlink() else os.path.join(real, entry.name)  # noqa: PTH118
            if target not in entered and not (entry.is_symlink() and _one_holds_other(walked, target)):
                entered.add(target)
                levels.append((f"{prefix}{entry.name}/", target, iter(_entries(Path(entry.path), seen))))
        elif _is_picture(entry):
            yield prefix + entry.name
        else:
            seen.ignored[_ending(entry)] += 1


def _one_holds_other(walked: str, target: str) -> bool:
    """Whether a link leads up from the walked folder, or to what is listed where it lies in it anyway."""
    return Path(walked).is_relative_to(target) or Path(target).is_relative_to(walked)


def direct_pictures(folder: Path, seen: Seen) -> list[str]:
    """Names of the picture files that lie in the folder itself."""
    return [entry.name for entry in _entries(folder, seen) if not _is_folder(entry) and _is_picture(entry)]


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # A link to itself.
        return False


def _entries(folder: Path, seen: Seen) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted((e for e in entries if not is_hidden(e.name)), key=lambda e: e.name)
    except OSError:
        seen.unreadable_folders.append(str(folder))
        return []


def _inside(entry: os.DirEntry[str], root: Path, seen: Seen, follow_links: bool) -> bool:
    """Whether an entry may be used: it is no link, or its target lies below the root."""
    if follow_links or not entry.is_symlink():
        return True
    target = Path(os.path.realpath(entry.path))
    if target.is_relative_to(os.path.realpath(root)):
        return True
    seen.outside.append(entry.path)
    return False


def _is_picture(entry: os.DirEntry[str]) -> bool:
    """By the ending; without one, by the first bytes of a regular file."""
    ending = _ending(entry)
    if ending:
        return ending in READABLE or ending in UNREADABLE
    try:
        if not entry.is_file():
            return False
        with Path(entry.path).open("rb") as file:
            return file.read(12).startswith(_STARTS)
    except OSError:
        return False


def _ending(entry: os.DirEntry[str]) -> str:
    """As ``Path(name).suffix`` has it, in a fraction of the time."""
    ending = os.path.splitext(entry.name)[1].lower()
    return "" if ending == "." else ending
