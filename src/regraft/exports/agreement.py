"""Whether an exported file answers as the model does, from the same bytes of the same files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from regraft.data.view import view0
from regraft.errors import ExportError, ImageError
from regraft.exports.candidate import Answering
from regraft.extraction.ordered import ordered_map
from regraft.model import Model
from regraft.progress import Progress
from regraft.records.base import shown
from regraft.records.preprocessing import Preprocessing
from regraft.records.results import Agreement, Prediction
from regraft.selftest.answers import LOGIT_TOLERANCE, TOLERANCE

#: The same of the novelty, as a share of the largest one, or of 1 where none is larger. An image whose novelty is
#: nearer to the threshold than this may be unknown to one and known to the other: that is rounding.
NOVELTY_TOLERANCE = 1e-3

#: The accuracy that fp16 and int8 may lose on the compared images, as a fraction. Where no class is known, it is the
#: share of images that may get another label.
LOSS = 0.01

#: Numbers of images that are run at a time: the file must not care.
BATCHES = (1, 2, 5, 64)

#: Pixels that the largest batch may hold together: of large images fewer go at a time, for their memory's sake.
_MOST_PIXELS = 64 * 256**2


@dataclass
class _Differences:
    """The largest differences so far, the largest values, and what both said of each file."""

    probabilities: float = 0.0
    logits: float = 0.0
    largest_logit: float = 0.0
    measured: bool = False
    novelty: float = 0.0
    largest_novelty: float = 0.0
    from_threshold: float = 0.0  # the largest distance of an image that only one of both calls unknown
    other_label: set[Path] = field(default_factory=set)
    other_verdict: set[Path] = field(default_factory=set)
    labels: dict[Path, tuple[str, str]] = field(default_factory=dict)  # the model's, the file's

    @property
    def novelty_let_pass(self) -> float:
        """How far novelties may lie apart."""
        return NOVELTY_TOLERANCE * max(1.0, self.largest_novelty)

    @property
    def rounding(self) -> bool:
        """Whether all of it is rounding; a difference that is no number is not."""
        return (not self.other_label and self.probabilities <= TOLERANCE
                and self.logits <= LOGIT_TOLERANCE * self.largest_logit
                and float(np.maximum(self.novelty, self.from_threshold)) <= self.novelty_let_pass)


def check(exported: Answering, model: Model, files: Sequence[Path], splits: dict[str, int], progress: Progress,
          labels: Mapping[Path, str] | None = None) -> Agreement:
    """Run the file and :meth:`Model.predict` on each of the files, from their bytes on.

    The way from bytes to pixels is read from the exported file: it must be enough by itself. ``splits`` says where
    the files come from, ``labels`` which classes they are of, as far as that is known.

    Raises ExportError where a file in fp32 gives another label, a probability, logit or novelty that differs by more
    than rounding, and where one in fp16 or int8 loses more accuracy than ``LOSS``.
    """
    record = exported.record
    if record.labels != model.classes:
        raise ExportError("the exported file names other classes than the model; nothing was written")
    largest = max(1, min(BATCHES[-1], _MOST_PIXELS // record.preprocessing.size**2))
    found = _Differences()
    with progress.task("comparing the file with the model", len(files)) as task:
        for start in range(0, len(files), largest):
            part = files[start:start + largest]
            looked = ordered_map(lambda file: _pixels(file, record.preprocessing), part)
            seen = [(file, pixels) for file, pixels in zip(part, looked, strict=True) if pixels is not None]
            if seen:
                sizes = [largest] if found.labels else [size for size in BATCHES[:-1] if size < largest] + [largest]
                _compare(exported, model, [file for file, _ in seen], np.stack([p for _, p in seen]), sizes, found)
            task.advance(len(part))
    if not found.labels:
        raise ExportError(f"none of the {len(files):,} images to compare on can be read; give others with --data DIR")
    readable = len(found.labels)
    right = [(own == labels[file], other == labels[file]) for file, (own, other) in found.labels.items()
             if labels and labels.get(file) in model.classes]
    agreement = Agreement(
        images=readable, splits=splits, unreadable=len(files) - readable,
        labels_equal=readable - len(found.other_label), largest_probability_difference=found.probabilities,
        largest_logit_difference=found.logits, largest_logit=found.largest_logit, labelled=len(right),
        accuracy=sum(own for own, _ in right) / len(right) if right else None,
        accuracy_change=sum(int(other) - int(own) for own, other in right) / len(right) if right else None,
        unknown_equal=readable - len(found.other_verdict) if found.measured else None,
        largest_novelty_difference=found.novelty if found.measured else None)
    if record.precision == "fp32":
        _require_rounding(found, readable)
    else:
        _require_small_loss(agreement, record.precision)
    return agreement


def _require_rounding(found: _Differences, readable: int) -> None:
    """Raise ExportError where fp32 differs by more than rounding."""
    if found.rounding:
        return
    example = f", such as that of {shown(str(min(found.other_label)))}" if found.other_label else ""
    novelty = f", novelty by up to {found.novelty:.1e} ({found.novelty_let_pass:.1e})" if found.measured else ""
    raise ExportError(
        f"the exported file does not answer as the model does: {len(found.other_label):,} of {readable:,} labels "
        f"differ{example}, probabilities by up to {found.probabilities:.1e} ({TOLERANCE:g} is let pass), scores "
        f"by up to {found.logits:.1e} ({LOGIT_TOLERANCE * found.largest_logit:.1e}){novelty}; nothing was written; use "
        "the model folder itself, or take another backbone")


def _require_small_loss(agreement: Agreement, precision: str) -> None:
    """Raise ExportError where a lower precision costs more accuracy than is let pass, or gives no numbers."""
    instead = f"take --precision {'fp16 or ' if precision == 'int8' else ''}fp32"
    if not np.isfinite([agreement.largest_logit_difference, agreement.largest_probability_difference]).all():
        raise ExportError(f"in {precision} this network gives scores that are no numbers; nothing was written; "
                          f"{instead}")
    if agreement.accuracy is not None and agreement.accuracy_change is not None:
        loss, words = -agreement.accuracy_change, (
            f"is right on {agreement.accuracy + agreement.accuracy_change:.1%} of {agreement.labelled:,} images and "
            f"the model on {agreement.accuracy:.1%}, {-100 * agreement.accuracy_change:.1f} points more")
    else:
        differ = agreement.images - agreement.labels_equal
        loss, words = differ / agreement.images, (
            f"gives {differ:,} of {agreement.images:,} images another label than the model, "
            f"{differ / agreement.images:.1%} of them")
    if loss > LOSS + 1e-12:
        raise ExportError(f"the {precision} file {words}; {100 * LOSS:g} point is let pass; nothing was written; "
                          f"{instead}")


def _pixels(file: Path, rules: Preprocessing) -> NDArray[np.uint8] | None:
    try:
        return view0(file, rules).pixels
    except ImageError:
        return None


def _compare(exported: Answering, model: Model, files: Sequence[Path], pixels_NHWC: NDArray[np.uint8],
             sizes: Sequence[int], found: _Differences) -> None:
    """Compare answers in batches of each size: the first images, repeated where they are fewer."""
    answers = model.predict(list(files), device="cpu")
    expected_P = np.array([[(answer.probabilities or {})[name] for name in model.classes] for answer in answers])
    # By the model's own rules: those in the file may differ.
    expected_L = model.logits(np.stack([view0(file, model.record.preprocessing).pixels for file in files]))
    found.largest_logit = _larger(found.largest_logit, expected_L)
    for size in sizes:
        rows = [i % len(files) for i in range(size)]
        P_NK, L_NK, novelty_N = exported.outputs(pixels_NHWC[rows])
        found.probabilities = _larger(found.probabilities, P_NK - expected_P[rows])
        found.logits = _larger(found.logits, L_NK - expected_L[rows])
        for row, best in zip(rows, P_NK.argmax(1), strict=True):
            found.labels.setdefault(files[row], (str(answers[row].label), model.classes[best]))
            if model.classes[best] != answers[row].label:
                found.other_label.add(files[row])
        if novelty_N is not None:
            answered = [(files[row], answers[row]) for row in rows]
            _compare_novelty(exported, model, answered, novelty_N.astype(np.float64), found)


def _compare_novelty(exported: Answering, model: Model, answered: Sequence[tuple[Path, Prediction]],
                     novelty_N: NDArray[np.float64], found: _Differences) -> None:
    """The same of the novelty, and of the verdict by the threshold that the file names."""
    own, unknown = model.record.unknown, exported.record.unknown
    if own is None or unknown is None:
        raise ExportError("the exported file gives a novelty that the model, or its own record, does not know of; "
                          "nothing was written")
    found.measured = True
    expected_N = np.array([answer.novelty for _, answer in answered], np.float64)
    found.largest_novelty = _larger(found.largest_novelty, expected_N)
    found.novelty = _larger(found.novelty, novelty_N - expected_N)
    for (file, answer), value, expected in zip(answered, novelty_N, expected_N, strict=True):
        if (value > unknown.threshold) != answer.unknown:
            found.other_verdict.add(file)
            found.from_threshold = max(found.from_threshold, float(abs(expected - own.threshold)))


def _larger(so_far: float, differences: NDArray[np.float64]) -> float:
    """The larger absolute value; not a number, once there is one."""
    return float(np.maximum(so_far, np.abs(differences).max()))
