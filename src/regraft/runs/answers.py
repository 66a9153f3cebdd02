"""``run/predictions.safetensors``: what a training answered for validation and test images, written and read."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from regraft.errors import DataError
from regraft.model import RUN
from regraft.records.answers import Answers
from regraft.records.base import shown
from regraft.records.images import ImageIndex
from regraft.records.texts import Texts
from regraft.runs.folder import write_whole

NAME = "predictions.safetensors"
_FORMAT = "1"


def answers_of(index: ImageIndex, rows_N: NDArray[np.int64], P_NK: NDArray[np.floating], split: str, method: str,
               ) -> Answers:
    """Answers for the given rows of the index that ``splits.csv`` lists."""
    return Answers(split, index.classes, rows_N.astype(np.int64), index.paths.take(rows_N), index.y_N[rows_N],
                   P_NK.astype(np.float32), method)


def write_answers(run: Path, answers: Sequence[Answers]) -> None:
    """Write them into a run folder; those of earlier trainings there are replaced."""
    from safetensors.numpy import save

    if not answers:
        (run / NAME).unlink(missing_ok=True)
        return
    tensors = {f"{of.split}.{name}": tensor for of in answers
               for name, tensor in (("probabilities", of.P_NK), ("rows", of.rows_N))}
    about = {"format_version": _FORMAT, "classes": json.dumps(answers[0].classes),
             **{of.split: of.method for of in answers}}
    write_whole(run / NAME, save(tensors, about))


def read_answers(out: str | Path) -> dict[str, Answers]:
    """What the training of a model folder answered, by split; raises DataError where that is not to be read."""
    from safetensors import SafetensorError, safe_open

    file, table = Path(out).expanduser() / RUN / NAME, Path(out).expanduser() / RUN / "splits.csv"
    try:
        with safe_open(file, "numpy") as tensors:
            about = tensors.metadata() or {}
            splits = [name.removesuffix(".rows") for name in tensors.keys() if name.endswith(".rows")]  # noqa: SIM118
            found = {split: (tensors.get_tensor(f"{split}.rows"), tensors.get_tensor(f"{split}.probabilities"))
                     for split in splits}
        classes = tuple(json.loads(about["classes"]))
        listed = _listed(table, np.concatenate([rows for rows, _ in found.values()]))
        return {split: _answers(split, classes, rows_N, P_NK, about[split], listed)
                for split, (rows_N, P_NK) in found.items()}
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise DataError(f"{shown(str(out))} keeps no answers that can be read ({error}); its training writes them to "
                        f"{RUN}/{NAME}: train again, or give the images themselves") from None


def _answers(split: str, classes: tuple[str, ...], rows_N: NDArray[np.int64], P_NK: NDArray[np.float32], method: str,
             listed: Mapping[int, tuple[str, str]]) -> Answers:
    number = {name: k for k, name in enumerate(classes)}
    paths = Texts(listed[row][0] for row in rows_N.tolist())
    y_N = np.array([number[listed[row][1]] for row in rows_N.tolist()], np.int32)
    return Answers(split, classes, rows_N, paths, y_N, P_NK, method)


def _listed(table: Path, rows_N: NDArray[np.int64]) -> dict[int, tuple[str, str]]:
    """Path and label of the wanted data rows of a ``splits.csv``."""
    wanted = set(rows_N.tolist())
    with table.open(newline="", encoding="utf-8", errors="surrogateescape") as handle:
        return {number: (row["path"], row["label"]) for number, row in enumerate(csv.DictReader(handle))
                if number in wanted}
