"""Hostile files through the doors: nothing crashes, every file is answered or quarantined with its reason."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import regraft
from regraft.data.listing import READABLE, UNREADABLE
from regraft.records.results import TrainResult
from tests.conftest import write_crops
from tests.doors import json_of
from tests.hostile import Hostile, long_gif, looping_tiff, oriented, photo, write_hostile


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Path, Hostile]]:
    return write_hostile(tmp_path_factory.mktemp("hostile"))


def test_predict_answers_every_file(trained: TrainResult, hostile: list[tuple[Path, Hostile]]) -> None:
    assert len(hostile) >= 60
    document = json_of("predict", trained.out, *(path for path, _ in hostile), exit_code=1)
    answers = document["predictions"]
    assert [a["path"] for a in answers] == [str(path) for path, _ in hostile]
    for answer, (path, file) in zip(answers, hostile, strict=True):
        if file.outcome == "quarantined":
            assert answer["label"] is None, path.name
            assert file.says in answer["error"], path.name
        else:
            assert answer["error"] is None, (path.name, answer["error"])
            assert answer["label"] in ("flower", "palace")


def test_train_and_evaluate_count_and_list_them(hostile: list[tuple[Path, Hostile]], trained: TrainResult,
                                                tmp_path: Path) -> None:
    data = write_crops(tmp_path / "data", 4, seed=31)
    pictures = [(path, file) for path, file in hostile
                if path.suffix.lower() in READABLE or path.suffix.lower() in UNREADABLE]
    for path, _ in pictures:
        shutil.copy(path, data / "palace" / f"hostile-{path.name}")
    bad = {f"palace/hostile-{path.name}" for path, file in pictures if file.outcome == "quarantined"}
    result = regraft.train(data, out=tmp_path / "out", max_quarantined=1.0, no_test=True, quiet=True)
    with (tmp_path / "out" / "run" / "quarantine.csv").open(newline="", encoding="utf-8") as handle:
        listed = {row["path"]: row["reason"] for row in csv.DictReader(handle)}
    assert set(listed) == bad
    assert all(listed.values())
    assert result.quarantined == len(bad)
    assert sum((result.conversions or {}).values()) > 0
    figures = regraft.evaluate(trained.out, data, max_quarantined=1.0, quiet=True)
    assert (figures.n, figures.quarantined) == (8 + len(pictures) - len(bad), len(bad))
    assert {q.path for q in figures.unreadable} == bad


def test_turned_pictures_are_one_picture(trained: TrainResult, tmp_path: Path) -> None:
    files = []
    for orientation in range(1, 9):
        files.append(tmp_path / f"{orientation}.png")
        files[-1].write_bytes(oriented(photo(), orientation, "PNG"))
    answers = regraft.load(trained.out).predict(files)
    assert len({tuple((a.probabilities or {}).items()) for a in answers}) == 1


def test_sixteen_bits_are_scaled_by_one_recorded_range(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for label, shift in (("dark", 200), ("light", 2200)):
        (tmp_path / "data" / label).mkdir(parents=True)
        for number in range(8):
            values = (rng.integers(0, 1500, (40, 40)) + shift).astype(np.uint16)
            Image.fromarray(values).save(tmp_path / "data" / label / f"{number}.png")
    result = regraft.train(tmp_path / "data", out=tmp_path / "out", quiet=True)
    low, high = json.loads((tmp_path / "out" / "model.json").read_text())["preprocessing"]["deep_range"]
    assert 150 <= low <= 300
    assert 3500 <= high <= 3750
    assert result.test is not None
    assert result.test.accuracy.value == 1.0


def test_bombs_are_refused_by_name(trained: TrainResult, tmp_path: Path) -> None:
    for name, data in (("frames.gif", long_gif(10_000)), ("loop.tif", looping_tiff())):
        (tmp_path / name).write_bytes(data)
    answers = regraft.load(trained.out).predict(tmp_path)
    assert [a.label for a in answers] == [None, None]
    assert "more than 1,000 frames" in (answers[0].error or "")
    assert "loop" in (answers[1].error or "")


def test_special_names_and_files(trained: TrainResult, tmp_path: Path) -> None:
    """Case, accents, emoji, line breaks; folders and files that systems leave behind."""
    data = write_crops(tmp_path / "data", 6, seed=33)
    (data / "palace").rename(data / "Pal\N{COMBINING ACUTE ACCENT}ace\n<b>\N{PARTY POPPER}")
    (data / "flower").rename(data / "-flower")
    for junk in (".ipynb_checkpoints", "__MACOSX"):
        shutil.copytree(data / "-flower", data / junk)
    for name in (".DS_Store", "Thumbs.db", "._x.jpg"):
        (data / "-flower" / name).write_bytes(b"junk")
    (data / "empty").mkdir()
    shutil.copy(next((data / "-flower").glob("0*.jpg")), data / "loose.jpg")
    (data / "-flower" / "loop").symlink_to(data / "-flower")
    (data / "-flower" / "outside").symlink_to(trained.out)
    result = regraft.train(data, out=tmp_path / "out", quiet=True)
    assert result.features.computed + result.features.reused == 12
    assert {f.kind for f in result.findings} >= {"empty_classes", "outside_classes", "outside_links"}
    assert len(regraft.load(tmp_path / "out").classes) == 2
    assert "\n<b>" not in repr(result).replace("\n  ", "")
