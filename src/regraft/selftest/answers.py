"""Record what a model answers for the pictures of the self-test; compare what it answers later."""

from __future__ import annotations

import base64
import platform
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from regraft.data.decode import DECODER
from regraft.data.view import pixel_digest, view0
from regraft.errors import DataError, ImageError
from regraft.heads.solver import softmax
from regraft.records.preprocessing import Preprocessing
from regraft.records.selftest import DrawnFile, SelfTest, SelfTestDifference, SelfTestFile, SelfTestResult
from regraft.selftest.pictures import pictures

#: Largest difference of a probability that is let pass.
TOLERANCE = 1e-4

#: The same of a logit, as a share of the largest one: where a model is sure of itself, probabilities hide differences.
LOGIT_TOLERANCE = 1e-3

#: Scores float64 [B, K] of pixels uint8 [B, S, S, 3].
Scoring = Callable[[NDArray[np.uint8]], NDArray[np.float64]]


def record(rules: Preprocessing, classes: tuple[str, ...], scoring: Scoring) -> SelfTest:
    """What a model answers here for each picture."""
    files, pixels_NHWC = drawn(rules)
    return recorded(files, classes, scoring(pixels_NHWC))


def drawn(rules: Preprocessing) -> tuple[tuple[DrawnFile, ...], NDArray[np.uint8]]:
    """The N pictures, and view 0 of each, uint8 [N, S, S, 3]."""
    named = list(pictures())
    pixels_NHWC = np.stack([view0(data, rules).pixels for _, data in named])
    return tuple(DrawnFile(name, base64.b64encode(data).decode(), pixel_digest(pixels_HWC).hex())
                 for (name, data), pixels_HWC in zip(named, pixels_NHWC, strict=True)), pixels_NHWC


def recorded(files: Sequence[DrawnFile], classes: tuple[str, ...], L_NK: NDArray[np.float64]) -> SelfTest:
    """The self-test of the scores that a model gives N pictures, float64 [N, K]."""
    return SelfTest(DECODER, _machine(), classes, tuple(
        SelfTestFile(file.name, file.data, file.pixels, tuple(float(f"{score:.8g}") for score in L_K))
        for file, L_K in zip(files, L_NK, strict=True)))


def compare(test: SelfTest, rules: Preprocessing, classes: tuple[str, ...], scoring: Scoring) -> SelfTestResult:
    """How a model answers here what it answered where the self-test was recorded.

    Raises DataError where the self-test is one of other classes.
    """
    if test.classes != classes:
        raise DataError("its self-test is of a model with other classes")
    seen = [_look(file, rules) for file in test.files]
    readable = [pixels for pixels in seen if not isinstance(pixels, str)]
    found_L = iter(scoring(np.stack(readable)) if readable else np.empty((0, len(classes))))
    # Of logits, what counts as rounding depends on how large they are.
    rounding = LOGIT_TOLERANCE * max(abs(score) for file in test.files for score in file.logits)
    differences, labels, same_pixels, largest_P, largest_L = [], 0, 0, 0.0, 0.0
    for file, pixels in zip(test.files, seen, strict=True):
        L_K = np.array(file.logits)
        expected = classes[int(L_K.argmax())]
        if isinstance(pixels, str):
            differences.append(SelfTestDifference(file.name, expected, None, None, False, pixels))
            continue
        now_K = next(found_L)
        P_K = softmax(now_K[None])[0]
        by_P = float(np.abs(P_K - softmax(L_K[None])[0]).max())
        by_L = float(np.abs(now_K - L_K).max())
        # Of two classes that are as probable as each other, rounding alone decides which comes first.
        found = expected if P_K[L_K.argmax()] >= P_K.max() - 2 * TOLERANCE else classes[int(P_K.argmax())]
        alike = pixel_digest(pixels).hex() == file.pixels
        labels, same_pixels = labels + (found == expected), same_pixels + alike
        largest_P, largest_L = max(largest_P, by_P), max(largest_L, by_L)
        # Not "more than": a score that is no number lets nothing pass.
        if not (found == expected and by_P <= TOLERANCE and by_L <= rounding):
            differences.append(SelfTestDifference(file.name, expected, found, by_P, alike))
    return SelfTestResult(
        files=len(test.files), labels_equal=labels, pixels_equal=same_pixels, largest_probability_difference=largest_P,
        largest_logit_difference=largest_L, recorded_by=f"{test.decoder}, {test.machine}",
        run_by=f"{DECODER}, {_machine()}", differences=tuple(differences))


def _look(file: SelfTestFile, rules: Preprocessing) -> NDArray[np.uint8] | str:
    """View 0 of a picture, or why there is none."""
    try:
        return view0(file.content, rules).pixels
    except ImageError as error:
        return error.reason


def _machine() -> str:
    return f"{platform.system()} {platform.machine()}"
