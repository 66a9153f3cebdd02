"""What comes out: predictions, evaluations, the result of a training."""

from __future__ import annotations

import html
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, overload

from regraft.errors import DataError, UsageError
from regraft.records.base import Record, plain, shown
from regraft.records.heads import Choice
from regraft.records.images import Finding, Quarantined
from regraft.records.training import Epoch

#: Groups of a division that are told in text; the record holds all.
_SLICES_SHOWN = 5


@dataclass(frozen=True, repr=False)
class Interval(Record):
    """A fraction with its 95 % confidence interval."""

    value: float
    low: float
    high: float

    def __post_init__(self) -> None:
        if not 0 <= self.low <= self.value <= self.high <= 1:
            raise DataError(f"an interval must satisfy 0 <= low <= value <= high <= 1, not {self}")

    def __repr__(self) -> str:
        return f"{self.value:.1%} ({self.low:.1%} to {self.high:.1%})"


@dataclass(frozen=True)
class ClassFigures(Record):
    """Figures of one class.

    ``recall`` is None where the split holds no image of it, ``precision`` where it was never the answer.
    ``recall_interval`` is Wilson's; ``roc_auc`` and ``average_precision`` rank the class against all others.
    """

    label: str
    n: int
    precision: float | None
    recall: float | None
    f1: float | None
    recall_interval: Interval | None = None
    roc_auc: float | None = None
    average_precision: float | None = None


@dataclass(frozen=True)
class Majority(Record):
    """What always answering the commonest class of the training images would reach."""

    label: str
    accuracy: float


@dataclass(frozen=True)
class OperatingPoint(Record):
    """How one class fares under the model's rule of decision.

    Attributes
    ----------
    label, threshold:
        The class, and the probability from which on it is decided for.
    wanted:
        The recall that was required of it.
    sensitivity:
        Share of its images that are decided for it or that a person is asked about; None without such images.
    specificity:
        Share of the other images that are not decided for it; None without such images.
    precision:
        Share of the decisions for it that are right; None without such decisions.
    """

    label: str
    threshold: float
    wanted: float
    sensitivity: Interval | None
    specificity: Interval | None
    precision: float | None


@dataclass(frozen=True)
class Decided(Record):
    """What the model's rule of decision does on the evaluated images.

    Attributes
    ----------
    accuracy:
        Share of right decisions among those that are made; None where a person is always asked.
    asked:
        Share of images that a person is asked about.
    points:
        A point for each required class.
    cost, plain_cost:
        Mean cost of an image by the rule, and of always deciding for the most probable class; None without costs.
    covered, set_size:
        Share of images whose right class is in their set of labels, and mean size of the set; None without sets.
    price:
        What the rule costs and brings, in words.
    """

    accuracy: Interval | None
    asked: Interval
    points: tuple[OperatingPoint, ...] = ()
    cost: float | None = None
    plain_cost: float | None = None
    covered: Interval | None = None
    set_size: float | None = None
    price: str = ""


@dataclass(frozen=True)
class Slice(Record):
    """A group of the evaluated images: what they were divided ``by``, its name, and its accuracy over ``n`` images."""

    by: str
    group: str
    n: int
    accuracy: Interval


