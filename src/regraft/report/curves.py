"""The curves of a training by steps: loss and accuracy over its epochs, beside what needs no training."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from regraft.records.results import TrainResult
from regraft.records.training import Epoch
from regraft.report.sheet import (
    BLUE,
    DARK,
    GREEN,
    GREY,
    INK,
    LARGE,
    NORMAL,
    ORANGE,
    SMALL,
    WIDTH,
    Picture,
    Sheet,
    apart,
    drawing,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Inches.
_LEFT, _PANEL, _BETWEEN, _BELOW, _EDGE = 0.86, 2.2, 0.22, 0.86, 0.12
_ROW = 0.21
_WIDEST_LABEL = 1.9
_WIDEST_PHASE = 2.4

#: A loss that begins far above where it stays would press the rest of the curve flat; then its axis is logarithmic.
_FAR = 10


@dataclass(frozen=True)
class _Line:
    """What one colour stands for, with its values at the start of each phase and after each epoch."""

    label: str
    colour: str
    values: tuple[float | None, ...] = ()
    level: float | None = None


def curves(result: TrainResult) -> Picture | None:
    """Loss and accuracy of training and validation over the epochs; None where there was none.

    A line stands where each phase begins, a diamond at the epoch that was chosen; the frozen probe and always
    answering the commonest class are lines too. Raises MissingExtraError without matplotlib.
    """
    if not result.epochs:
        return None
    with drawing():
        return _draw(result).picture()


def figure(result: TrainResult) -> Figure:
    """The same as matplotlib's figure, for a notebook or to change it; ``result`` must have epochs."""
    with drawing():
        return _draw(result).figure


def _draw(result: TrainResult) -> Sheet:
    epochs = result.epochs
    sheet = Sheet()
    accuracy, loss = _lines(result, sheet)
    right = min(_WIDEST_LABEL, max(sheet.width(line.label, SMALL) for line in (*accuracy, *loss))) + 0.3
    across = WIDTH - _LEFT - right
    last = max(1, epochs[-1].number)
    pad = 0.02 * last

    def inches(number: float) -> float:
        return _LEFT + across * (number + pad) / (last + 2 * pad)

    starts = [epoch for at, epoch in enumerate(epochs) if at == 0 or epoch.phase != epochs[at - 1].phase]
    names = [sheet.fitted(epoch.phase, _WIDEST_PHASE, SMALL) for epoch in starts]
    rows = _rows([inches(epoch.number) for epoch in starts], [sheet.width(name, SMALL) for name in names])
    head = _head(result, sheet)
    top_of_panels = _BELOW + 2 * _PANEL + _BETWEEN
    height = top_of_panels + _ROW * (max(row for row, _ in rows) + 1) + 0.12 + sum(h for *_, h in head) + _EDGE
    sheet.set_height(height)

    y = height - _EDGE
    for text, size, bold, tall in head:
        y -= tall
        sheet.text(_EDGE, y + 0.06, text, size=size, weight="bold" if bold else "normal")
    panels = [sheet.axes(_LEFT, _BELOW + _PANEL + _BETWEEN, across, _PANEL),
              sheet.axes(_LEFT, _BELOW, across, _PANEL)]
    for axes, lines, title in zip(panels, (accuracy, loss), ("accuracy", "loss"), strict=True):
        axes.set_xlim(-pad, last + pad)
        _shade(axes, starts, last + pad)
        _plot(axes, epochs, lines)
        axes.set_ylabel(title)
        axes.yaxis.set_label_coords(-(_LEFT - 0.24) / across, 0.5)
        axes.grid(axis="y")
    _scale(panels[0], panels[1], accuracy, loss)
    _mark(panels, epochs)
    _ticks(panels)
    for axes, lines, bottom in zip(panels, (accuracy, loss), (_BELOW + _PANEL + _BETWEEN, _BELOW), strict=True):
        _label(sheet, axes, lines, bottom, _LEFT + across)
    for epoch, name, (row, x) in zip(starts, names, rows, strict=True):
        at, label_at = inches(epoch.number), top_of_panels + 0.08 + _ROW * row
        sheet.line([at, at], [top_of_panels, label_at + 0.14], GREY, linewidth=0.8)
        sheet.text(x, label_at, name, size=SMALL, colour=DARK[GREY])
    sheet.text(_EDGE, _EDGE, _foot(result), size=SMALL - 1, colour=DARK[GREY])
    return sheet


