"""What a training settles on held-out answers besides the head: temperature, rule of decision, what is unknown."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

from regraft.decisions.calibration import fit_temperature, tempered
from regraft.decisions.fitting import fit_unknown
from regraft.decisions.novelty import Known
from regraft.decisions.rules import choose_rule
from regraft.errors import DataError
from regraft.extraction.extract import Readable
from regraft.heads.choose import choosing_rows, divide
from regraft.heads.dense import Head
from regraft.records.decisions import DecisionRule, Unknown, Wanted
from regraft.records.images import ImageIndex


@dataclass(frozen=True)
class Held:
    """Answers for images that their head did not learn from.

    ``rows_M`` are positions among the readable images, one for each of the M answers; each image has ``repeats``.
    """

    rows_M: NDArray[np.int64]
    P_MK: NDArray[np.float64]
    method: str
    repeats: int = 1
    note: str = ""

    def means(self) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Each image once, with the mean of its answers: positions [N] in order, probabilities [N, K]."""
        rows_N, places_M, counts_N = np.unique(self.rows_M, return_inverse=True, return_counts=True)
        P_NK = np.zeros((len(rows_N), self.P_MK.shape[1]))
        np.add.at(P_NK, places_M, self.P_MK)
        return rows_N, P_NK / counts_N[:, None]


class SettledFields(TypedDict):
    """The fields of a model's record that are settled on held-out answers."""

    temperature: float
    unknown: Unknown | None
    decision: DecisionRule | None


@dataclass(frozen=True)
class Settled:
    """What the saved model does besides its head; ``held`` are the held-out answers, calibrated."""

    held: Held | None
    temperature: float = 1.0
    rule: DecisionRule | None = None
    unknown: Unknown | None = None
    known: Known | None = None

    @property
    def recorded(self) -> SettledFields:
        """What ``model.json`` holds of it."""
        return {"temperature": self.temperature, "unknown": self.unknown, "decision": self.rule}


def settle_held(wanted: Wanted, readable: ImageIndex, held: Held | None) -> Settled:
    """Temperature and rule, without a measure of the unknown; raises DataError where a rule is wanted of nothing."""
    if held is None:
        if wanted.requirements or wanted.ask is not None or wanted.conformal is not None:
            raise DataError("no image could be held out, so no rule of decision can be chosen; give more images, or "
                            "leave --require, --ask and --conformal away")
        return Settled(None, rule=choose_rule(wanted, np.empty((0, 0)), np.empty(0, np.int32), readable.classes))
    temperature = fit_temperature(held.P_MK, readable.y_N[held.rows_M], held.repeats)
    held = replace(held, P_MK=tempered(held.P_MK, temperature))
    rows_N, P_NK = held.means()
    return Settled(held, temperature, choose_rule(wanted, P_NK, readable.y_N[rows_N], readable.classes))


def with_unknown(settled: Settled, wanted: Wanted, readable: ImageIndex, features: Readable, head: Head,
                 learn: NDArray[np.int64], held: NDArray[np.int64] | int, seed: int) -> Settled:
    """The same with a measure of the unknown, from some of the images that were learned from.

    ``held`` are the positions of images that were held out from the head, or the number of folds to hold some out in.
    """
    y_N, classes = readable.y_N, len(readable.classes)
    some = choosing_rows(y_N, learn, seed)
    positions = np.arange(len(some))
    if isinstance(held, int):
        groups = None if readable.groups is None else readable.groups[some]
        rows, divisions = some, divide(y_N[some], groups, held, seed)
    else:
        some_held = choosing_rows(y_N, held, seed)
        rows = np.concatenate([some, some_held])
        divisions = [(positions, np.arange(len(some), len(rows)))]
    blocks = {name: features.read(rows, [name]) for name in head.settings.readouts}
    unknown, known = fit_unknown(blocks, head.settings, y_N[rows], classes, positions, divisions, settled.temperature,
                                 wanted.accept, None if isinstance(held, int) else head)
    return replace(settled, unknown=unknown, known=known)
