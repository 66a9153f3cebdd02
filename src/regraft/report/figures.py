"""Figures of a run for a paper or a slide: confusion, reliability, precision and recall, as PNG and SVG."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from regraft.records.results import Evaluation
from regraft.records.review import Bin, PrecisionRecall, Review
from regraft.report.sheet import BLUE, DARK, GREEN, GREY, INK, LARGE, ORANGE, SKY, SMALL, WIDTH, Picture, Sheet, drawing

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Inches.
_EDGE, _ABOVE, _BELOW, _LEFT = 0.12, 0.75, 0.62, 0.86
_PANEL, _WIDEST_NAME = 4.2, 1.6

#: Classes of which every cell has its number; more have colours alone.
_NUMBERED = 16

#: More classes than this have no names: they could not be read.
_MOST_NAMED = 150

_LINES = (BLUE, ORANGE, GREEN, SKY, GREY, INK)


def figures(evaluation: Evaluation, review: Review) -> Iterator[tuple[str, Picture]]:
    """Name and drawing of each figure; raises MissingExtraError without matplotlib."""
    with drawing():
        yield "confusion", _confusion(evaluation).picture()
        yield "reliability", _reliability(review.bins, review).picture()
        if review.curves:
            yield "precision-recall", _precision_recall(review.curves, review).picture()


def _confusion(evaluation: Evaluation) -> Sheet:
    """Rows the right class, columns the answer; shares of each row as colour."""
    sheet = Sheet()
    counts_KK: NDArray[np.int64] = np.array(evaluation.confusion, np.int64)
    names = [figures.label for figures in evaluation.classes]
    classes = len(names)
    size = min(SMALL, max(3.4, 72 * 0.8 * (WIDTH - 2.4) / classes))
    named = classes <= _MOST_NAMED
    shown = [sheet.fitted(name, _WIDEST_NAME, size) for name in names] if named else []
    margin = max((sheet.width(name, size) for name in shown), default=0.0) + 0.16
    left = _EDGE + 0.24 + margin
    side = min(WIDTH - left - _EDGE, 0.62 * classes)
    height = _ABOVE + side + margin + 0.42
    sheet.set_height(height)
    axes = sheet.axes(left, height - _ABOVE - side, side, side)
    shares_KK = counts_KK / np.maximum(counts_KK.sum(1, keepdims=True), 1)
    axes.imshow(shares_KK, cmap="Blues", vmin=0, vmax=1.25, interpolation="nearest", aspect="equal")
    axes.set_xticks(range(classes) if named else [], shown, rotation=90, fontsize=size)
    axes.set_yticks(range(classes) if named else [], shown, fontsize=size)
    axes.tick_params(length=0)
    axes.set_xlabel("answer", fontsize=SMALL)
    axes.set_ylabel("right class", fontsize=SMALL)
    if classes <= _NUMBERED:
        for i, j in np.argwhere(counts_KK):
            axes.text(j, i, f"{counts_KK[i, j]:,}", ha="center", va="center", fontsize=SMALL,
                      color="white" if shares_KK[i, j] > 0.6 else INK)
    _title(sheet, height, "What is taken for what",
           f"{evaluation.n:,} {evaluation.split} images; the darker, the larger the share of the row")
    return sheet


def _reliability(bins: Sequence[Bin], review: Review) -> Sheet:
    sheet = Sheet()
    height = _BELOW + _PANEL + _ABOVE
    sheet.set_height(height)
    axes = _shares(sheet, "how sure the model was", "how many were right")
    axes.plot([0, 1], [0, 1], color=GREY, linestyle="--", linewidth=1.2)
    x, y = [one.probability for one in bins], [one.right.value for one in bins]
    spread = [[one.right.value - one.right.low for one in bins], [one.right.high - one.right.value for one in bins]]
    axes.errorbar(x, y, yerr=spread, color=BLUE, marker="o", capsize=3, linewidth=1.8, clip_on=False)
    for one in bins:
        axes.annotate(f"{one.n:,}", (one.probability, one.right.value), (5, -11), textcoords="offset points",
                      fontsize=SMALL - 1, color=DARK[GREY])
    _title(sheet, height, "How sure, and how often right",
           f"{review.n:,} {review.split} images with 95 % intervals; numbers count answers; dashed: what ought to be")
    return sheet


def _precision_recall(curves: Sequence[PrecisionRecall], review: Review) -> Sheet:
    sheet = Sheet()
    height = _BELOW + _PANEL + _ABOVE
    sheet.set_height(height)
    axes = _shares(sheet, "recall: share of the class that is found", "precision: share of answers that are right")
    for at, (curve, colour) in enumerate(zip(curves, _LINES, strict=False)):
        axes.plot(curve.recall, curve.precision, color=colour, linewidth=1.8)
        x, y = _LEFT + _PANEL + 0.25, _BELOW + _PANEL - 0.25 - 0.24 * at
        sheet.line([x, x + 0.22], [y + 0.05, y + 0.05], colour, linewidth=2.2)
        sheet.text(x + 0.3, y, sheet.fitted(curve.label, _WIDEST_NAME, SMALL) + f"  {curve.average_precision:.3f}",
                   size=SMALL)
    _title(sheet, height, "Found, and rightly so",
           f"{review.n:,} {review.split} images; classes told the least well, with their average precision")
    return sheet


def _shares(sheet: Sheet, x_title: str, y_title: str) -> Axes:
    from matplotlib.ticker import PercentFormatter

    axes = sheet.axes(_LEFT, _BELOW, _PANEL, _PANEL)
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.01)
    axes.xaxis.set_major_formatter(PercentFormatter(1.0))
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.tick_params(length=3)
    axes.grid()
    axes.set_xlabel(x_title)
    axes.set_ylabel(y_title)
    return axes


def _title(sheet: Sheet, height: float, title: str, below: str) -> None:
    sheet.text(_EDGE, height - 0.32, title, size=LARGE, weight="bold")
    sheet.text(_EDGE, height - 0.55, sheet.fitted(below, WIDTH - 2 * _EDGE, SMALL), size=SMALL, colour=DARK[GREY])
