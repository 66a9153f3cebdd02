"""The cut map: accuracy against the depth of the cut, with what each way to train costs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from regraft.progress import duration
from regraft.records.advice import Advice
from regraft.report.sheet import BLUE, GREY, INK, LARGE, ORANGE, SKY, SMALL, WIDTH, Picture, Sheet, drawing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Inches.
_LEFT, _BELOW, _ABOVE, _TALL, _RIGHT, _LINE = 0.9, 0.6, 1.05, 3.6, 0.3, 0.21

#: Solid where something was measured or tried, light where it is a guess.
_COLOURS = {"measured": BLUE, "tried": ORANGE, "estimated": GREY}

#: What each way is called in the table of four cases.
_CASES = {"features": "small and similar data", "partial": "small and different data",
          "full": "large and similar data", "scratch": "large and different data"}


def cut_map(advice: Advice) -> Picture:
    """Accuracy of every way to train, and of heads on single places of the network, against the depth of the cut.

    Raises MissingExtraError without matplotlib.
    """
    with drawing():
        return _draw(advice).picture()


def figure(advice: Advice) -> Figure:
    """The same as matplotlib's figure, for a notebook or to change it."""
    with drawing():
        return _draw(advice).figure


def _draw(advice: Advice) -> Sheet:
    from matplotlib.ticker import PercentFormatter

    sheet = Sheet()
    below = _BELOW + _LINE * (len(advice.forecasts) + 1)
    height = below + _TALL + _ABOVE
    sheet.set_height(height)
    axes = sheet.axes(_LEFT, below, WIDTH - _LEFT - _RIGHT, _TALL)
    axes.set_xlim(-0.05, 1.05)
    axes.grid()
    axes.xaxis.set_major_formatter(PercentFormatter(1.0))
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set_xlabel("share of the network's work in front of the cut: it stays as it is and is computed once")
    axes.set_ylabel("right answers")
    places = [(place.depth, place.accuracy.value) for place in advice.depths if place.depth is not None]
    axes.plot([x for x, _ in places], [y for _, y in places], color=SKY, marker=".", linewidth=1.2)
    for number, one in enumerate(advice.forecasts, 1):
        x = one.depth + (0.015 if one.strategy == "scratch" else 0.0)  # scratch and full have the same cut
        value, colour = one.accuracy.value, _COLOURS[one.basis]
        axes.errorbar([x], [value], yerr=[[value - one.accuracy.low], [one.accuracy.high - value]], fmt="o",
                      color=colour, capsize=3, markersize=9 if one.strategy == advice.recommended.strategy else 6)
        axes.annotate(f"{number}", (x, value), xytext=(7, 3), textcoords="offset points", weight="bold", color=INK)
        told = (f"{number}  {one.strategy}: learns {one.words}; about {duration(one.seconds)}, "
                f"{one.bytes / 2**20:,.0f} MiB; the table's way for {_CASES[one.strategy]}")
        sheet.text(_LEFT, _LINE * (len(advice.forecasts) - number + 0.7), sheet.fitted(told, WIDTH - _LEFT, SMALL),
                   size=SMALL)
    sheet.text(0.12, height - 0.34, "How much of the network should learn", size=LARGE, weight="bold")
    told = f"recommended: {advice.recommended.strategy}; {advice.images:,} images, {advice.backbone}"
    sheet.text(0.12, height - 0.58, sheet.fitted(told, WIDTH - 0.3, SMALL), size=SMALL)
    x = 0.12
    for colour, text in ((BLUE, "measured"), (ORANGE, "from a short trial"), (GREY, "a rough guess"),
                         (SKY, "frozen network, read at one place")):
        sheet.line([x + 0.06, x + 0.2], [height - 0.81, height - 0.81], colour, linewidth=9, solid_capstyle="butt")
        sheet.text(x + 0.28, height - 0.86, text, size=SMALL)
        x += 0.28 + sheet.width(text, SMALL) + 0.25
    return sheet
