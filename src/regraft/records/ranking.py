"""Which networks were compared on the user's images, how they did, which one to take."""

from __future__ import annotations

import html
import textwrap
from dataclasses import dataclass

from regraft.records.base import Record, columns, shown
from regraft.records.results import Interval

_WIDTH = 110


@dataclass(frozen=True)
class Ranked(Record):
    """One network of a ranking.

    Attributes
    ----------
    backbone, weights:
        Its name, and the file that its weights came from where one was given.
    score:
        Share of images answered rightly by heads that had not seen them (cross-validation), with its 95 % interval.
    images:
        Images that the score is of: fewer where the network was left behind early.
    behind:
        The recommended network's accuracy less this one's on the same images, with its 95 % interval: value, low,
        high. All 0 for the recommended one.
    head:
        The head that did best, in words.
    images_per_second:
        Images that the network took a second on this machine, reading them apart.
    parameters, bytes:
        Numbers in the network, and what they take in memory.
    log_me, h_score:
        Two scores that need no head; shown for those who know them, not used.
    """

    backbone: str
    weights: str | None
    score: Interval
    images: int
    behind: tuple[float, float, float]
    head: str
    images_per_second: float
    parameters: int
    bytes: int
    log_me: float
    h_score: float


@dataclass(frozen=True, repr=False)
class Ranking(Record):
    """Networks in the order of how well they suit the images.

    Attributes
    ----------
    ranking:
        The recommended network first, then those that were compared longest, then by score.
    recommended, reason:
        What to take, and why in words.
    images, classes:
        Images that were available (test images are not looked at), and their classes.
    rounds:
        Images of each round of the comparison.
    passes:
        Images that were put through a network for this, and ``all_passes``, what comparing all networks on all images
        takes. What was in the store already costs no pass.
    seconds:
        Wall time.
    out:
        Folder of the chart, or None.
    """

    ranking: tuple[Ranked, ...]
    recommended: str
    reason: str
    images: int
    classes: int
    rounds: tuple[int, ...]
    passes: int
    all_passes: int
    seconds: float
    out: str | None = None

    def __repr__(self) -> str:
        sizes = ", then ".join(f"{count:,}" for count in self.rounds)
        cost = f"{self.passes:,} image passes"
        if self.all_passes:
            cost += f" ({self.passes / self.all_passes:.0%} of the {self.all_passes:,} that trying everything takes)"
        lines = [
            *textwrap.wrap(f"{len(self.ranking)} networks tried on {self.images:,} images of {self.classes} classes: "
                           f"on {sizes} of them, the weaker ones left behind each time", _WIDTH),
            *columns([_TITLES, *(_cells(one) for one in self.ranking)], indent=2),
            *_MEANING,
            *textwrap.wrap(f"take {shown(self.recommended)}: {self.reason}", _WIDTH, subsequent_indent="  "),
            *textwrap.wrap(f"cost: {cost}, {self.seconds:.1f} s; what {shown(self.recommended)} sees in every image is "
                           "kept, so training with it starts at once", _WIDTH, subsequent_indent="  "),
        ]
        if self.out is not None:
            lines.append(f"chart and table in {shown(self.out)}")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        def line(cells: tuple[str, ...], mark: str = "td") -> str:
            return f"<tr>{''.join(f'<{mark}>{html.escape(cell)}</{mark}>' for cell in cells)}</tr>"

        rows = "".join(line(_cells(one)) for one in self.ranking)
        return f"<table>{line(_TITLES, 'th')}{rows}</table><pre>{html.escape(repr(self))}</pre>"


_MEANING = (
    "  right answers: share of images that were named rightly by a classifier that had not seen them; in brackets, the",
    "  range in which the true share most likely lies. on: images tried. images/s here: how fast the network is on",
    "  this machine. LogME and H-score are there for those who know them; they decide nothing.")

_TITLES = ("network", "right answers", "on", "images/s here", "parameters", "LogME", "H-score")


def _cells(one: Ranked) -> tuple[str, ...]:
    return (shown(one.backbone), repr(one.score), f"{one.images:,}", f"{one.images_per_second:,.0f}",
            f"{one.parameters / 1e6:.1f} M", f"{one.log_me:.2f}", f"{one.h_score:.1f}")
