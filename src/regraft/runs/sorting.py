"""Pictures into folders by what a model says they are: copies, nothing is overwritten."""

from __future__ import annotations

import filecmp
import shutil
from collections.abc import Iterable, Sequence
from itertools import chain, count
from pathlib import Path

from regraft.errors import OutputError
from regraft.records.base import shown
from regraft.records.results import Prediction

#: Where pictures go that are none of the classes.
_UNKNOWN = "unknown"


def sort_into(folder: Path, classes: Sequence[str], answers: Iterable[Prediction]) -> None:
    """Copy each picture that has an answer into its class's folder; what was copied before stays.

    Pictures of one name are kept apart by a number, the same one whenever the same answers come. Raises OutputError
    where another file has a picture's place, or nothing can be written.
    """
    names = _folder_names([*classes, _UNKNOWN])
    taken: set[str] = set()
    for answer in answers:
        if answer.label is None:
            continue
        source = Path(answer.path)
        place = _free(f"{names[_UNKNOWN if answer.unknown else answer.label]}/{source.name}", taken)
        try:
            _copy(source, folder / place)
        except OSError as error:
            raise OutputError(f"{shown(str(folder / place))} can't be written ({error.strerror or error})") from None


def _folder_names(labels: Iterable[str]) -> dict[str, str]:
    """A folder's name for each label: whatever a label is, it leads nowhere else."""
    taken: set[str] = set()
    names: dict[str, str] = {}
    for label in labels:
        plain = "".join("_" if c in '/\\:*?"<>|' or not c.isprintable() else c for c in label).rstrip(". ")
        if label not in names:
            names[label] = _free(f"_{plain[1:]}" if plain.startswith(".") else plain or "_", taken)
    return names


def _free(name: str, taken: set[str]) -> str:
    """The name, or the first numbered one that is not taken; some systems do not tell ``A`` from ``a``."""
    path = Path(name)
    numbered = (str(path.with_name(f"{path.stem}-{number}{path.suffix}")) for number in count(2))
    free = next(one for one in chain((name,), numbered) if one.casefold() not in taken)
    taken.add(free.casefold())
    return free


def _copy(source: Path, target: Path) -> None:
    """Copy a file, whole or not at all; one that is there already must be the same."""
    if target.exists():
        if not filecmp.cmp(source, target, shallow=False):
            raise OutputError(f"{shown(str(target))} is there already and is another picture; take an empty folder")
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    half = target.with_name(f".{target.name}.half")
    shutil.copy2(source, half)
    half.replace(target)
