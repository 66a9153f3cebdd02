"""What names tell: groups that file names hint at, and classes that differ by case or accents alone."""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from regraft.records.inspection import NameGroups

_NUMBER = r"[-_ ]?\d+"

#: What a group may be, and the regular expression that finds it in a path; the first that fits is taken.
_PATTERNS = (
    ("patient", rf"(?i)((?:patient|subject|subj|person|case|pat|pid){_NUMBER})"),
    ("video", rf"(?i)((?:video|vid|clip|movie|film|sequence|seq|scene){_NUMBER})"),
    ("camera", r"(?i)((?:camera|cam|site|station|location|loc|sensor)[-_ ]?[0-9a-z]+)"),
    ("specimen", rf"(?i)((?:animal|plant|tree|specimen|sample|slide|individual|indiv|unit|item|product){_NUMBER})"),
    ("minute in which it was taken", r"((?:19|20)\d{6}[-_T ]?\d{4})\d{2}"),
    ("day on which it was taken", r"((?:19|20)\d{2}[-_]?[01]\d[-_]?[0-3]\d)"),
    ("series", r"([^/]*\d[^/]*?)[-_ ](?:frame|img|image|f|n|no)?[-_ ]?\d+\.[^./]+$"),
)

#: Least share of the images that a pattern must find, and least images a group on average.
_LEAST_SHARE = 0.5
_LEAST_IMAGES = 2.5

#: Fewer groups than this many a class can't be held out by class.
_GROUPS_A_CLASS = 2

_EXAMPLES = 3


def name_groups(paths: Sequence[str], y_N: NDArray[np.int32]) -> NameGroups | None:
    """The groups that file names hint at: names that recur in many files and are no other word for the class."""
    for what, pattern in _PATTERNS:
        compiled = re.compile(pattern)
        members: dict[str, list[int]] = defaultdict(list)
        for row, path in enumerate(paths):
            if found := compiled.search(path):
                members[found.group(1)].append(row)
        if _is_grouping(members, len(paths), y_N):
            images = sum(map(len, members.values()))
            return NameGroups(what, pattern, len(members), images, tuple(sorted(members)[:_EXAMPLES]))
    return None


def _is_grouping(members: dict[str, list[int]], total: int, y_N: NDArray[np.int32]) -> bool:
    images = sum(map(len, members.values()))
    classes = len(np.unique(y_N))
    if not images or images < _LEAST_SHARE * total or len(members) < _GROUPS_A_CLASS * classes:
        return False
    return images >= _LEAST_IMAGES * len(members)


def alike_names(classes: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """Class names that differ only by case, accents, or what stands between the words."""
    alike: dict[str, list[str]] = defaultdict(list)
    for name in classes:
        letters = unicodedata.normalize("NFKD", name.casefold())
        alike["".join(c for c in letters if c.isalnum())].append(name)
    yield from (tuple(names) for names in alike.values() if len(names) > 1)
