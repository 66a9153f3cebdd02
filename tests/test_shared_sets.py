"""The main job on the shared image sets, to the accuracy that the real weights must give; slow."""

from __future__ import annotations

from pathlib import Path

import pytest
from benchmarks import memory

import regraft

pytestmark = pytest.mark.slow


def test_cats_and_dogs_on_their_validation_folder(shared_data: Path, tmp_path: Path) -> None:
    data = shared_data / "cats_dogs"
    result = regraft.train(data / "train", test=data / "validation", out=tmp_path / "out", quiet=True)
    assert result.test is not None
    assert (result.test.n, result.test.split) == (300, "test")
    assert result.test.accuracy.value >= 0.975
    again = regraft.evaluate(tmp_path / "out", data / "validation", quiet=True)
    assert again.accuracy == result.test.accuracy
    assert again.seen_in_training == result.test.seen_in_training


def test_satellite_tiles_use_earlier_stages(shared_data: Path, tmp_path: Path) -> None:
    result = regraft.train(shared_data / "eurosat", strategy="features", out=tmp_path / "out", limit=60, quiet=True)
    assert result.test is not None
    assert result.test.accuracy.value >= 0.85
    assert any(name.startswith("stage") for name in result.head.chosen.readouts)


def test_memory_on_two_thousand_images(tmp_path: Path) -> None:
    found = memory.measure(memory.write_images(tmp_path / "images", 2_000), 2_000, tmp_path, "train")
    assert found["above_imports_mib"] <= 400
