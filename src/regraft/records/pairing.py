"""Two models on the same images."""

from __future__ import annotations

from dataclasses import dataclass

from regraft.records.base import Record, shown
from regraft.records.results import Interval


@dataclass(frozen=True, repr=False)
class PairedComparison(Record):
    """How two models differ on the same images.

    Attributes
    ----------
    first, second:
        The model folders.
    n, images:
        How many images, and what they are, in words.
    first_accuracy, second_accuracy:
        Share of right answers of each, with Wilson's interval.
    difference, low, high:
        The second's less the first's, with Newcombe's 95 % interval for the same images.
    only_first, only_second:
        Images that only one of them answered rightly.
    p_value:
        McNemar's exact test that both are right equally often.
    note:
        What the reader must know, else empty.
    """

    first: str
    second: str
    n: int
    images: str
    first_accuracy: Interval
    second_accuracy: Interval
    difference: float
    low: float
    high: float
    only_first: int
    only_second: int
    p_value: float
    note: str = ""

    def __repr__(self) -> str:
        better = ("no difference is shown" if self.low <= 0 <= self.high else
                  f"{shown(self.second if self.difference > 0 else self.first)} is better")
        lines = [f"{self.n:,} images, {self.images}",
                 f"  {shown(self.first)}: {self.first_accuracy!r}",
                 f"  {shown(self.second)}: {self.second_accuracy!r}",
                 f"  difference {self.difference:+.1%} ({self.low:+.1%} to {self.high:+.1%}): {better}",
                 f"  only the first is right on {self.only_first:,}, only the second on {self.only_second:,} images; "
                 f"McNemar's exact p = {self.p_value:.2g}"]
        return "\n".join([*lines, *([f"  {self.note}"] if self.note else [])])
