"""Accuracy of networks against what an image costs with each."""

from __future__ import annotations

from typing import TYPE_CHECKING

from regraft.records.ranking import Ranking
from regraft.report.sheet import BLUE, GREY, INK, LARGE, SMALL, WIDTH, Picture, Sheet, drawing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Inches.
_LEFT, _BELOW, _ABOVE, _TALL, _RIGHT, _WIDEST_NAME = 0.9, 0.6, 0.75, 3.6, 0.3, 2.2


def accuracy_against_cost(ranking: Ranking) -> Picture:
    """A point a network: milliseconds an image on this machine, and right answers with their 95 % interval.

    Raises MissingExtraError without matplotlib.
    """
    with drawing():
        return _draw(ranking).picture()


def figure(ranking: Ranking) -> Figure:
    """The same as matplotlib's figure, for a notebook or to change it."""
    with drawing():
        return _draw(ranking).figure


def _draw(ranking: Ranking) -> Sheet:
    from matplotlib.ticker import PercentFormatter

    sheet = Sheet()
    height = _BELOW + _TALL + _ABOVE
    sheet.set_height(height)
    axes = sheet.axes(_LEFT, _BELOW, WIDTH - _LEFT - _RIGHT, _TALL)
    axes.grid(axis="y")
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set_xlabel("milliseconds an image on this machine (further left is faster)")
    axes.set_ylabel("right answers")
    for one in ranking.ranking:
        taken = one.backbone == ranking.recommended
        colour, cost, score = BLUE if taken else GREY, 1000 / one.images_per_second, one.score
        axes.errorbar([cost], [score.value], yerr=[[score.value - score.low], [score.high - score.value]], fmt="o",
                      color=colour, capsize=3, markersize=8 if taken else 6)
        name = sheet.fitted(one.backbone, _WIDEST_NAME, SMALL)
        axes.annotate(f"{name}\non {one.images:,} images", (cost, score.value), xytext=(8, 0),
                      textcoords="offset points", fontsize=SMALL, va="center", color=INK)
    low, high = axes.get_xlim()
    axes.set_xlim(max(0.0, low - 0.1 * (high - low)), high + 0.45 * (high - low))  # room for the names
    sheet.text(0.12, height - 0.34, "Which network suits these images", size=LARGE, weight="bold")
    sheet.text(0.12, height - 0.58, sheet.fitted(f"take {ranking.recommended} (blue); lines are 95 % intervals, wider "
                                                 "where fewer images were tried", WIDTH - 0.3, SMALL), size=SMALL)
    return sheet
