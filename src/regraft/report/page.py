"""The page of a run, or of several: one file that needs no network and runs no script but its own."""

from __future__ import annotations

import base64
import hashlib
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from regraft.errors import MissingExtraError
from regraft.progress import duration
from regraft.records.base import shown
from regraft.records.images import SPLITS
from regraft.records.labels import LabelsEvaluation
from regraft.records.page import RunPage
from regraft.records.results import Evaluation, Interval
from regraft.records.review import Answered
from regraft.report import charts
from regraft.report.matrix import AS_TABLE, CELL, MARGIN, matrix

if TYPE_CHECKING:
    from jinja2 import Environment

_TEMPLATES = Path(__file__).parent / "templates"

@dataclass(frozen=True)
class Figure:
    """One row of the table of figures: what it is called, what it means, and how its value is written."""

    name: str
    means: str
    field: str
    percent: bool = True


_FIGURES = (
    Figure("right answers", "accuracy: the share of images with the right name", "accuracy"),
    Figure("right, every class counting alike", "balanced accuracy: the mean over classes of the share that is found",
           "balanced_accuracy"),
    Figure("right among the first five", "top-5: the right name is among the five most probable", "top5"),
    Figure("macro F1", "how much of a class is found and how many answers of it are right, in one, averaged",
           "macro_f1"),
    Figure("ROC AUC", "how well each class is ranked above the others: 0.5 is chance, 1 perfect", "roc_auc", False),
    Figure("average precision", "precision averaged over all thresholds and classes: 1 is perfect",
           "average_precision", False),
    Figure("log-loss", "how surprised the model was by the truth: 0 is perfect", "log_loss", False),
    Figure("Brier score", "squared distance of the probabilities from the truth, 0 to 2: 0 is perfect", "brier",
           False),
    Figure("calibration error", "how far a probability is, on average, from the share that is right",
           "calibration_error"),
)


def run_page(run: RunPage) -> str:
    """The page of one run, HTML; raises MissingExtraError where jinja2 is not installed."""
    return render("run.html", {"run": run, **_context(run)})


def comparison_page(runs: Sequence[RunPage]) -> str:
    """The page that sets several runs side by side, HTML; raises MissingExtraError where jinja2 is not installed."""
    splits = [split for split in ("test", "validation") if any(f.split == split for run in runs
                                                               for f in figures_of(run))]
    return render("several.html", {
        "runs": runs, "charts": charts.curves(runs), "splits": splits,
        "alike": {split: _same_images(runs, split) for split in splits},
        "rows": [(run, {f.split: (f, charts.strip(f.accuracy, f.majority.accuracy)) for f in figures_of(run)})
                 for run in runs]})


def _same_images(runs: Sequence[RunPage], split: str) -> bool:
    """Whether all runs that have answers for a split have them for the same images under the same labels."""
    given = [{(path, of.classes[k]) for path, k in zip(of.paths, of.y_N.tolist(), strict=True)}
             for run in runs if (of := run.answers.get(split)) is not None]
    return all(images == given[0] for images in given)


def figures_of(run: RunPage) -> list[Evaluation]:
    """The figures of a run, test first."""
    return [] if run.result is None else [f for f in (run.result.test, run.result.validation) if f is not None]


def render(template: str, context: Mapping[str, Any]) -> str:
    """The HTML of a template, with the style and the script of every page; raises MissingExtraError."""
    env = _environment()
    css, js = (env.get_template(name).render() for name in ("page.css", "page.js"))
    policy = (f"default-src 'none'; img-src data:; style-src '{_digest(css)}'; script-src '{_digest(js)}'; "
              "base-uri 'none'; form-action 'none'")
    page: str = env.get_template(template).render(context, css=_Markup(css), js=_Markup(js), policy=policy)
    return page


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


@cache
def _environment() -> Environment:
    try:
        from jinja2 import Environment, FileSystemLoader, StrictUndefined
    except ImportError:
        raise MissingExtraError("the page of a run", "train") from None
    env = Environment(loader=FileSystemLoader(_TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
                      lstrip_blocks=True)
    env.filters.update(
        name=_text, short=_shortened, lines=lambda text: "\n".join(map(_text, str(text).split("\n"))),
        word=lambda text: shlex.quote(_text(text)), count=lambda n: f"{n:,}", percent=_percent,
        percent0=_rounded, digits=lambda share: f"{100 * share:.1f}",
        duration=duration)
    return env


class _Markup(str):
    """Text of our own that is HTML already."""

    __slots__ = ()

    def __html__(self) -> str:
        return str(self)


def _text(text: object) -> str:
    """A name or message without control characters or marks that turn the writing round."""
    return shown(str(text))


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.1f}\N{NO-BREAK SPACE}%"


def _rounded(share: float) -> str:
    return f"{100 * share:.0f}\N{NO-BREAK SPACE}%"


def _shortened(text: str, most: int = 18) -> str:
    return _text(text if len(text) <= most else text[:most - 1] + "…")


