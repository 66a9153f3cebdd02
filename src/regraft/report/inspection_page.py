"""An inspection as one HTML file with pictures of what was found: nothing in it is fetched, no script runs."""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from regraft.data.view import picture
from regraft.errors import ImageError, MissingExtraError
from regraft.records.base import shown
from regraft.records.images import SPLITS
from regraft.records.inspection import DataFinding, Duplicate, Inspection, LabelSuspect
from regraft.records.preprocessing import Preprocessing

#: Longer side of a picture in the page, pixels.
_SIDE = 120

#: Pictures of a finding, groups of copies, files of one of these, and doubtful labels in the page.
_PICTURES, _GROUPS, _COPIES, _SUSPECTS = 12, 24, 6, 48

_WORDS = {"serious": "Serious.", "look": "Worth a look.", "note": "Good to know."}

#: Findings whose pictures stand in a part of their own.
_ELSEWHERE = ("duplicates", "duplicates_across_splits", "duplicates_across_classes", "label_suspects", "unreadable")

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h3 { font-size: 1rem; font-weight: normal; margin-bottom: 0; }
section { border-left: .25rem solid #999; padding-left: .75rem; margin: 1rem 0; }
section.serious { border-color: #b00020; }
section.look { border-color: #b26a00; }
.strip { display: flex; flex-wrap: wrap; gap: .5rem; }
figure { margin: 0; width: 7.5rem; }
figcaption { font-size: .75rem; line-height: 1.2; overflow-wrap: anywhere; }
table { border-collapse: collapse; }
td, th { text-align: left; padding: .1rem 1rem .1rem 0; border-bottom: 1px solid #ddd; }
"""


@dataclass(frozen=True)
class Thumbnail:
    """A picture as a data address, and what stands below it."""

    address: str
    caption: str


def page(record: Inspection, file_of: Callable[[str], Path], rules: Preprocessing) -> str:
    """The page's HTML; ``file_of`` finds the file of a path in the record. Raises MissingExtraError."""
    try:
        from jinja2 import Environment, PackageLoader
    except ImportError:
        raise MissingExtraError("a page with pictures", "train") from None
    digest = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
    pictures = _Pictures(file_of, rules)
    template = Environment(loader=PackageLoader("regraft.report"), autoescape=True).get_template("inspection.html")
    return template.render(
        record=record, words=_WORDS, policy=f"default-src 'none'; img-src data:; style-src 'sha256-{digest}'",
        style=_STYLE, splits=[name for name in SPLITS if any(name in count.splits for count in record.classes)],
        findings=[(finding, pictures.of_finding(finding)) for finding in record.findings],
        groups=[(group, pictures.of_group(group)) for group in record.duplicates[:_GROUPS]],
        suspects=pictures.of_suspects([s for s in record.label_suspects if s.likely]))


class _Pictures:
    """Makes small pictures of files."""

    def __init__(self, file_of: Callable[[str], Path], rules: Preprocessing) -> None:
        self._file_of, self._rules = file_of, rules

    def of_finding(self, finding: DataFinding) -> list[Thumbnail]:
        """A few of the files that a finding is about; none where they have a part of their own."""
        if finding.id in _ELSEWHERE:
            return []
        return self._of([(file, file) for file in finding.files[:_PICTURES]])

    def of_group(self, group: Duplicate) -> list[Thumbnail]:
        """A few of the copies."""
        return self._of([(file, file) for file in group.files[:_COPIES]])

    def of_suspects(self, suspects: Sequence[LabelSuspect]) -> list[Thumbnail]:
        """The most doubtful labels, with what the picture looks like."""
        return self._of([(s.path, f"{s.path} looks like {s.suggested}") for s in suspects[:_SUSPECTS]])

    def _of(self, named: Sequence[tuple[str, str]]) -> list[Thumbnail]:
        made = ((self._address(path), caption) for path, caption in named)
        return [Thumbnail(address, shown(caption)) for address, caption in made if address is not None]

    def _address(self, path: str) -> str | None:
        """A data address of a small JPEG; None where the file can't be read (any more)."""
        try:
            image = picture(self._file_of(path), self._rules, lambda width, height: float(min(width, height))).image
        except (ImageError, KeyError):
            return None
        small = image.copy()
        small.thumbnail((_SIDE, _SIDE), Image.Resampling.BICUBIC)
        buffer = io.BytesIO()
        small.save(buffer, "JPEG", quality=80)
        return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
