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


def test_training_behind_a_cut_starts_where_the_probe_ends(shared_data: Path, tmp_path: Path) -> None:
    """What is before the cut is what answers: on digits the least difference of arithmetic shows."""
    result = regraft.train(shared_data / "mnist", strategy="partial", out=tmp_path / "out", store=tmp_path / "store",
                           set=["phases.0.epochs=1", "phases.0.views=1"], limit=100, quiet=True)
    assert result.probe is not None
    begun, *_ = result.epochs
    assert begun.images == 0
    assert begun.validation_accuracy == pytest.approx(result.probe.accuracy.value, abs=0.005)
    assert result.validation is not None
    assert result.validation.accuracy.value >= result.probe.accuracy.value
    reread = regraft.evaluate(tmp_path / "out", shared_data / "mnist" / "test", quiet=True)
    assert result.test is not None
    assert reread.accuracy.value == pytest.approx(result.test.accuracy.value, abs=0.005)


def test_memory_on_two_thousand_images(tmp_path: Path) -> None:
    found = memory.measure(memory.write_images(tmp_path / "images", 2_000), 2_000, tmp_path, "train")
    assert found["above_imports_mib"] <= 400
