"""Bars of several trainings: how each began, and what came of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from regraft.records.results import Compared, Comparison
from regraft.report.sheet import BLUE, DARK, GREY, INK, LARGE, SKY, SMALL, WIDTH, Picture, Sheet, drawing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Inches.
_EDGE, _ROW, _BELOW, _ABOVE, _FIGURES, _WIDEST_NAME = 0.12, 0.62, 0.62, 1.1, 2.05, 2.3

_FIRST, _BEST = "after the first epoch of the first phase", "saved model (best epoch of the last phase), 95 % interval"

#: Height of a bar, as a share of its row's, and where the two lie.
_BAR, _UPPER, _LOWER = 0.3, 0.17, -0.17


def bars(comparison: Comparison) -> Picture:
    """Two bars a plan: accuracy on validation after its first epoch, and of the saved model with its interval.

    Always answering the commonest class is a line. Raises MissingExtraError without matplotlib.
    """
    with drawing():
        return _draw(comparison).picture()


def figure(comparison: Comparison) -> Figure:
    """The same as matplotlib's figure, for a notebook or to change it."""
    with drawing():
        return _draw(comparison).figure


def _draw(comparison: Comparison) -> Sheet:
    from matplotlib.ticker import PercentFormatter

    rows = comparison.rows
    sheet = Sheet()
    names = [(sheet.fitted(row.plan, _WIDEST_NAME), sheet.fitted(row.backbone, _WIDEST_NAME, SMALL)) for row in rows]
    left = _EDGE + 0.12 + max(max(sheet.width(name), sheet.width(backbone, SMALL)) for name, backbone in names)
    tall, across = _ROW * len(rows), WIDTH - left - _FIGURES
    height = _BELOW + tall + _ABOVE
    sheet.set_height(height)
    axes = sheet.axes(left, _BELOW, across, tall)
    axes.set_xlim(0, 1)
    axes.set_ylim(len(rows) - 0.5, -0.5)  # the first row is on top
    axes.set_yticks([])
    axes.xaxis.set_major_formatter(PercentFormatter(1.0))
    axes.tick_params(length=3)
    axes.grid(axis="x")
    axes.set_xlabel("accuracy on validation images")
    for at, (row, (name, backbone)) in enumerate(zip(rows, names, strict=True)):
        y = _BELOW + tall - _ROW * (at + 0.5)
        sheet.text(_EDGE, y + 0.05, name)
        sheet.text(_EDGE, y - 0.14, backbone, size=SMALL, colour=DARK[GREY])
        if row.first is not None:
            axes.barh(at - _UPPER, row.first, _BAR, color=SKY)
            sheet.text(left + across + 0.1, y + _UPPER * _ROW, f"{row.first:.1%}", size=SMALL, va="center")
        if row.validation is not None:
            _best(sheet, row, left + across + 0.1, y + _LOWER * _ROW)
            value, low, high = row.validation.value, row.validation.low, row.validation.high
            axes.barh(at - _LOWER, value, _BAR, color=BLUE)
            axes.errorbar([value], [at - _LOWER], xerr=[[value - low], [high - value]], color=INK, capsize=3,
                          linewidth=1.4, clip_on=False)
    sheet.text(_EDGE, height - 0.34, f"{len(rows)} plans on the same images", size=LARGE, weight="bold")
    _legend(sheet, height - 0.62)
    if comparison.majority is not None:
        share = comparison.majority.accuracy
        axes.axvline(share, color=INK, linestyle=":", linewidth=1.5)
        text = sheet.fitted(f"always {comparison.majority.label}", across / 2, SMALL) + f" {share:.1%}"
        width = sheet.width(text, SMALL)
        x = min(left + across * share - width / 2, WIDTH - _EDGE - width)
        sheet.text(max(x, _EDGE), _BELOW + tall + 0.08, text, size=SMALL)
    return sheet


def _best(sheet: Sheet, row: Compared, x: float, y: float) -> None:
    sheet.text(x, y, repr(row.validation), size=SMALL, va="center", colour=DARK[BLUE])


def _legend(sheet: Sheet, y: float) -> None:
    """What the two colours mean."""
    x = _EDGE
    for colour, text in ((SKY, _FIRST), (BLUE, _BEST)):
        sheet.line([x + 0.06, x + 0.2], [y + 0.05, y + 0.05], colour, linewidth=9, solid_capstyle="butt")
        sheet.text(x + 0.28, y, text, size=SMALL)
        x += 0.28 + sheet.width(text, SMALL) + 0.25
