"""The page of an inspection, with pictures of what was found."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from regraft.data.thumbnails import thumbnail
from regraft.errors import ImageError
from regraft.records.images import SPLITS
from regraft.records.inspection import DataFinding, Inspection
from regraft.records.preprocessing import Preprocessing
from regraft.report.page import render

#: Most pictures of a finding, groups of copies, files of one of these, and doubtful labels in the page.
_PICTURES, _GROUPS, _COPIES, _SUSPECTS = 12, 24, 6, 48

_WORDS = {"serious": "Serious", "look": "Worth a look", "note": "Good to know"}

#: Findings whose pictures stand in a part of their own, or can't be shown.
_ELSEWHERE = ("duplicates", "duplicates_across_splits", "duplicates_across_classes", "label_suspects", "unreadable")


@dataclass(frozen=True)
class Thumbnail:
    """A picture as a data address, its path, and what is said of it."""

    address: str
    path: str
    says: str = ""


def inspection_page(record: Inspection, file_of: Callable[[str], Path], rules: Preprocessing) -> str:
    """The page's HTML; ``file_of`` finds the file of a path in the record. Raises MissingExtraError."""

    def pictures(named: Sequence[tuple[str, str]]) -> list[Thumbnail]:
        return list(_thumbnails(named, file_of, rules))

    return render("inspection.html", {
        "record": record, "words": _WORDS,
        "splits": [name for name in SPLITS if any(name in count.splits for count in record.classes)],
        "findings": [(finding, pictures(_named(finding))) for finding in record.findings],
        "groups": [(group, pictures([(file, "") for file in group.files[:_COPIES]]))
                   for group in record.duplicates[:_GROUPS]],
        "suspects": pictures([(suspect.path, f"{suspect.label}, looks like {suspect.suggested}")
                              for suspect in record.label_suspects if suspect.likely][:_SUSPECTS])})


def _named(finding: DataFinding) -> list[tuple[str, str]]:
    """The files of a finding that are shown beside it."""
    return [] if finding.id in _ELSEWHERE else [(file, "") for file in finding.files[:_PICTURES]]


def _thumbnails(named: Sequence[tuple[str, str]], file_of: Callable[[str], Path], rules: Preprocessing,
                ) -> Iterator[Thumbnail]:
    for path, says in named:
        try:
            yield Thumbnail(thumbnail(file_of(path), rules), path, says)
        except ImageError:  # changed since it was looked at
            continue