def _context(run: RunPage) -> dict[str, Any]:
    figures = figures_of(run)
    main = figures[0] if figures else None
    review = None if main is None else run.reviews.get(main.split)
    classes = list(run.counts) if main is None else [c.label for c in main.classes]
    mistakes = [image for split in ("test", "validation") if split in run.reviews
                for image in run.reviews[split].mistakes]
    doubtful = [image for split in ("validation", "test") if split in run.reviews
                for image in run.reviews[split].doubtful]
    result = run.result
    totals = {split: sum(counts.get(split, 0) for counts in run.counts.values()) for split in (*SPLITS, "")}
    plane = None if run.feature_map is None else charts.plane(run.feature_map, classes)
    return {
        "figures": figures, "figure_rows": list(figure_rows(_FIGURES, figures)),
        "main_strip": None if main is None else charts.strip(main.accuracy, main.majority.accuracy),
        "matrix": None if main is None else matrix(classes, main.confusion), "as_table": AS_TABLE,
        "cell_side": CELL, "cell_margin": MARGIN, "main_review": review,
        "mistakes": mistakes, "wrong": sum(of.wrong for of in run.reviews.values()), "doubtful": doubtful,
        "number": {label: k for k, label in enumerate(classes)},
        "wrong_truths": _named(classes, {image.truth for image in mistakes}),
        "wrong_answers": _named(classes, {image.answer for image in mistakes}),
        "reliability": None if review is None else charts.reliability(review.bins),
        "recall": None if review is None else charts.precision_recall(review.curves),
        "plane": plane, "ruled": _ruled(run), "charts": charts.curves([run]),
        "total": sum(totals.values()),
        "split_words": ", ".join(f"{n:,} {split or 'undivided'}" for split, n in totals.items() if n),
        "splits": [split for split, n in totals.items() if n],
        "findings": [] if result is None else [
            # A text may name files.
            f"{finding.kind.replace('_', ' ')}: {finding.count:,}" if run.private else finding.text
            for finding in result.findings],
        "conversions": {} if result is None else result.conversions or {},
        "remarks": list(_remarks(run, main, doubtful)),
        "contents": list(_contents(run, bool(figures), bool(doubtful), plane is not None)),
    }


def figure_rows(rows: Sequence[Figure], figures: Sequence[Evaluation | LabelsEvaluation],
                ) -> Iterator[tuple[Figure, list[tuple[str, str]]]]:
    """Each figure that was measured: its value and its interval on every split."""
    for row in rows:
        cells = [_cell(row, getattr(of, row.field), of.intervals.get(row.field)) for of in figures]
        if any(value for value, _ in cells):
            yield row, cells


def _cell(row: Figure, value: Interval | float | None, spread: tuple[float, float] | None) -> tuple[str, str]:
    if value is None:
        return "", ""
    number = value.value if isinstance(value, Interval) else value
    if isinstance(value, Interval):
        spread = (value.low, value.high)
    text = _percent if row.percent else "{:.3f}".format
    return text(number), "" if spread is None else f"{text(spread[0])} to {text(spread[1])}"


def _named(classes: Sequence[str], wanted: set[str]) -> list[tuple[int, str]]:
    return [(k, label) for k, label in enumerate(classes) if label in wanted]


def _remarks(run: RunPage, main: Evaluation | None, doubtful: Sequence[Answered]) -> Iterator[str]:
    """What a hurried reader should know, in sentences."""
    review = None if main is None else run.reviews.get(main.split)
    if main is not None and len(main.classes) > 2:
        for worst in sorted((c for c in main.classes if c.recall is not None), key=lambda c: c.recall or 0.0)[:1]:
            yield (f"The hardest class is {_text(worst.label)}: {_rounded(worst.recall or 0.0)} of its {worst.n:,} "
                   "images are found.")
    if review is not None and review.pairs:
        pair = review.pairs[0]
        yield (f"The commonest mistake is to take {_text(pair.truth)} for {_text(pair.answer)} "
               f"({pair.count:,} of {pair.of:,}).")
    if main is not None and main.accuracy.high - main.accuracy.low > 0.1:
        yield f"With {main.n:,} images the figure is rough; more test images would narrow the interval."
    if doubtful:
        yield f"{len(doubtful):,} labels are worth a second look."
    if run.quarantined:
        yield f"{len(run.quarantined):,} files could not be read and are left out."


def _ruled(run: RunPage) -> bool:
    """Whether the model knows of unknown images or decides by a rule of its own."""
    return run.record is not None and (run.record.unknown is not None or run.record.decision is not None)


def _contents(run: RunPage, measured: bool, doubtful: bool, mapped: bool) -> Iterator[tuple[str, str]]:
    """Anchor and title of each section that the page has."""
    reviewed = bool(run.reviews)
    for there, anchor, title in (
            (True, "result", "The result"), (measured, "figures", "The figures"),
            (measured, "confusion", "What is taken for what"), (reviewed, "mistakes", "The mistakes"),
            (doubtful, "labels", "Labels worth a look"), (reviewed, "examples", "Sure and unsure"),
            (bool(run.pictures.attributions or run.pictures.attribution_note), "looks", "Where it looks"),
            (reviewed, "calibration", "Does it know what it knows?"),
            (_ruled(run), "unknown", "Unknown images and decisions"), (mapped, "map", "A map of the images"),
            (True, "training", "How it learned"), (bool(run.counts), "data", "The data"),
            (True, "again", "To repeat it")):
        if there:
            yield anchor, title
