"""The cut map: accuracy against the depth of the cut, with what each way to train costs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from regraft.progress import duration
from regraft.records.advice import Advice
from regraft.report.sheet import BLUE, GREY, INK, LARGE, ORANGE, SKY, SMALL, WIDTH, Picture, Sheet, drawing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Inches.
_LEFT, _BELOW, _ABOVE, _TALL, _RIGHT = 0.75, 0.95, 0.8, 3.9, 0.3

#: Solid where something was measured or tried, light where it is a guess.
_COLOURS = {"measured": BLUE, "tried": ORANGE, "estimated": GREY}

#: What each way is called in the table of four cases.
_CASES = {"features": "small, similar", "partial": "small, different", "full": "large, similar",
          "scratch": "large, different"}


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
    height = _BELOW + _TALL + _ABOVE
    sheet.set_height(height)
    axes = sheet.axes(_LEFT, _BELOW, WIDTH - _LEFT - _RIGHT, _TALL)
    axes.set_xlim(-0.08, 1.12)
    axes.grid()
    axes.xaxis.set_major_formatter(PercentFormatter(1.0))
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set_xlabel("share of the network's work in front of the cut: it stays as it is and is computed once")
    axes.set_ylabel("right answers")
    places = [(place.depth, place.accuracy.value) for place in advice.depths if place.depth is not None]
    axes.plot([x for x, _ in places], [y for _, y in places], color=SKY, marker=".", linewidth=1.2)
    for number, one in enumerate(advice.forecasts):
        x = one.depth + (0.03 if one.strategy == "scratch" else 0.0)  # scratch and full have the same cut
        value, colour = one.accuracy.value, _COLOURS[one.basis]
        axes.errorbar([x], [value], yerr=[[value - one.accuracy.low], [one.accuracy.high - value]], fmt="o",
                      color=colour, capsize=3, markersize=9 if one.strategy == advice.recommended.strategy else 6)
        axes.annotate(f"{one.strategy} ({_CASES[one.strategy]})\n{one.learns}, {duration(one.seconds)}", (x, value),
                      xytext=(6, 8 if number % 2 else -16), textcoords="offset points", fontsize=SMALL - 1.5, color=INK)
    sheet.text(0.12, height - 0.34, "How much of the network should learn", size=LARGE, weight="bold")
    told = f"recommended: {advice.recommended.strategy}; {advice.images:,} images, {advice.backbone}"
    sheet.text(0.12, height - 0.58, sheet.fitted(told, WIDTH - 0.3, SMALL), size=SMALL)
    x = 0.12
    for colour, text in ((BLUE, "measured"), (ORANGE, "from a short trial"), (GREY, "a rough guess"),
                         (SKY, "frozen network, read at one place")):
        sheet.line([x + 0.06, x + 0.2], [0.2, 0.2], colour, linewidth=9, solid_capstyle="butt")
        sheet.text(x + 0.28, 0.15, text, size=SMALL)
        x += 0.28 + sheet.width(text, SMALL) + 0.25
    return sheet
