"""``evaluate`` and the figures: the truth about what was measured."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from sklearn import metrics as reference

import regraft
from regraft import evaluation, metrics
from regraft.errors import DataError, UnknownNameError
from regraft.records.results import TrainResult
from tests.conftest import write_crops, write_digits
from tests.doors import json_of


def test_a_plain_folder_is_used_whole(trained: TrainResult, tmp_path: Path) -> None:
    fresh = write_crops(tmp_path / "fresh", 9, seed=21)
    document = json_of("evaluate", trained.out, fresh)
    assert (document["n"], document["split"], document["seen_in_training"]) == (18, "all", 0)
    assert set(document["accuracy"]) == {"value", "low", "high"}
    assert document["accuracy"]["value"] >= 0.9
    assert document["majority"]["accuracy"] == 0.5


def test_images_it_learned_from_are_told_and_never_called_a_test(trained: TrainResult, crops: Path,
                                                                 tmp_path: Path) -> None:
    whole = regraft.evaluate(trained.out, crops, quiet=True)
    assert (whole.n, whole.seen_in_training, whole.split) == (40, 32, "all")
    shutil.copytree(crops, tmp_path / "data" / "test")
    named_test = regraft.evaluate(trained.out, tmp_path / "data", quiet=True)
    assert (named_test.split, named_test.seen_in_training) == ("seen", 32)
    assert "32 of 40 images served for fitting or choosing" in named_test.note
    assert "32 of 40" in repr(named_test)


def test_renamed_and_recompressed_containers_are_still_known(trained: TrainResult, crops: Path,
                                                             tmp_path: Path) -> None:
    """Pixels are what counts: another name, another folder, metadata added."""
    with (Path(trained.out) / "run" / "splits.csv").open(newline="") as file:
        learned = [row["path"] for row in csv.DictReader(file) if row["split"] == "train"][:5]
    for path in learned:
        target = tmp_path / path
        target.parent.mkdir(parents=True, exist_ok=True)
        data = (crops / path).read_bytes()
        # A JPEG comment segment after the start marker changes the file, not the picture.
        target.with_name(f"renamed-{target.name}").write_bytes(data[:2] + b"\xff\xfe\x00\x06note" + data[2:])
    assert regraft.evaluate(trained.out, tmp_path, quiet=True).seen_in_training == 5


def test_splits_are_named(trained: TrainResult, tmp_path: Path) -> None:
    write_crops(tmp_path / "data" / "test", 3, seed=22)
    write_crops(tmp_path / "data" / "val", 4, seed=23)
    assert regraft.evaluate(trained.out, tmp_path / "data", quiet=True).split == "test"
    assert regraft.evaluate(trained.out, tmp_path / "data", split="validation", quiet=True).n == 8
    assert regraft.evaluate(trained.out, tmp_path / "data", split="all", quiet=True).n == 14
    with pytest.raises(DataError, match=r"no train split \(it has validation, test\)"):
        regraft.evaluate(trained.out, tmp_path / "data", split="train", quiet=True)
    with pytest.raises(UnknownNameError, match="no split is called 'tset'; did you mean 'test'"):
        regraft.evaluate(trained.out, tmp_path / "data", split="tset", quiet=True)


def test_an_unknown_class_is_an_error_that_names_it(trained: TrainResult, tmp_path: Path) -> None:
    data = write_crops(tmp_path / "data", 2, seed=24)
    write_digits(data, "7", 3)
    with pytest.raises(DataError, match=r"the model does not know '7' \(3 images\); it knows flower, palace"):
        regraft.evaluate(trained.out, data, quiet=True)


def test_a_class_without_images_shifts_no_label(trained: TrainResult, tmp_path: Path) -> None:
    data = write_crops(tmp_path / "data", 5, seed=25)
    shutil.rmtree(data / "flower")
    figures = regraft.evaluate(trained.out, data, quiet=True)
    assert figures.accuracy.value >= 0.8
    assert [c.n for c in figures.classes] == [0, 5]
    assert figures.classes[0].recall is None


def test_slices_are_measured_apart(trained: TrainResult, tmp_path: Path) -> None:
    data = write_crops(tmp_path / "data", 6, seed=27)
    for path in sorted((data / "palace").iterdir())[:3]:
        with Image.open(path) as image:
            image.resize((64, 48)).save(path.with_suffix(".png"))
        path.unlink()
    rows = [(path.relative_to(data), path.parent.name, "odd" if number % 2 else "even")
            for number, path in enumerate(sorted(data.rglob("*.*")))]
    (data / "table.csv").write_text("path,label,parity\n" + "".join(f"{path},{label},{p}\n" for path, label, p in rows))
    figures = regraft.evaluate(trained.out, data / "table.csv", slices="size,folder,brightness,parity", quiet=True)
    groups = {by: [one for one in figures.slices if one.by == by] for by in ("size", "folder", "brightness", "parity")}
    assert {one.group: one.n for one in groups["size"]} == {"64 px": 3, "120 px": 9}
    assert {one.group: one.n for one in groups["folder"]} == {"flower": 6, "palace": 6}
    assert {one.group: one.n for one in groups["parity"]} == {"even": 6, "odd": 6}
    assert len(groups["brightness"]) == 4
    for found in groups.values():
        assert sum(one.n for one in found) == 12
        assert [one.accuracy.value for one in found] == sorted(one.accuracy.value for one in found)
        assert sum(one.accuracy.value * one.n for one in found) == pytest.approx(figures.accuracy.value * 12)
    assert "by size, worst first" in repr(figures)
    with pytest.raises(UnknownNameError, match="no slice is called 'colour'"):
        regraft.evaluate(trained.out, data / "table.csv", slices="colour", quiet=True)


def test_unreadable_images_are_counted(trained: TrainResult, tmp_path: Path) -> None:
    data = write_crops(tmp_path / "data", 6, seed=26)
    (data / "palace" / "bad.png").write_bytes(b"")
    figures = regraft.evaluate(trained.out, data, quiet=True)
    assert (figures.n, figures.quarantined) == (12, 1)


@settings(deadline=None)
@given(st.integers(2, 7), st.integers(1, 60), st.integers(0, 10_000))
def test_figures_equal_scikit_learns(classes: int, n: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    P = rng.dirichlet(np.ones(classes), n)
    y = rng.integers(0, classes, n).astype(np.int32)
    found = evaluation.judge(P, y, [f"c{i}" for i in range(classes)], split="all", method="", majority=0)
    answers, present = P.argmax(1), sorted(set(y.tolist()))
    assert found.accuracy.value == pytest.approx(reference.accuracy_score(y, answers))
    assert found.log_loss == pytest.approx(reference.log_loss(y, P, labels=range(classes)))
    assert np.array_equal(found.confusion, reference.confusion_matrix(y, answers, labels=range(classes)))
    assert found.balanced_accuracy == pytest.approx(
        reference.recall_score(y, answers, labels=present, average="macro", zero_division=0))
    assert found.macro_f1 == pytest.approx(
        reference.f1_score(y, answers, labels=present, average="macro", zero_division=0))
    for k, figures in enumerate(found.classes):
        if figures.precision is not None:
            assert figures.precision == pytest.approx(
                reference.precision_score(y, answers, labels=[k], average="macro", zero_division=0))


@pytest.mark.parametrize(("right", "n", "low", "high"), [
    # scipy.stats.binomtest(right, n).proportion_ci(method="wilson")
    (0, 10, 0.0, 0.2775327998628892), (10, 10, 0.7224672001371107, 1.0), (45, 50, 0.786397678, 0.956524304),
])
def test_wilson_intervals(right: int, n: int, low: float, high: float) -> None:
    value, lower, upper = metrics.wilson(right, n)
    assert (value, lower, upper) == pytest.approx((right / n, low, high), abs=1e-6)