def _lines(result: TrainResult, sheet: Sheet) -> tuple[list[_Line], list[_Line]]:
    """What is drawn: lines of the accuracy and of the loss."""
    epochs, probe, validation = result.epochs, result.probe, result.validation

    def fitted(text: str) -> str:
        return sheet.fitted(text, _WIDEST_LABEL, SMALL)

    accuracy = [_Line("training", BLUE, tuple(e.train_accuracy for e in epochs)),
                _Line("validation", ORANGE, tuple(e.validation_accuracy for e in epochs))]
    loss = [_Line("training", BLUE, tuple(e.train_loss for e in epochs)),
            _Line("validation", ORANGE, tuple(e.validation_loss for e in epochs))]
    if probe is not None:
        accuracy.append(_Line(fitted(f"frozen probe {probe.accuracy.value:.1%}"), GREEN, level=probe.accuracy.value))
        loss.append(_Line(fitted(f"frozen probe {probe.log_loss:.3f}"), GREEN, level=probe.log_loss))
    if validation is not None:
        majority = validation.majority
        name = sheet.fitted(majority.label, _WIDEST_LABEL - sheet.width(f"always  {majority.accuracy:.1%}", SMALL),
                            SMALL)
        accuracy.append(_Line(f"always {name} {majority.accuracy:.1%}", GREY, level=majority.accuracy))
    return accuracy, loss


def _rows(starts: Sequence[float], widths: Sequence[float]) -> list[tuple[int, float]]:
    """For each phase's name the row above the panels, and its left end, so that none touches another.

    A name begins at its line, or ends at the sheet's edge; later phases take lower rows, where lines of earlier
    names do not cross them.
    """
    ends: list[float] = []  # how far to the left the names of each row reach
    found: list[tuple[int, float]] = []
    for start, width in zip(reversed(starts), reversed(widths), strict=True):
        left = min(start + 0.05, WIDTH - _EDGE - width)
        row = next((i for i, end in enumerate(ends) if left + width + 0.1 <= end), len(ends))
        ends[row:row + 1] = [min(left, start)]
        found.append((row, left))
    return found[::-1]


def _head(result: TrainResult, sheet: Sheet) -> list[tuple[str, float, bool, float]]:
    """Texts above the panels: what, size, whether bold, and the height that it takes."""
    room = WIDTH - 2 * _EDGE
    lines = [(sheet.fitted(f"{result.strategy}, {result.backbone}", room, LARGE, "bold"), LARGE, True, 0.28)]
    chosen = _chosen(result.epochs)
    kept = _probe_kept(result)
    if chosen is not None:
        text = f"◆ {'best' if kept else 'chosen'} epoch: {chosen.number}"
        if result.validation is not None:
            text += (f"; {'kept: the frozen probe' if kept else 'saved model'}, {result.validation.accuracy!r} on "
                     f"{result.validation.n:,} validation images")
        lines.append((sheet.fitted(text, room), NORMAL, False, 0.22))
    return lines


def _foot(result: TrainResult) -> str:
    text = "training: means over an epoch, of images as they were learned from (augmented, with dropout)"
    chosen, validation = _chosen(result.epochs), result.validation
    if (chosen is None or validation is None or _probe_kept(result)
            or validation.accuracy.value == chosen.validation_accuracy):
        return text
    return f"{text}; the curves are in the training's arithmetic"


def _probe_kept(result: TrainResult) -> bool:
    """Whether the frozen probe did better and was kept: its figures are then those of the result."""
    return result.probe is not None and result.validation == result.probe


def _chosen(epochs: Sequence[Epoch]) -> Epoch | None:
    """The best epoch of the last phase, which goes into the model."""
    return next((epoch for epoch in reversed(epochs) if epoch.best), None)


