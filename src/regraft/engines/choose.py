"""Which engines compute a pass: the pair whose forecast is shortest, of those that agree."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from regraft.engines.contract import ANSWER_PRECISION
from regraft.records.engines import EngineKind

#: Every candidate; the first is what the others are compared with.
KINDS = (EngineKind("pytorch", "fp32"), EngineKind("openvino", "fp32"), EngineKind("onnxruntime", "fp32"),
         EngineKind("openvino", "bf16"), EngineKind("pytorch", "bf16"))
REFERENCE = KINDS[0]

#: Candidates for a bundled backbone on the processor, which does without PyTorch; the first is what the other is
#: compared with.
LIGHT_KINDS = tuple(kind for name in ("onnxruntime", "openvino") for kind in KINDS if kind.engine == name)


@dataclass(frozen=True)
class Pair:
    """What computes the images to learn from, and those that figures are measured on."""

    learning: EngineKind
    answers: EngineKind


def pairs(kinds: Sequence[EngineKind]) -> list[Pair]:
    """Every pair of candidates; figures are measured at the answer's precision alone."""
    answering = [kind for kind in kinds if kind.precision == ANSWER_PRECISION]
    # One engine for all where that will do: what learns at the answer's precision needs no second one.
    return [Pair(learning, answers) for learning, answers in itertools.product(kinds, answering)
            if learning == answers or learning.precision != ANSWER_PRECISION]


def missing(pair: Pair, known: Mapping[EngineKind, NDArray[np.bool_]], learns_N: NDArray[np.bool_]) -> tuple[int, int]:
    """How many images each of a pair must compute: those that neither has features of."""
    unknown_N = ~(known[pair.learning] | known[pair.answers])
    return int((unknown_N & learns_N).sum()), int((unknown_N & ~learns_N).sum())


def shortest(candidates: Sequence[Pair], known: Mapping[EngineKind, NDArray[np.bool_]], learns_N: NDArray[np.bool_],
             seconds: Callable[[EngineKind, int], float]) -> tuple[Pair, float]:
    """The pair with the shortest forecast, and that forecast; the first of equal ones.

    ``seconds`` forecasts one engine on a number of images, infinite where nothing is known of it.
    """
    def forecast(pair: Pair) -> float:
        learning, answers = missing(pair, known, learns_N)
        if pair.learning == pair.answers:
            return seconds(pair.learning, learning + answers)
        return seconds(pair.learning, learning) + seconds(pair.answers, answers)

    best = min(candidates, key=forecast)
    return best, forecast(best)
