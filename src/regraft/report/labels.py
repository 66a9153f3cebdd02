"""The page of a run whose images have any number of labels."""

from __future__ import annotations

from collections.abc import Iterator

from regraft.records.images import SPLITS
from regraft.records.labels import LabelsEvaluation
from regraft.records.page import LabelsPage
from regraft.report import charts
from regraft.report.page import Figure, figure_rows, render

_FIGURES = (
    Figure("mean average precision", "how well images with a label are ranked above those without, over all labels: 1 "
           "is perfect", "mean_average_precision", False),
    Figure("micro F1", "how many labels are found and how many of those given are right, in one, over all answers",
           "micro_f1"),
    Figure("macro F1", "the same for each label by itself, then averaged", "macro_f1"),
    Figure("all labels right", "exact match: images with exactly the right labels", "exact_match"),
    Figure("wrong yes or no", "Hamming loss: the share of single decisions that are wrong", "hamming_loss"),
    Figure("log-loss", "how surprised the model was by the truth, for a label on average: 0 is perfect", "log_loss",
           False),
    Figure("calibration error", "how far a probability is, on average, from the share that has the label",
           "calibration_error"),
)


def labels_page(run: LabelsPage) -> str:
    """The page, HTML; raises MissingExtraError where jinja2 is not installed."""
    figures = [] if run.result is None else [of for of in (run.result.test, run.result.validation) if of is not None]
    main = figures[0] if figures else None
    images = {} if run.run is None else run.run.images
    return render("labels.html", {
        "run": run, "figures": figures, "main": main, "figure_rows": list(figure_rows(_FIGURES, figures)),
        "spread": None if main is None else main.intervals.get("mean_average_precision"),
        "curves": None if run.curves is None or not run.curves.curves else charts.precision_recall(run.curves.curves),
        "splits": [split for split in SPLITS if any(split in of for of in run.counts.values())],
        "total": sum(images.values()), "split_words": ", ".join(f"{n:,} {split}" for split, n in images.items() if n),
        "contents": list(_contents(run, main)),
    })


def _contents(run: LabelsPage, main: LabelsEvaluation | None) -> Iterator[tuple[str, str]]:
    """Anchor and title of each section that the page has."""
    for there, anchor, title in (
            (True, "result", "The result"), (main, "figures", "The figures"), (main, "labels", "Label by label"),
            (run.curves, "curves", "Found, and rightly so"), (run.record, "training", "How it learned"),
            (run.counts, "data", "The data"), (True, "again", "To repeat it")):
        if there:
            yield anchor, title
