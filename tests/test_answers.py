"""``run/predictions.safetensors``: what a training answered, kept for figures and comparisons."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import regraft
from regraft.errors import DataError
from regraft.records.results import TrainResult
from regraft.runs.answers import read_answers


def test_a_training_keeps_its_answers(trained: TrainResult, crops: Path) -> None:
    answers = read_answers(trained.out)
    assert set(answers) == {"validation", "test"}
    validation, test = answers["validation"], answers["test"]
    assert (len(validation), len(test)) == (32, 8)
    assert "cross-validation" in validation.method
    assert test.classes[int(test.y_N[0])] == test.paths[0].split("/")[0]
    given = regraft.load(trained.out).predict([crops / path for path in test.paths])
    for row_K, prediction in zip(test.P_NK, given, strict=True):
        expected = [(prediction.probabilities or {})[name] for name in test.classes]
        assert row_K == pytest.approx(expected, abs=1e-5)
    assert trained.test is not None
    assert float((test.P_NK.argmax(1) == test.y_N).mean()) == trained.test.accuracy.value
    assert np.allclose(validation.P_NK.sum(1), 1, atol=1e-5)


def test_a_folder_without_answers_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="keeps no answers that can be read"):
        read_answers(tmp_path)