def _shade(axes: Axes, starts: Sequence[Epoch], end: float) -> None:
    """A line where each phase begins, and every other one on a faint ground."""
    ends = [*(epoch.number for epoch in starts[1:]), end]
    for at, (epoch, until) in enumerate(zip(starts, ends, strict=True)):
        axes.axvline(epoch.number, color=GREY, linewidth=0.8, zorder=0.5)
        if at % 2:
            axes.axvspan(epoch.number, until, color="#F4F4F4", linewidth=0, zorder=0)


def _plot(axes: Axes, epochs: Sequence[Epoch], lines: Sequence[_Line]) -> None:
    size = 5 if len(epochs) <= 12 else 3
    for line in lines:
        if line.level is not None:
            axes.axhline(line.level, color=line.colour, linestyle="--" if line.colour == GREEN else ":", linewidth=1.5)
            continue
        marker = "o" if line.colour == BLUE else "s"
        for phase in dict.fromkeys(epoch.phase for epoch in epochs):
            points = [(epoch.number, value) for epoch, value in zip(epochs, line.values, strict=True)
                      if epoch.phase == phase and value is not None]
            axes.plot([x for x, _ in points], [y for _, y in points], color=line.colour, marker=marker,
                      markersize=size, linewidth=1.8, clip_on=False)


def _scale(above: Axes, below: Axes, accuracy: Sequence[_Line], loss: Sequence[_Line]) -> None:
    """Room for every value: accuracy as percentages, loss from 0, or logarithmic where one lies far above the rest."""
    from matplotlib.ticker import FuncFormatter, NullFormatter, PercentFormatter

    shares = _values(accuracy)
    low, high = min(shares), max(shares)
    room = max(0.08 * (high - low), 0.02, 0.05 - (high - low) / 2)
    above.set_ylim(max(-0.02, low - room), min(1.02, high + room))
    above.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    losses = _values(loss)
    if max(losses) > _FAR * statistics.median(losses) and min(losses) > 0:
        below.set_yscale("log")
        below.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        below.yaxis.set_minor_formatter(NullFormatter())
        below.set_ylabel("loss, logarithmic")
    else:
        below.set_ylim(0, 1.06 * max(losses) or 1)


def _values(lines: Sequence[_Line]) -> list[float]:
    return [value for line in lines for value in (*line.values, line.level) if value is not None]


def _mark(panels: Sequence[Axes], epochs: Sequence[Epoch]) -> None:
    chosen = _chosen(epochs)
    if chosen is not None:
        for axes, value in zip(panels, (chosen.validation_accuracy, chosen.validation_loss), strict=True):
            axes.plot([chosen.number], [value], marker="D", markersize=8, color=INK, markeredgecolor="white",
                      zorder=5, clip_on=False)


def _ticks(panels: Sequence[Axes]) -> None:
    from matplotlib.ticker import MaxNLocator

    for axes in panels:
        axes.xaxis.set_major_locator(MaxNLocator(nbins=12, integer=True, min_n_ticks=1))
        axes.tick_params(length=3)
    panels[0].tick_params(labelbottom=False)
    panels[1].set_xlabel("epoch")


def _label(sheet: Sheet, axes: Axes, lines: Sequence[_Line], bottom: float, edge: float) -> None:
    """Name each line at its right end; where they lie close together, a thin line leads there."""
    to_axes = axes.transData + axes.transAxes.inverted()
    ends = []
    for line in lines:
        value = line.level if line.level is not None else next(v for v in (*line.values[::-1], 0.0) if v is not None)
        ends.append(bottom + _PANEL * float(to_axes.transform((0.0, value))[1]))
    for line, end, place in zip(lines, ends, apart(ends, 0.18, bottom + 0.05, bottom + _PANEL - 0.05), strict=True):
        sheet.line([edge + 0.02, edge + 0.14], [end, place], line.colour, linewidth=0.8)
        sheet.text(edge + 0.18, place, line.label, size=SMALL, colour=DARK[line.colour], va="center")
