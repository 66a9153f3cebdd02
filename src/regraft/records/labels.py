"""Several labels an image: what comes out of training, evaluating and predicting."""

from __future__ import annotations

import html
from dataclasses import dataclass, field

from regraft.records.base import Record, shown
from regraft.records.heads import HeadSettings
from regraft.records.images import Finding, Quarantined
from regraft.records.results import FeatureCount, Interval, Prediction, shown_figures, told_figures
from regraft.records.review import PrecisionRecall

#: Labels that are told in text; the record holds all.
_SHOWN = 3


@dataclass(frozen=True)
class LabelFigures(Record):
    """Figures of one label.

    Attributes
    ----------
    label, n:
        The label, and how many images have it.
    threshold:
        It is given from this probability on.
    average_precision, roc_auc:
        How well images with it are ranked above the others; None where the split holds none of them (or, for the
        second, only such).
    precision, recall, f1:
        At the threshold; None where nothing was called so, no image has it, or neither.
    recall_interval:
        Wilson's.
    """

    label: str
    n: int
    threshold: float
    average_precision: float | None
    roc_auc: float | None
    precision: float | None
    recall: float | None
    f1: float | None
    recall_interval: Interval | None = None


@dataclass(frozen=True, repr=False)
class LabelsEvaluation(Record):
    """Figures of one named split of images with any number of labels.

    Attributes
    ----------
    n, split, seen_in_training, method, repeats, quarantined, unreadable, note:
        As in :class:`regraft.records.results.Evaluation`.
    mean_average_precision:
        Mean of the labels' average precision; None where no image has a label.
    chance:
        What ranking by chance would reach: the mean share of images that have a label.
    micro_f1, macro_f1:
        F1 at the thresholds, over all answers together and as the mean over labels.
    exact_match:
        Share of images with exactly the right labels, Wilson's interval.
    hamming_loss:
        Share of wrong yes or no over images and labels.
    log_loss, calibration_error:
        Mean binary log-loss (nats), and what probability and truth differ by over 15 equal-width bins, over images and
        labels.
    labels:
        Figures of each. All means are over the labels that occur.
    intervals:
        95 % intervals by bootstrap over images, low and high, of the figures it names.
    """

    n: int
    split: str
    seen_in_training: int
    method: str
    repeats: int
    mean_average_precision: float | None
    chance: float
    micro_f1: float
    macro_f1: float
    exact_match: Interval
    hamming_loss: float
    log_loss: float
    calibration_error: float
    labels: tuple[LabelFigures, ...]
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)
    quarantined: int = 0
    unreadable: tuple[Quarantined, ...] = ()
    note: str = ""

    def __repr__(self) -> str:
        lines = [f"{self.split}: {self.n:,} images of {len(self.labels):,} labels, {self.method}"]
        if self.mean_average_precision is not None:
            low, high = self.intervals.get("mean_average_precision", (0.0, 1.0))
            lines.append(f"  mean average precision {self.mean_average_precision:.3f} ({low:.3f} to {high:.3f}); by "
                         f"chance {self.chance:.3f}")
        lines += [f"  at the thresholds: micro F1 {self.micro_f1:.1%}, macro F1 {self.macro_f1:.1%}, all labels right "
                  f"{self.exact_match!r}, wrong yes or no {self.hamming_loss:.1%}",
                  f"  log-loss {self.log_loss:.3f}, calibration error {self.calibration_error:.1%}"]
        worst = sorted((of for of in self.labels if of.average_precision is not None),
                       key=lambda of: of.average_precision or 0.0)[:_SHOWN]
        if worst:
            lines.append("  hardest labels: " + ", ".join(
                f"{shown(of.label)} {of.average_precision:.2f} ({of.n:,} images)" for of in worst))
        if self.quarantined:
            lines.append(f"  {self.quarantined:,} unreadable images are not counted: "
                         + "; ".join(map(repr, self.unreadable[:3])) + ("; ..." if self.quarantined > 3 else ""))
        if self.note:
            lines.append(f"  {self.note}")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        def cell(value: float | None) -> str:
            return "-" if value is None else f"{value:.1%}"

        rows = "".join(f"<tr><td>{html.escape(shown(of.label))}</td><td>{of.n}</td><td>{cell(of.average_precision)}"
                       f"</td><td>{of.threshold:.2f}</td><td>{cell(of.precision)}</td><td>{cell(of.recall)}</td>"
                       f"<td>{cell(of.f1)}</td></tr>" for of in self.labels)
        return (f"<pre>{html.escape(repr(self))}</pre><table><tr><th>label</th><th>images</th><th>average precision"
                f"</th><th>threshold</th><th>precision</th><th>recall</th><th>F1</th></tr>{rows}</table>")


@dataclass(frozen=True, repr=False)
class LabelsResult(Record):
    """What a training with several labels an image made and how good it is.

    Attributes
    ----------
    out, strategy, backbone, features, quarantined, seconds, findings, conversions:
        As in :class:`regraft.records.results.TrainResult`.
    validation, test:
        Figures, or None where no image was held out.
    head, chosen_by:
        The chosen head, and on what it was chosen; what else was tried stands in ``run/record.json``.
    thresholds_by:
        How the thresholds were chosen.
    """

    out: str
    strategy: str
    backbone: str
    features: FeatureCount
    quarantined: int
    validation: LabelsEvaluation | None
    test: LabelsEvaluation | None
    seconds: float
    head: HeadSettings
    chosen_by: str
    thresholds_by: str
    findings: tuple[Finding, ...] = ()
    conversions: dict[str, int] | None = None

    def __repr__(self) -> str:
        lines = [f"model {shown(self.out)} of several labels an image, in {self.seconds:.1f} s",
                 f"  {self.backbone}, {self.head.label} (strength {self.head.strength:.1e}, chosen on "
                 f"{self.chosen_by})",
                 f"  thresholds: {self.thresholds_by}",
                 f"  features: {self.features.computed:,} computed, {self.features.reused:,} reused"
                 + (f"; {self.quarantined:,} unreadable images in run/quarantine.csv" if self.quarantined else "")]
        return "\n".join([*lines, *told_figures(self.validation, self.test)])

    def _repr_html_(self) -> str:
        return shown_figures(self, self.validation, self.test)


@dataclass(frozen=True)
class LabelCurves(Record):
    """``run/curves.json``: precision against recall, of the labels that are told the least well.

    ``split`` names the images they are of.
    """

    split: str
    curves: tuple[PrecisionRecall, ...]


@dataclass(frozen=True, repr=False)
class LabelsPrediction(Prediction):
    """The answer for one image, from a model that gives any number of labels.

    ``labels`` are those from their thresholds on, the most probable first; ``label`` and ``probability`` are of the
    first, or None where no label is given; ``probabilities`` do not add up to 1.
    """

    def __repr__(self) -> str:
        if self.error is not None:
            return f"{shown(self.path)}: {self.error}"
        given = [f"{shown(label)} {(self.probabilities or {})[label]:.1%}" for label in self.labels or ()]
        return f"{shown(self.path)}: {', '.join(given) or 'no label'}"