@dataclass(frozen=True, repr=False)
class Evaluation(Record):
    """Figures of one named split.

    Attributes
    ----------
    accuracy:
        Share of right answers, Wilson's interval over ``n`` images.
    n:
        Images evaluated.
    split:
        What they are: ``train``, ``validation``, ``test`` or ``all``; ``seen`` instead of ``test`` where some
        of them served for fitting or choosing.
    seen_in_training:
        How many of them were used for fitting or choosing the model.
    method:
        How the answers came about, in words.
    repeats:
        How often each image was answered (repeated cross-validation); ``confusion`` counts every answer.
    balanced_accuracy, macro_f1, log_loss:
        Mean recall and mean F1 over the classes that occur; mean negative log-probability (nats).
    classes, confusion:
        A row a class; ``confusion[i][j]`` counts images of class i answered as class j.
    majority:
        The baseline.
    quarantined, unreadable:
        Unreadable images that are not among the ``n``: how many, and which with the reason.
    note:
        What the reader must know, else empty.
    top5:
        Share of images whose right class is among the five most probable; None with five classes or fewer.
    macro_precision, roc_auc, average_precision:
        Means over the classes that occur, one against the rest for the last two. Macro recall is
        ``balanced_accuracy``.
    brier:
        Mean squared distance of the probabilities from the truth, summed over classes, 0 to 2.
    calibration_error:
        Expected calibration error over 15 equal-width bins of the best probability.
    intervals:
        95 % intervals by bootstrap over images, low and high, of the figures it names.
    decided:
        What the model's rule of decision does here; None where it has none. All other figures are of the most probable
        class.
    slices:
        Groups of the images, as they were asked for; of each division the worst first.
    """

    accuracy: Interval
    n: int
    split: str
    seen_in_training: int
    method: str
    repeats: int
    balanced_accuracy: float
    macro_f1: float
    log_loss: float
    majority: Majority
    classes: tuple[ClassFigures, ...]
    confusion: tuple[tuple[int, ...], ...]
    quarantined: int = 0
    unreadable: tuple[Quarantined, ...] = ()
    note: str = ""
    top5: Interval | None = None
    macro_precision: float | None = None
    roc_auc: float | None = None
    average_precision: float | None = None
    brier: float | None = None
    calibration_error: float | None = None
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)
    decided: Decided | None = None
    slices: tuple[Slice, ...] = ()

    def __repr__(self) -> str:
        lines = [
            f"{self.split}: {self.n:,} images, {self.method}",
            f"  accuracy          {self.accuracy!r}; always {shown(self.majority.label)!r}: "
            f"{self.majority.accuracy:.1%}",
            f"  balanced accuracy {self.balanced_accuracy:.1%}, macro F1 {self.macro_f1:.1%}, "
            f"log-loss {self.log_loss:.3f}",
            *self._more(),
        ]
        worst = sorted((c for c in self.classes if c.n and c.recall is not None), key=lambda c: c.recall or 0)[:3]
        if len(self.classes) > 2 and worst:
            named = ", ".join(f"{shown(c.label)} {c.recall:.0%} of {c.n}" for c in worst)
            lines.append(f"  hardest classes   {named}")
        if self.quarantined:
            lines.append(f"  {self.quarantined:,} unreadable images are not counted: "
                         + "; ".join(map(repr, self.unreadable[:3])) + ("; ..." if self.quarantined > 3 else ""))
        if self.decided is not None:
            lines.append(f"  {self.decided.price}")
        for by, group in itertools.groupby(self.slices, lambda one: one.by):
            found = list(group)
            lines.append(f"  by {shown(by)}, worst first: " + "; ".join(
                f"{shown(one.group)} {one.accuracy!r} of {one.n:,}" for one in found[:_SLICES_SHOWN])
                + ("; ..." if len(found) > _SLICES_SHOWN else ""))
        if self.note:
            lines.append(f"  {self.note}")
        return "\n".join(lines)

    def _more(self) -> list[str]:
        """One line of further figures; none where the record is of a Regraft that did not measure them."""
        told = [f"{name} {value:{form}}" for name, value, form in (
            ("top-5", None if self.top5 is None else self.top5.value, ".1%"), ("ROC AUC", self.roc_auc, ".3f"),
            ("average precision", self.average_precision, ".3f"), ("Brier", self.brier, ".3f"),
            ("calibration error", self.calibration_error, ".1%")) if value is not None]
        return [f"  {', '.join(told)}"] if told else []

    def _repr_html_(self) -> str:
        def cell(value: float | None) -> str:
            return "-" if value is None else f"{value:.1%}"

        rows = "".join(f"<tr><td>{html.escape(shown(c.label))}</td><td>{c.n}</td><td>{cell(c.precision)}</td>"
                       f"<td>{cell(c.recall)}</td><td>{cell(c.f1)}</td></tr>" for c in self.classes)
        return (f"<pre>{html.escape(repr(self))}</pre><table><tr><th>class</th><th>images</th><th>precision</th>"
                f"<th>recall</th><th>F1</th></tr>{rows}</table>")


