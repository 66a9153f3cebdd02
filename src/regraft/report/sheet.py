"""A sheet to draw on: places in inches, texts that fit, colours that everyone can tell apart."""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from regraft.errors import MissingExtraError
from regraft.records.base import shown

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.backends.backend_agg import RendererAgg
    from matplotlib.figure import Figure
    from matplotlib.text import Text

#: Okabe and Ito's colours (2008), told apart with any colour vision; those of texts are darker, to be read on white.
BLUE, ORANGE, GREEN, SKY, GREY, INK = "#0072B2", "#D55E00", "#009E73", "#8CC8EE", "#767676", "#222222"
DARK = {BLUE: "#005A8E", ORANGE: "#A84900", GREEN: "#006E50", GREY: "#5A5A5A"}

#: Inches; at 100 pixels an inch the sheet is 800 pixels wide and its texts are as large as those of a page.
WIDTH = 8.0
#: Pixels an inch of the PNG: twice that, for screens with fine pixels.
_DPI = 200

#: Points.
NORMAL, SMALL, LARGE = 10.0, 9.0, 12.0

#: The first comes with matplotlib and has Latin, Greek, Cyrillic, Arabic and Hebrew letters; the others are asked,
#: where they are installed, for letters that it lacks.
_FONTS = ("DejaVu Sans", "Noto Sans CJK SC", "Noto Sans CJK JP", "Hiragino Sans", "PingFang SC", "Microsoft YaHei",
          "Yu Gothic", "Malgun Gothic", "Noto Sans Devanagari", "Noto Sans Thai", "Arial Unicode MS")


@dataclass(frozen=True)
class Picture:
    """The same drawing as PNG, 1,600 pixels wide, and as SVG, whose texts are texts."""

    png: bytes
    svg: bytes


@contextmanager
def drawing() -> Iterator[None]:
    """Matplotlib as it comes, whatever the caller has set, and as it was afterwards.

    Raises MissingExtraError where matplotlib is not installed.
    """
    try:
        import matplotlib
        from matplotlib import font_manager
    except ImportError:
        raise MissingExtraError("drawing", "train") from None
    installed = set(font_manager.get_font_names())
    with matplotlib.rc_context(), warnings.catch_warnings():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update({
            "font.family": [name for name in _FONTS if name in installed], "font.size": NORMAL,
            "text.parse_math": False,  # a name may hold dollars
            "svg.fonttype": "none", "svg.hashsalt": "regraft",
            "text.color": INK, "axes.labelcolor": INK, "xtick.labelcolor": INK, "ytick.labelcolor": INK,
            "axes.edgecolor": GREY, "xtick.color": GREY, "ytick.color": GREY,
            "axes.spines.top": False, "axes.spines.right": False, "axes.axisbelow": True, "grid.color": "#E4E4E4"})
        # A letter that no font here has becomes a box in the PNG; the SVG keeps it for the reader's fonts.
        warnings.filterwarnings("ignore", message="Glyph .* missing from|Matplotlib currently does not support")
        yield


class Sheet:
    """A figure of :data:`WIDTH` inches; places are inches from the left and from the bottom."""

    def __init__(self) -> None:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        self.figure: Figure = Figure(figsize=(WIDTH, 1.0), dpi=_DPI, facecolor="white")
        self._renderer: RendererAgg = FigureCanvasAgg(self.figure).get_renderer()

    def set_height(self, height: float) -> None:
        """Say how tall the sheet is, before the first axes are put on it."""
        self.figure.set_size_inches(WIDTH, height)

    def axes(self, left: float, bottom: float, width: float, height: float) -> Axes:
        """Axes at a place."""
        tall = self.figure.get_size_inches()[1]
        return self.figure.add_axes((left / WIDTH, bottom / tall, width / WIDTH, height / tall))

    def text(self, x: float, y: float, text: str, *, size: float = NORMAL, colour: str = INK,
             weight: Literal["normal", "bold"] = "normal", ha: Literal["left", "center", "right"] = "left",
             va: Literal["baseline", "center", "bottom", "top"] = "baseline") -> Text:
        """Write a text."""
        return self.figure.text(x, y, text, fontsize=size, color=colour, fontweight=weight, ha=ha, va=va,
                                transform=self.figure.dpi_scale_trans)

    def line(self, x: Sequence[float], y: Sequence[float], colour: str, **style: Any) -> None:
        """Draw a line across axes and margins."""
        from matplotlib.lines import Line2D

        self.figure.add_artist(Line2D(x, y, color=colour, transform=self.figure.dpi_scale_trans, **style))

    def width(self, text: str, size: float = NORMAL, weight: Literal["normal", "bold"] = "normal") -> float:
        """Inches that a text takes."""
        written = self.text(0, 0, text, size=size, weight=weight)
        taken = written.get_window_extent(self._renderer).width / _DPI
        written.remove()
        return float(taken)

    def fitted(self, name: str, room: float, size: float = NORMAL,
               weight: Literal["normal", "bold"] = "normal") -> str:
        """A name, escaped where it can't be printed, and cut where it takes more than ``room`` inches."""
        text = shown(name[:500])
        if self.width(text, size, weight) <= room:
            return text
        fits, too_long = 0, len(text)
        while too_long - fits > 1:
            middle = (fits + too_long) // 2
            if self.width(text[:middle] + "…", size, weight) <= room:
                fits = middle
            else:
                too_long = middle
        return text[:fits] + "…"

    def picture(self) -> Picture:
        """The finished drawing; the same records give the same bytes."""
        files = {}
        for kind, facts in (("png", {"Software": None}), ("svg", {"Date": None, "Creator": None})):
            file = io.BytesIO()
            self.figure.savefig(file, format=kind, metadata=facts)
            files[kind] = file.getvalue()
        return Picture(**files)


def apart(places: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Places moved so that neighbours are ``gap`` apart, as little as that takes, between ``low`` and ``high``.

    Where there is not room enough they go beyond ``low``.
    """
    order = sorted(range(len(places)), key=lambda i: places[i])
    moved = list(places)
    ceiling = high
    for i in reversed(order):
        moved[i] = min(moved[i], ceiling)
        ceiling = moved[i] - gap
    floor = low if (len(places) - 1) * gap <= high - low else -math.inf
    for i in order:
        moved[i] = max(moved[i], floor)
        floor = moved[i] + gap
    return moved
