"""Where the lines and dots of a page's charts lie, in units of their SVG; the page's style sheet gives the colours."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from regraft.records.page import RunPage
from regraft.records.results import Interval
from regraft.records.review import Bin, FeatureMap, PrecisionRecall
from regraft.records.training import Epoch

#: Width and height of a chart, and the margins around its panel: left, top, right, bottom.
WIDTH, HEIGHT = 420.0, 290.0
_MARGINS = (50.0, 14.0, 14.0, 44.0)

#: Series that the style sheet has a colour for.
SERIES = 10

#: Classes that a map names and colours; the others are grey.
_NAMED = 10


@dataclass(frozen=True)
class Tick:
    """A mark of an axis: where, and what stands there."""

    at: float
    text: str


@dataclass(frozen=True)
class Trace:
    """One drawn thing: a path, the class of the style sheet that colours it, what the legend says (empty: nothing).

    ``look`` is ``line``, ``dashed``, ``dots``, ``small`` (dots) or ``bar``.
    """

    label: str
    colour: str
    path: str
    look: str = "line"


@dataclass(frozen=True)
class Chart:
    """A panel with axes; places are units of the SVG."""

    title: str
    about: str
    x_title: str
    y_title: str
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    traces: tuple[Trace, ...]
    texts: tuple[tuple[float, float, str], ...] = ()
    left: float = _MARGINS[0]
    top: float = _MARGINS[1]
    right: float = WIDTH - _MARGINS[2]
    bottom: float = HEIGHT - _MARGINS[3]
    width: float = WIDTH
    height: float = HEIGHT


@dataclass(frozen=True)
class Scale:
    """Values to places between the chart's margins."""

    x: tuple[float, float]
    y: tuple[float, float]

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Where a point lies, from the top left corner."""
        left, top, right, bottom = _MARGINS
        across, tall = WIDTH - left - right, HEIGHT - top - bottom
        return (round(left + across * _share(x, self.x), 1), round(top + tall * (1 - _share(y, self.y)), 1))

    def line(self, points: Sequence[tuple[float, float]]) -> str:
        """A path through points."""
        return "".join(f"{'L' if i else 'M'}{x:g} {y:g}" for i, (x, y) in enumerate(self.at(*p) for p in points))

    def dots(self, points: Sequence[tuple[float, float]]) -> str:
        """A path of strokes without length, which round ends make dots."""
        return "".join(f"M{x:g} {y:g}h0" for x, y in (self.at(*p) for p in points))

    def x_ticks(self, values: Sequence[float], percent: bool = False) -> tuple[Tick, ...]:
        """Marks of the horizontal axis."""
        return tuple(Tick(self.at(value, self.y[0])[0], _text(value, percent)) for value in values)

    def y_ticks(self, values: Sequence[float], percent: bool = False) -> tuple[Tick, ...]:
        """Marks of the vertical axis."""
        return tuple(Tick(self.at(self.x[0], value)[1], _text(value, percent)) for value in values)


def _share(value: float, span: tuple[float, float]) -> float:
    return (value - span[0]) / (span[1] - span[0])


def _text(value: float, percent: bool) -> str:
    return f"{value:.0%}" if percent else f"{value:g}"


def steps(low: float, high: float, most: int = 6) -> list[float]:
    """Round values between two bounds, at most so many."""
    rough = (high - low) / most
    scale = 10.0 ** math.floor(math.log10(rough))
    step = scale * next(factor for factor in (1, 2, 5, 10) if scale * factor >= rough)
    first = math.ceil(low / step - 1e-9)
    return [round(i * step, 10) for i in range(first, math.floor(high / step + 1e-9) + 1)]


_SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)


def curves(runs: Sequence[RunPage]) -> list[Chart]:
    """Accuracy and loss over the epochs, of one training or of several together; none where no run had epochs."""
    shown = [run for run in runs if run.epochs]
    if not shown:
        return []
    return [_curve(shown, "accuracy"), _curve(shown, "loss")]


def _curve(runs: Sequence[RunPage], figure: str) -> Chart:
    validation = [[(e.number, getattr(e, f"validation_{figure}")) for e in run.epochs] for run in runs]
    training = [[(e.number, value) for e in run.epochs if (value := getattr(e, f"train_{figure}")) is not None]
                for run in runs]
    levels = _levels(runs[0], figure) if len(runs) == 1 else []
    values = [y for points in (*validation, *training) for _, y in points] + [y for _, _, y in levels]
    last = max(run.epochs[-1].number for run in runs)
    scale = Scale((0, max(last, 1)), _room(values, figure))
    traces: list[Trace] = [Trace(label, colour, scale.line([(0, y), (max(last, 1), y)]), "dashed")
                           for label, colour, y in levels]
    for at, run in enumerate(runs):
        colour = f"s{at % SERIES + 1}" if len(runs) > 1 else "s2"
        name = run.name if len(runs) > 1 else "validation images"
        if len(runs) == 1:
            traces += [Trace("training images", "s1", scale.line(training[at])),
                       Trace("", "s1", scale.dots(training[at]), "dots")]
        traces += [Trace(name, colour, scale.line(validation[at])), Trace("", colour, scale.dots(validation[at]),
                                                                          "dots")]
        traces += _chosen(run.epochs, scale, figure) if len(runs) == 1 else []
    percent = figure == "accuracy"
    return Chart(
        "Right answers, epoch by epoch" if percent else "Loss, epoch by epoch",
        f"{figure} on validation images ends at " + ", ".join(
            f"{_text(points[-1][1], percent) if percent else f'{points[-1][1]:.3f}'} ({run.name})"
            for run, points in zip(runs, validation, strict=True)),
        "epoch", "right answers" if percent else "loss (lower is better)",
        scale.x_ticks([x for x in steps(0, max(last, 1)) if x == int(x)]),
        scale.y_ticks(steps(*scale.y, most=5), percent), tuple(traces))


def _chosen(epochs: Sequence[Epoch], scale: Scale, figure: str) -> list[Trace]:
    best = next((epoch for epoch in reversed(epochs) if epoch.best), None)
    if best is None:
        return []
    x, y = scale.at(best.number, getattr(best, f"validation_{figure}"))
    return [Trace(f"the epoch that was chosen, {best.number}", "ink", f"M{x:g} {y - 7:g}l7 7l-7 7l-7 -7z", "mark")]


def _levels(run: RunPage, figure: str) -> list[tuple[str, str, float]]:
    """What needs no training, as lines: label, colour, height."""
    result, found = run.result, []
    if result is not None and result.probe is not None:
        value = result.probe.accuracy.value if figure == "accuracy" else result.probe.log_loss
        found.append(("the frozen network, before training", "s3", value))
    if result is not None and result.validation is not None and figure == "accuracy":
        found.append(("always the commonest class", "muted", result.validation.majority.accuracy))
    return found


def _room(values: Sequence[float], figure: str) -> tuple[float, float]:
    if figure == "loss":
        return 0.0, 1.05 * max(*values, 1e-3)
    low, high = min(values), max(values)
    edge = max(0.06 * (high - low), 0.02)
    return max(0.0, low - edge), min(1.0, high + edge)


def reliability(bins: Sequence[Bin]) -> Chart:
    """How sure the answers were against how many were right; the diagonal is what ought to be."""
    scale = Scale((0, 1), (0, 1))
    whiskers = "".join(scale.line([(b.probability, b.right.low), (b.probability, b.right.high)]) for b in bins)
    points = [(b.probability, b.right.value) for b in bins]
    return Chart(
        "How sure, and how often right",
        "; ".join(f"of {b.n:,} answers about {b.probability:.0%} sure, {b.right.value:.0%} were right" for b in bins),
        "how sure the model was", "how many were right", scale.x_ticks(_SHARES, True), scale.y_ticks(_SHARES, True),
        (Trace("what ought to be", "muted", scale.line([(0, 0), (1, 1)]), "dashed"),
         Trace("", "s1", whiskers, "whisker"), Trace("", "s1", scale.line(points)),
         Trace("this model, with 95 % interval", "s1", scale.dots(points), "dots")))


def precision_recall(curves: Sequence[PrecisionRecall]) -> Chart:
    """A line a class: how many of its answers are right against how many of its images are found."""
    scale = Scale((0, 1), (0, 1))
    return Chart(
        "Found, and rightly so",
        "; ".join(f"{c.label}: area {c.average_precision:.2f}" for c in curves),
        "share of the class found (recall)", "share rightly so (precision)", scale.x_ticks(_SHARES, True),
        scale.y_ticks(_SHARES, True),
        tuple(Trace(f"{c.label} ({c.average_precision:.2f})", f"s{at % SERIES + 1}",
                    scale.line(list(zip(c.recall, c.precision, strict=True)))) for at, c in enumerate(curves)))


def plane(found: FeatureMap, classes: Sequence[str]) -> Chart:
    """Images as dots; the commonest classes have a colour each."""
    scale = Scale((-1.05, 1.05), (-1.05, 1.05))
    by_class = {label: [(x, y) for x, y, own in zip(found.x, found.y, found.labels, strict=True) if own == label]
                for label in classes}
    named = sorted(by_class, key=lambda label: -len(by_class[label]))[:_NAMED]
    others = [point for label, points in by_class.items() if label not in named for point in points]
    traces = [Trace("other classes", "muted", scale.dots(others), "small")] if others else []
    traces += [Trace(label, f"s{at + 1}", scale.dots(by_class[label]), "small") for at, label in enumerate(named)]
    return Chart(
        "The images as the network sees them",
        f"{len(found.rows):,} images of {len(by_class):,} classes on a plane", "", "", (), (), tuple(traces), left=4,
        right=WIDTH - 4, bottom=HEIGHT - 4, top=4)


@dataclass(frozen=True)
class Strip:
    """A share with its interval on a line from 0 to 100: places in percent of the line."""

    value: float
    low: float
    high: float
    baseline: float | None


def strip(interval: Interval, baseline: float | None) -> Strip:
    """Places of a share, its interval and what guessing reaches."""
    return Strip(*(round(100 * share, 2) for share in (interval.value, interval.low, interval.high)),
                 None if baseline is None else round(100 * baseline, 2))
