"""What an inspection leaves for the next training: files to leave out, and copies to keep on one side of a split."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from regraft.inspection import quality
from regraft.inspection.findings import Seen
from regraft.records.images import SPLITS
from regraft.records.inspection import Duplicate


def exclusions(seen: Seen, groups: Sequence[Duplicate]) -> Iterator[tuple[str, str]]:
    """Path and reason of each file to leave out: unreadable, of one colour where its class is not, or a copy.

    Of copies in one class one stays: of those across splits the one that is not learned from. Copies inside one split
    count only where they are exact; copies with different labels stay, as nobody can tell which label is right.
    """
    listed = set()
    for bad in seen.unreadable:
        yield bad.path, bad.reason
    blank = quality.blank(seen.measured)
    for row in np.flatnonzero(blank & ~quality.usual(blank, seen.index.y_N)).tolist():
        listed.add(seen.index.paths[row])
        yield seen.index.paths[row], "shows one colour"
    split_of = dict(zip(seen.index.paths, seen.index.splits.tolist(), strict=True))
    for group in groups:
        if len(group.classes) > 1 or (group.kind != "exact" and len(group.splits) < 2):
            continue
        kept = max(group.files, key=lambda path: split_of[path])
        for path in group.files:
            if path != kept and path not in listed:
                listed.add(path)
                where = f" in {SPLITS[split_of[kept]]}" if len(group.splits) > 1 else ""
                yield path, f"copy ({group.kind}) of {kept}{where}"


def together(groups: Sequence[Duplicate]) -> Iterator[tuple[str, str]]:
    """Path and group of each file that has copies; of a file in two groups the later one, which holds the other."""
    group_of = {path: f"copies {number}" for number, group in enumerate(groups, start=1) for path in group.files}
    yield from sorted(group_of.items(), key=lambda item: (int(item[1].split()[1]), item[0]))
