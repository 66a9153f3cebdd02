"""The runs in a folder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from regraft.records.base import Record, columns, shown
from regraft.records.results import Interval

RunState = Literal["finished", "running", "unfinished"]


@dataclass(frozen=True)
class RunRow(Record):
    """One run.

    Attributes
    ----------
    out:
        The model folder.
    state, reached:
        Whether it is finished, and how far it came, in words.
    plan, backbone:
        How is transferred, from what; empty where it did not get so far.
    validation, test:
        Accuracies, or None. Of several labels an image, the share of images with all of them right.
    seconds:
        Wall time of a finished run.
    """

    out: str
    state: RunState
    reached: str
    plan: str
    backbone: str
    validation: Interval | None
    test: Interval | None
    seconds: float | None


@dataclass(frozen=True, repr=False)
class Runs(Record):
    """The runs in a folder, by name; unfinished ones too."""

    folder: str
    runs: tuple[RunRow, ...]

    def __repr__(self) -> str:
        if not self.runs:
            return f"no runs in {shown(self.folder)}"
        titles = ("run", "state", "plan", "backbone", "validation", "test", "seconds")
        rows = [(shown(row.out), row.state if row.state == "finished" else f"{row.state}: {row.reached}",
                 shown(row.plan), shown(row.backbone),
                 *("-" if figure is None else repr(figure) for figure in (row.validation, row.test)),
                 "-" if row.seconds is None else f"{row.seconds:.1f}") for row in self.runs]
        return "\n".join(columns([titles, *rows], indent=0))