@dataclass(frozen=True, repr=False)
class Prediction(Record):
    """The answer for one image, or why there is none. With an ``error`` everything else is None.

    Attributes
    ----------
    label, probability, probabilities:
        The most probable class, even where ``unknown`` is true; its probability, and that of every class.
    unknown:
        Whether the image is like nothing that the model knows; None where the model has no measure of it.
    novelty:
        How unlike the known images it is; unknown above the model's threshold. Of one model only such numbers compare.
    decision:
        The class to decide for by the model's rule, or ``ask`` for a person; None where it has no rule.
    labels:
        The set that holds the right class as often as was asked for; None where nobody asked. A model of several labels
        gives those from their thresholds on, and none of ``unknown``, ``novelty`` and ``decision``.
    """

    path: str
    label: str | None = None
    probability: float | None = None
    probabilities: dict[str, float] | None = None
    unknown: bool | None = None
    error: str | None = None
    novelty: float | None = None
    decision: str | None = None
    labels: tuple[str, ...] | None = None

    def __repr__(self) -> str:
        if self.error is not None:
            return f"{shown(self.path)}: {self.error}"
        parts = [f"{shown(self.label or '')} {self.probability:.1%}"]
        if self.decision is not None:
            parts.append(f"decision {shown(self.decision)}")
        if self.labels is not None:
            parts.append(f"one of {', '.join(map(shown, self.labels))}")
        if self.unknown:
            parts.append("unlike what the model knows")
        return f"{shown(self.path)}: {', '.join(parts)}"


@dataclass(frozen=True, repr=False)
class Predictions(Record, Sequence[Prediction]):
    """Answers in the order of the input. With exactly one, ``label`` and the like are at hand directly."""

    predictions: tuple[Prediction, ...]

    def __len__(self) -> int:
        return len(self.predictions)

    @overload
    def __getitem__(self, index: int) -> Prediction: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Prediction, ...]: ...
    def __getitem__(self, index: int | slice) -> Prediction | tuple[Prediction, ...]:
        return self.predictions[index]

    def __iter__(self) -> Iterator[Prediction]:
        return iter(self.predictions)

    def __repr__(self) -> str:
        return "\n".join(map(repr, self.predictions)) or "no predictions"

    @property
    def errors(self) -> tuple[Prediction, ...]:
        """Those without an answer."""
        return tuple(p for p in self.predictions if p.error is not None)

    def _only(self) -> Prediction:
        if len(self.predictions) != 1:
            raise UsageError(f"there are {len(self.predictions)} predictions; take one by its number first")
        return self.predictions[0]

    @property
    def label(self) -> str | None:
        """The best class of the one image."""
        return self._only().label

    @property
    def probability(self) -> float | None:
        """Its probability."""
        return self._only().probability

    @property
    def probabilities(self) -> dict[str, float] | None:
        """The probability of every class for the one image."""
        return self._only().probabilities

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><td>{html.escape(shown(p.path))}</td><td>{html.escape(shown(p.label or p.error or ''))}</td>"
            f"<td>{'' if p.probability is None else f'{p.probability:.1%}'}</td></tr>" for p in self.predictions)
        return f"<table><tr><th>image</th><th>label</th><th>probability</th></tr>{rows}</table>"


@dataclass(frozen=True)
class FeatureCount(Record):
    """Images that went through the network in this run, and images whose features were in the store."""

    computed: int
    reused: int


class Figures(Protocol):
    """What was measured on one split."""

    def _repr_html_(self) -> str: ...


def told_figures(validation: Figures | None, test: Figures | None) -> list[str]:
    """What a training says of its figures on a terminal."""
    lines = [repr(figures) for figures in (validation, test) if figures is not None]
    if test is None:
        lines.append("no test images: the figures above chose the model and flatter it a little")
    return lines


def shown_figures(result: Record, validation: Figures | None, test: Figures | None) -> str:
    """What a training shows in a notebook."""
    parts = (figures._repr_html_() for figures in (validation, test) if figures is not None)
    return f"<pre>{html.escape(repr(result))}</pre>" + "".join(parts)


