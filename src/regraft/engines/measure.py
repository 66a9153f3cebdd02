"""Candidates measured: how fast on all cores, and whether their features agree with the reference's in fp32."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from regraft.engines.contract import ANSWER_PRECISION, Engine
from regraft.records.engines import EngineFigures, EngineKind
from regraft.records.networks import Readout

#: Seconds that one candidate is run for.
_SECONDS = 0.6

#: An engine at the answer's precision may differ by this much in a probability: as much as an export may.
_TOLERANCE = 1e-4

#: What a lower precision must keep, on each image and on all of them.
_LEAST_COSINE, _LEAST_SAME = 0.98, 0.9

#: Two classes this close in probability are one answer: which comes first decides rounding.
_TIE = 0.05

#: The readout that holds the network's own class scores.
_LOGITS = "logits"


def features_of(engine: Engine, pixels_NHWC: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Features of any number of images, float32 [N, D]."""
    parts = [engine.run(pixels_NHWC[at:at + engine.batch]) for at in range(0, len(pixels_NHWC), engine.batch)]
    return np.concatenate(parts)


def images_per_second(engine: Engine, pixels_NHWC: NDArray[np.uint8]) -> float:
    """Speed of the network alone, as many runs at a time as the engine takes."""
    batch_BHWC = pixels_NHWC[np.arange(engine.batch) % len(pixels_NHWC)]
    engine.run(batch_BHWC)  # the first run prepares what the others find
    end = time.perf_counter() + _SECONDS

    def keep_running(_: int) -> int:
        done = 0
        while not done or time.perf_counter() < end:
            engine.run(batch_BHWC)
            done += 1
        return done

    started = time.perf_counter()
    with ThreadPoolExecutor(engine.concurrent) as pool:
        runs = sum(pool.map(keep_running, range(engine.concurrent)))
    return runs * engine.batch / (time.perf_counter() - started)


def compare(kind: EngineKind, speed: float, features_ND: NDArray[np.float32], reference_ND: NDArray[np.float32],
            readouts: Sequence[Readout]) -> EngineFigures:
    """Figures of a candidate whose features of N images these are; ``reference_ND`` are the reference's in fp32."""
    cosine = float(np.min(_cosines(features_ND, reference_ND)))
    logits = _columns(readouts)
    if logits is None:
        same = float(np.mean(_nearest(features_ND) == _nearest(reference_ND)))
        largest = float(np.abs(features_ND - reference_ND).max() / max(np.abs(reference_ND).max(), 1e-12))
    else:
        P_NK, expected_NK = _softmax(features_ND[:, logits]), _softmax(reference_ND[:, logits])
        rows = np.arange(len(P_NK))
        same = float(np.mean(expected_NK.max(1) - expected_NK[rows, P_NK.argmax(1)] <= _TIE))
        largest = float(np.abs(P_NK - expected_NK).max())
    reason = _objection(kind, cosine, same, largest)
    return EngineFigures(kind, round(speed, 1), cosine, same, largest, not reason, reason)


def _objection(kind: EngineKind, cosine: float, same: float, largest: float) -> str:
    """Why a candidate does not agree, or nothing."""
    if not math.isfinite(cosine) or not math.isfinite(largest):
        return "it gives numbers that are not finite"
    if kind.precision == ANSWER_PRECISION:
        return "" if largest <= _TOLERANCE else f"it differs by {largest:.1e} ({_TOLERANCE:g} is let pass)"
    if cosine < _LEAST_COSINE:
        return f"the cosine of some features is {cosine:.3f} ({_LEAST_COSINE:g} is asked)"
    return "" if same >= _LEAST_SAME else f"{same:.0%} of its answers are the same ({_LEAST_SAME:.0%} is asked)"


def _columns(readouts: Sequence[Readout]) -> slice | None:
    """Where the class scores stand among joined readouts."""
    at = 0
    for readout in readouts:
        if readout.name == _LOGITS:
            return slice(at, at + readout.dim)
        at += readout.dim
    return None


def _cosines(a_ND: NDArray[np.float32], b_ND: NDArray[np.float32]) -> NDArray[np.float64]:
    products: NDArray[np.float64] = np.einsum("nd,nd->n", a_ND, b_ND, dtype=np.float64)
    lengths = np.linalg.norm(a_ND.astype(np.float64), axis=1) * np.linalg.norm(b_ND.astype(np.float64), axis=1)
    cosines_N: NDArray[np.float64] = products / np.maximum(lengths, 1e-12)
    return cosines_N


def _softmax(logits_NK: NDArray[np.float32]) -> NDArray[np.float64]:
    powers: NDArray[np.float64] = np.exp(logits_NK.astype(np.float64) - logits_NK.max(1, keepdims=True))
    P_NK: NDArray[np.float64] = powers / powers.sum(1, keepdims=True)
    return P_NK


def _nearest(features_ND: NDArray[np.float32]) -> NDArray[np.int64]:
    """Position of the nearest other image by cosine, int64 [N]."""
    unit_ND = features_ND / np.maximum(np.linalg.norm(features_ND, axis=1, keepdims=True), 1e-12)
    near_NN = unit_ND @ unit_ND.T
    np.fill_diagonal(near_NN, -np.inf)
    nearest_N: NDArray[np.int64] = near_NN.argmax(1)
    return nearest_N
