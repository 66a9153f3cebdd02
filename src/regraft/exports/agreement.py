"""Whether an exported file answers as the model does, from the same bytes of the same files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from regraft.data.view import view0
from regraft.errors import ExportError, ImageError
from regraft.extraction.ordered import ordered_map
from regraft.model import Model
from regraft.progress import Progress
from regraft.records.base import shown
from regraft.records.preprocessing import Preprocessing
from regraft.records.results import Agreement
from regraft.runtime import OnnxModel
from regraft.selftest.answers import LOGIT_TOLERANCE, TOLERANCE

#: Numbers of images that are run at a time: the file must not care.
BATCHES = (1, 2, 5, 64)

#: Pixels that the largest batch may hold together: of large images fewer go at a time, for their memory's sake.
_MOST_PIXELS = 64 * 256**2


@dataclass
class _Differences:
    """The largest seen so far, the largest logit, and the files that got another label."""

    probabilities: float = 0.0
    logits: float = 0.0
    largest_logit: float = 0.0
    other_label: set[Path] = field(default_factory=set)

    @property
    def let_pass(self) -> bool:
        """Whether all of it is rounding; a difference that is no number is not."""
        return (not self.other_label and self.probabilities <= TOLERANCE
                and self.logits <= LOGIT_TOLERANCE * self.largest_logit)


def check(data: bytes, model: Model, files: Sequence[Path], splits: dict[str, int], progress: Progress) -> Agreement:
    """Run the file and :meth:`Model.predict` on each of the files, from their bytes on.

    The way from bytes to pixels is read from the exported file: it must be enough by itself. ``splits`` says where
    the files come from. Raises ExportError where a label differs, a probability by more than ``TOLERANCE``, or a
    logit by more than ``LOGIT_TOLERANCE`` of the largest.
    """
    exported = OnnxModel(data)
    if exported.classes != model.classes:
        raise ExportError("the exported file names other classes than the model; nothing was written")
    largest = max(1, min(BATCHES[-1], _MOST_PIXELS // exported.preprocessing.size**2))
    found, readable = _Differences(), 0
    with progress.task("comparing the file with the model", len(files)) as task:
        for start in range(0, len(files), largest):
            part = files[start:start + largest]
            looked = ordered_map(lambda file: _pixels(file, exported.preprocessing), part)
            seen = [(file, pixels) for file, pixels in zip(part, looked, strict=True) if pixels is not None]
            if seen:
                sizes = [largest] if readable else [size for size in BATCHES[:-1] if size < largest] + [largest]
                _compare(exported, model, [file for file, _ in seen], np.stack([p for _, p in seen]), sizes, found)
            readable += len(seen)
            task.advance(len(part))
    if not readable:
        raise ExportError(f"none of the {len(files):,} images to compare on can be read; give others with --data DIR")
    if not found.let_pass:
        example = f", such as that of {shown(str(min(found.other_label)))}" if found.other_label else ""
        raise ExportError(
            f"the exported file does not answer as the model does: {len(found.other_label):,} of {readable:,} labels "
            f"differ{example}, probabilities by up to {found.probabilities:.1e} ({TOLERANCE:g} is let pass), scores "
            f"by up to {found.logits:.1e} ({LOGIT_TOLERANCE * found.largest_logit:.1e}); nothing was written; use the "
            "model folder itself, or take another backbone")
    return Agreement(images=readable, splits=splits, unreadable=len(files) - readable, labels_equal=readable,
                     largest_probability_difference=found.probabilities, largest_logit_difference=found.logits)


def _pixels(file: Path, rules: Preprocessing) -> NDArray[np.uint8] | None:
    try:
        return view0(file, rules).pixels
    except ImageError:
        return None


def _compare(exported: OnnxModel, model: Model, files: Sequence[Path], pixels_NHWC: NDArray[np.uint8],
             sizes: Sequence[int], found: _Differences) -> None:
    """Compare answers in batches of each size: the first images, repeated where they are fewer."""
    answers = model.predict(list(files), device="cpu")
    expected_P = np.array([[(answer.probabilities or {})[name] for name in model.classes] for answer in answers])
    # By the model's own rules: those in the file may differ.
    expected_L = model.logits(np.stack([view0(file, model.record.preprocessing).pixels for file in files]))
    found.largest_logit = _larger(found.largest_logit, expected_L)
    for size in sizes:
        rows = [i % len(files) for i in range(size)]
        P_NK, L_NK = exported.outputs(pixels_NHWC[rows])
        found.probabilities = _larger(found.probabilities, P_NK - expected_P[rows])
        found.logits = _larger(found.logits, L_NK - expected_L[rows])
        found.other_label |= {files[row] for row, best in zip(rows, P_NK.argmax(1), strict=True)
                              if model.classes[best] != answers[row].label}


def _larger(so_far: float, differences: NDArray[np.float64]) -> float:
    """The larger absolute value; not a number, once there is one."""
    return float(np.maximum(so_far, np.abs(differences).max()))
