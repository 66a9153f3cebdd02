"""Steps of an augmentation that stay only where they do no harm."""

from __future__ import annotations

import string
from pathlib import Path

import numpy as np
import pytest

import regraft
from regraft.records.results import TrainResult
from regraft.records.views import Step
from regraft.runs.mirroring import measured
from regraft.strategy.presets import MEASURED
from tests.conftest import write_crops, write_digits

#: One short epoch: what is asked about comes before it.
_SHORT = ("preprocessing.size=64", "phases.0.epochs=1", "phases.0.views=1")


def told(lost: int, won: int, images: int = 100) -> tuple[np.ndarray, np.ndarray]:
    """Whether images are told as they are, and whether they are once changed."""
    before, after = np.ones(images, np.bool_), np.ones(images, np.bool_)
    after[:lost] = False
    before[lost:lost + won] = False
    return before, after


@pytest.mark.parametrize(("lost", "won", "kept"), [
    (0, 0, True), (6, 0, True), (7, 0, False), (6, 5, True), (20, 14, True), (30, 8, False), (0, 30, True)])
def test_a_step_goes_where_more_is_lost_than_chance_explains(lost: int, won: int, kept: bool) -> None:
    before, after = told(lost, won)
    asked: list[Step] = []

    def answers(step: Step) -> np.ndarray:
        asked.append(step)
        return after

    words, [found] = measured(MEASURED, before, answers)
    assert words == (("horizontal_flip",) if kept else ()) + ("random_resized_crop(scale_low=0.6)",)
    assert (found.images, found.lost, found.won, found.harms) == (100, lost, won, not kept)
    assert [step.to_text() for step in asked] == ["horizontal_flip(p=1)"]
    assert f"it makes {lost} wrong and {won} right" in repr(found)


def test_what_is_to_stay_is_not_asked_about() -> None:
    def never(step: Step) -> np.ndarray:
        raise AssertionError(step)

    words = ("light", "vertical_flip(p=0.2)", "grey")
    assert measured(words, np.ones(3, np.bool_), never) == (words, ())


def test_digits_are_not_mirrored_and_photographs_are(tmp_path: Path) -> None:
    digits = write_digits(tmp_path / "digits", string.digits, 60)
    found = {}
    for name, folder in (("digits", digits), ("photos", write_crops(tmp_path / "photos", 40))):
        result = regraft.train(folder, strategy="partial", set=_SHORT, out=tmp_path / f"{name}-model",
                               store=tmp_path / "store", report="none", quiet=True)
        assert isinstance(result, TrainResult)
        found[name] = [one for one in result.findings if one.kind == "harmful_augmentation"]
    assert found["photos"] == []
    [told] = found["digits"]
    assert str(told).startswith("horizontal_flip does harm here and is left away: of ")
    assert told.count >= 7