@dataclass(frozen=True, repr=False)
class TrainResult(Record):
    """What a training made and how good it is.

    Attributes
    ----------
    out:
        The model folder.
    strategy, backbone:
        How was transferred, from what.
    features:
        Forward passes of this run, and those saved.
    quarantined:
        Unreadable images; ``run/quarantine.csv`` lists them with reasons.
    validation, test:
        Figures, or None where no image was held out.
    seconds:
        Wall time of the whole command, without imports.
    head:
        The chosen head and what else was tried.
    findings:
        What was seen in the data.
    conversions:
        How many images needed what on the way to 8-bit RGB.
    probe:
        Figures on validation of the head solved on frozen features, where a training by steps is compared with it.
    epochs:
        A record for each epoch of a training by steps.
    decision:
        Which of the two did better, and which was kept.
    engines:
        How many images' features each engine computed, now or earlier, by engine, device and precision.
    """

    out: str
    strategy: str
    backbone: str
    features: FeatureCount
    quarantined: int
    validation: Evaluation | None
    test: Evaluation | None
    seconds: float
    head: Choice
    findings: tuple[Finding, ...] = ()
    conversions: dict[str, int] | None = None
    probe: Evaluation | None = None
    epochs: tuple[Epoch, ...] = ()
    decision: str = ""
    engines: dict[str, int] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; ``head`` holds what was chosen, the whole list stays in ``run/record.json``."""
        values = super().to_dict()
        values["head"] = {"chosen": plain(self.head.chosen), "by": self.head.by, "tried": plain(self.head.tried[:5])}
        return values

    def __repr__(self) -> str:
        lines = [f"model {shown(self.out)} in {self.seconds:.1f} s",
                 f"  {self.backbone}, {self.head.chosen.label} (" + (
                     f"strength {self.head.chosen.strength:.1e}, " if self.head.chosen.strength else "")
                 + f"chosen on {self.head.by})",
                 f"  features: {self.features.computed:,} computed, {self.features.reused:,} reused"
                 + "".join(f"; {count:,} by {engine}" for engine, count in (self.engines or {}).items())
                 + (f"; {self.quarantined:,} unreadable images in run/quarantine.csv" if self.quarantined else "")]
        if self.decision:
            lines.append(f"  {self.decision}")
        return "\n".join([*lines, *told_figures(self.validation, self.test)])

    def _repr_html_(self) -> str:
        return shown_figures(self, self.validation, self.test)


@dataclass(frozen=True)
class Compared(Record):
    """One row of a comparison: a plan, and the model that came of it.

    Attributes
    ----------
    plan, out, backbone:
        The plan's name, the model folder, the network.
    learning:
        Parameters that learned in some phase, the largest such number; None for a plan without phases.
    epochs, planned:
        Epochs that ran, and those of the plan: fewer where it stopped early.
    first:
        Accuracy on validation after the first epoch of the first phase; None where there was none.
    validation, test:
        Accuracies of the saved model, or None where no image was held out.
    seconds:
        Wall time of this training.
    published:
        Figures of the walk-through that the plan follows, as it gives them.
    """

    plan: str
    out: str
    backbone: str
    learning: int | None
    epochs: int
    planned: float
    first: float | None
    validation: Interval | None
    test: Interval | None
    seconds: float
    published: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, repr=False)
class Comparison(Record):
    """Several plans, trained on the same images in the same splits.

    Attributes
    ----------
    out:
        The folder that holds a model folder for each plan.
    images:
        How many images are in each split.
    rows:
        A row a plan, in the order in which they were named.
    majority, test_majority:
        What always answering the commonest class of the training images reaches on validation and on test; None
        where no image was held out.
    seconds:
        Wall time of the trainings, those of earlier commands included.
    note:
        What the reader must know.
    """

    out: str
    images: dict[str, int]
    rows: tuple[Compared, ...]
    majority: Majority | None
    test_majority: Majority | None
    seconds: float
    note: str

    def __repr__(self) -> str:
        table = [_TITLES, *(_cells(row) for row in self.rows), *self._baseline()]
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
                 for row in table]
        for at in range(len(self.rows), 0, -1):
            lines[at + 1:at + 1] = [f"  published {figure}: {text}"
                                    for figure, text in self.rows[at - 1].published.items()]
        images = ", ".join(f"{count:,} {split}" for split, count in self.images.items() if count)
        return "\n".join([f"{len(self.rows)} plans in {shown(self.out)} in {self.seconds:.1f} s; images: {images}",
                          *lines, self.note])

    def _repr_html_(self) -> str:
        def line(cells: Sequence[str], mark: str = "td") -> str:
            return f"<tr>{''.join(f'<{mark}>{html.escape(cell)}</{mark}>' for cell in cells)}</tr>"

        published = ("; ".join(f"{figure}: {text}" for figure, text in row.published.items()) for row in self.rows)
        rows = [line([*_cells(row), figures]) for row, figures in zip(self.rows, published, strict=True)]
        rows += [line([*row, ""]) for row in self._baseline()]
        return f"<table>{line([*_TITLES, 'published'], 'th')}{''.join(rows)}</table><p>{html.escape(self.note)}</p>"

    def _baseline(self) -> list[tuple[str, ...]]:
        """The row of always answering the commonest class."""
        known = self.majority or self.test_majority
        if known is None:
            return []
        return [(f"always {shown(known.label)}", "", "", "", *(
            "-" if one is None else f"{one.accuracy:.1%}" for one in (self.majority, self.test_majority)), "")]


_TITLES = ("plan", "backbone", "learn", "epochs", "validation", "test", "seconds")


def _cells(row: Compared) -> tuple[str, ...]:
    epochs = f"{row.epochs}" if row.epochs >= row.planned else f"{row.epochs} of {row.planned:g}"
    return (shown(row.plan), shown(row.backbone), "-" if row.learning is None else f"{row.learning:,}", epochs,
            *("-" if figure is None else repr(figure) for figure in (row.validation, row.test)), f"{row.seconds:.1f}")


@dataclass(frozen=True, repr=False)
class Agreement(Record):
    """How an exported file answered beside the model, from the same bytes of the same files.

    Attributes
    ----------
    images, splits:
        Files compared; how many were taken of which split of the training, or ``given`` where ``--data`` named
        others, ``unreadable`` ones among them.
    unreadable:
        Files that neither can read; they are not among the ``images``.
    labels_equal:
        Images with the same label.
    largest_probability_difference, largest_logit_difference:
        Absolute, over all images and classes.
    largest_logit:
        The largest absolute logit of the model, which the differences of logits are to be seen beside.
    labelled:
        Images whose class the training recorded.
    accuracy, accuracy_change:
        Of the model on these, and what the file has more or less, both as fractions; None where no class is known.
    unknown_equal:
        Images that both call unknown, or both do not; None where the file gives no novelty.
    largest_novelty_difference:
        Absolute, over all images.
    """

    images: int
    splits: dict[str, int]
    unreadable: int
    labels_equal: int
    largest_probability_difference: float
    largest_logit_difference: float
    largest_logit: float = 0.0
    labelled: int = 0
    accuracy: float | None = None
    accuracy_change: float | None = None
    unknown_equal: int | None = None
    largest_novelty_difference: float | None = None

    def __repr__(self) -> str:
        taken = ", ".join(f"{name} {count:,}" for name, count in self.splits.items() if count)
        unreadable = f"; {self.unreadable:,} can't be read" if self.unreadable else ""
        text = (f"same label as the model on {self.labels_equal:,} of {self.images:,} images ({taken}{unreadable}), "
                f"probabilities within {self.largest_probability_difference:.1e}, "
                f"logits within {self.largest_logit_difference:.1e}")
        if self.unknown_equal is not None:
            text += (f"\n  same verdict on being unknown on {self.unknown_equal:,}, novelty within "
                     f"{self.largest_novelty_difference:.1e}")
        if self.accuracy is not None and self.accuracy_change is not None:
            text += (f"\n  accuracy on these {self.accuracy + self.accuracy_change:.1%}, the model's "
                     f"{self.accuracy:.1%} ({self.accuracy_change * 100:+.1f} points)")
        return text


@dataclass(frozen=True, repr=False)
class ExportResult(Record):
    """What ``export`` wrote, and how it agrees with the model.

    Attributes
    ----------
    model, model_digest:
        The model folder, and the digest of its manifest.
    out, bytes, sha256:
        The file (of several the one to open), the size of all, and the digest of this one.
    format, opset:
        What it is, and of ``onnx`` the version of its operators.
    precision:
        Of the network in it.
    outputs:
        What it gives.
    files:
        SHA-256 of every file of the export, by name.
    agreement:
        The comparison with the model.
    seconds:
        Wall time, imports apart.
    """

    model: str
    model_digest: str
    out: str
    bytes: int
    sha256: str
    format: str
    opset: int | None
    agreement: Agreement
    seconds: float
    precision: str = "fp32"
    outputs: tuple[str, ...] = ()
    files: dict[str, str] = field(default_factory=dict)

    def __repr__(self) -> str:
        opset = "" if self.opset is None else f", opset {self.opset}"
        return (f"{shown(self.out)}: {self.format}{opset}, {self.precision}, {self.bytes / 1e6:,.1f} MB, "
                f"in {self.seconds:.1f} s, gives {', '.join(self.outputs)}\n  {self.agreement!r}")
