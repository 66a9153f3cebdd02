"""``train`` through its doors: what it writes, what it computes, what it refuses."""

from __future__ import annotations

import contextlib
import csv
import functools
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import regraft
from regraft.errors import DataError, OutputError, SettingsError, TimeLimitError, UnknownNameError, UsageError
from regraft.records.results import TrainResult
from tests.conftest import write_crops, write_digits
from tests.doors import json_of, regraft_cli


def splits_of(out: Path) -> dict[str, str]:
    with (out / "run" / "splits.csv").open(newline="", encoding="utf-8") as file:
        return {row["path"]: row["split"] for row in csv.DictReader(file)}


def test_the_model_folder_and_the_document(crops: Path, tmp_path: Path) -> None:
    out = tmp_path / "model"
    document = json_of("train", crops, "--out", out)
    assert {"out", "strategy", "backbone", "features", "quarantined", "validation", "test", "seconds",
            "format_version"} <= set(document)
    assert document["out"] == str(out)
    assert (document["strategy"], document["backbone"]) == ("features", "efficientnet_lite0")
    assert document["features"]["computed"] + document["features"]["reused"] == 40
    assert document["quarantined"] == 0
    for name, n in (("validation", 32), ("test", 8)):
        figures = document[name]
        assert (figures["split"], figures["n"]) == (name, n)
        assert 0 <= figures["accuracy"]["low"] <= figures["accuracy"]["value"] <= figures["accuracy"]["high"] <= 1
        assert figures["accuracy"]["value"] >= 0.9
        assert np.sum(figures["confusion"]) == n * figures["repeats"]
    assert {"model.json", "backbone.safetensors", "head.safetensors", "images.safetensors", "unknown.safetensors",
            "selftest.json", "manifest.json", "README.md", "run"} == {path.name for path in out.iterdir()}
    assert {"settings.json", "splits.csv", "plan.json", "quarantine.csv", "record.json", "predictions.safetensors",
            "map.json", "report.html", "figures"} == {path.name for path in (out / "run").iterdir()}
    for name in ("model.json", "manifest.json", "run/settings.json", "run/plan.json", "run/record.json"):
        assert json.loads((out / name).read_text())["format_version"] == 1


def test_again_costs_no_forward_pass_whatever_moves(tmp_path: Path) -> None:
    data = write_crops(tmp_path / "data", 14, seed=5)
    first = regraft.train(data, out=tmp_path / "a", store=tmp_path / "store", quiet=True)
    again = regraft.train(data, out=tmp_path / "b", store=tmp_path / "store", quiet=True)
    assert (first.features.computed, again.features.computed, again.features.reused) == (28, 0, 28)
    hashed = [(tmp_path / run / "manifest.json").read_bytes() for run in "ab"]
    assert hashed[0] == hashed[1]
    (data / "palace").rename(data / "temple")
    for file in sorted((data / "flower").iterdir())[:10]:
        file.rename(data / "temple" / f"moved-{file.name}")
    moved = regraft.train(data, out=tmp_path / "c", store=tmp_path / "store", quiet=True)
    assert moved.features.computed == 0
    assert moved.validation is not None


def test_a_finished_folder_is_replaced_only_by_force(trained: TrainResult, crops: Path, tmp_path: Path) -> None:
    out = tmp_path / "model"
    shutil.copytree(trained.out, out)
    with pytest.raises(OutputError, match=r"holds a finished model; take another --out, or replace it with --force"):
        regraft.train(crops, out=out, quiet=True)
    before = (out / "manifest.json").read_bytes()
    regraft.train(crops, out=out, seed=1, force=True, quiet=True)
    assert (out / "manifest.json").read_bytes() != before
    regraft.load(out)


def test_force_keeps_the_old_model_until_the_new_one_is_whole(trained: TrainResult, crops: Path, tmp_path: Path,
                                                              monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "model"
    shutil.copytree(trained.out, out)
    monkeypatch.setattr("regraft.heads.choose.choose", lambda *a, **k: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        regraft.train(crops, out=out, seed=1, force=True, quiet=True)
    assert regraft.load(out).predict(sorted((crops / "palace").iterdir())[0]).label == "palace"


def test_other_folders_are_refused(crops: Path, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "holiday.txt").write_text("mine")
    with pytest.raises(OutputError, match="neither empty nor the folder of a run"):
        regraft.train(crops, out=tmp_path / "photos", force=True, quiet=True)


def test_an_unfinished_folder_continues_with_the_same_settings_only(crops: Path, tmp_path: Path) -> None:
    out = tmp_path / "model"
    with pytest.raises(TimeLimitError, match=r"the time limit of 0.001 s was reached: .* --out"):
        regraft.train(crops, out=out, time_limit=0.001, quiet=True)
    with pytest.raises(OutputError, match=r"begun with other settings \(seed: 0, now 7\)"):
        regraft.train(crops, out=out, seed=7, quiet=True)
    done = regraft_cli("train", crops, "--out", out)
    assert done.returncode == 0
    assert f"continuing in {out}" in done.stderr


def test_unreadable_files_are_counted_listed_and_never_replaced(tmp_path: Path) -> None:
    data = write_crops(tmp_path / "data", 12, seed=2)
    (data / "palace" / "text.jpg").write_text("no picture")
    whole = (data / "flower" / "000.jpg").read_bytes()
    (data / "flower" / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    result = regraft.train(data, out=tmp_path / "out", quiet=True)
    assert result.quarantined == 2
    rows = list(csv.DictReader((tmp_path / "out" / "run" / "quarantine.csv").read_text().splitlines()))
    assert {row["path"] for row in rows} == {"palace/text.jpg", "flower/cut.jpg"}
    assert all(row["reason"] for row in rows)
    with pytest.raises(DataError, match=r"2 of 26 images can't be read, more than the allowed share of 0.05"):
        regraft.train(data, out=tmp_path / "strict", max_quarantined=0.05, quiet=True)


def test_splits_of_a_run_are_read_again(crops: Path, tmp_path: Path) -> None:
    regraft.train(crops, out=tmp_path / "a", seed=3, quiet=True)
    regraft.train(crops, out=tmp_path / "b", seed=4, splits=tmp_path / "a" / "run" / "splits.csv", quiet=True)
    assert splits_of(tmp_path / "a") == splits_of(tmp_path / "b")


def test_groups_stay_on_one_side(crops: Path, tmp_path: Path) -> None:
    regraft.train(crops, out=tmp_path / "out", group=r"/(\d\d)\d\.jpg", quiet=True, folds=2)
    sides: dict[str, set[str]] = {}
    for path, split in splits_of(tmp_path / "out").items():
        sides.setdefault(path.split("/")[1][:2], set()).add(split)
    assert all(len(split) == 1 for split in sides.values())


@pytest.mark.parametrize(("settings", "train", "validation", "test"), [
    ({}, 32, 0, 8),
    ({"no_test": True}, 40, 0, 0),
    ({"test_share": 0.5}, 20, 0, 20),
    ({"limit": 5}, 8, 0, 2),
])
def test_sizes_of_splits(crops: Path, tmp_path: Path, settings: dict[str, Any], train: int, validation: int,
                         test: int) -> None:
    result = regraft.train(crops, out=tmp_path / "out", quiet=True, **settings)
    found = list(splits_of(tmp_path / "out").values())
    assert [found.count(name) for name in ("train", "validation", "test")] == [train, validation, test]
    assert (result.test is None) == (test == 0)


def test_with_many_images_a_validation_split_decides(crops: Path, tmp_path: Path,
                                                     monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("regraft.runs.train.CROSS_VALIDATED_BELOW", 10)
    monkeypatch.setattr("regraft.heads.choose.CHOOSING_ROWS", 12)
    result = regraft.train(crops, out=tmp_path / "out", validation_share=0.4, quiet=True)
    found = list(splits_of(tmp_path / "out").values())
    assert [found.count(name) for name in ("train", "validation", "test")] == [20, 12, 8]
    assert result.validation is not None
    assert result.validation.n == 12
    assert result.head.by == "the validation split"
    model = regraft.load(tmp_path / "out")
    assert (len(model.seen.training), len(model.seen.validation)) == (20, 12)


@pytest.mark.parametrize("per_class", [1, 2, 4])
def test_a_handful_of_images(tmp_path: Path, per_class: int) -> None:
    data = write_crops(tmp_path / "data", per_class, seed=8)
    result = regraft.train(data, out=tmp_path / "out", no_test=True, quiet=True)
    assert (result.validation is None) == (per_class == 1)
    assert len(result.head.tried) == 0 if per_class < 4 else any(
        tried.settings.kind == "nearest_mean" for tried in result.head.tried)
    fresh = write_crops(tmp_path / "fresh", 10, seed=9)
    figures = regraft.evaluate(tmp_path / "out", fresh, quiet=True)
    assert figures.log_loss < 1.0, "a handful may mislead, but must not make it sure of what is wrong"


def test_test_data_of_its_own(crops: Path, tmp_path: Path) -> None:
    fresh = write_crops(tmp_path / "fresh", 6, seed=11)
    result = regraft.train(crops, out=tmp_path / "out", test=fresh, quiet=True)
    assert result.test is not None
    assert (result.test.n, result.test.seen_in_training) == (12, 0)
    copied = regraft.train(crops, out=tmp_path / "copied", test=crops, quiet=True)
    assert copied.test is not None
    assert copied.test.seen_in_training == 40
    assert "pixel for pixel" in copied.test.note


def test_a_table_and_a_class_missing_from_a_split(crops: Path, tmp_path: Path) -> None:
    rows = [f"{path},{path.parent.name},{'test' if path.parent.name == 'palace' and i < 4 else 'train'}"
            for i, path in enumerate(sorted(crops.glob("palace/*.jpg")) + sorted(crops.glob("flower/*.jpg")))]
    table = tmp_path / "table.csv"
    table.write_text("\n".join(["path,label,split", *rows]))
    result = regraft.train(table, out=tmp_path / "out", quiet=True)
    assert result.test is not None
    assert result.test.n == 4
    assert [c.n for c in result.test.classes] == [0, 4]
    assert any(f.kind == "missing_classes" for f in result.findings)
    table.write_text("\n".join(["path,label,split", *(r.replace(",flower,train", ",flower,test") for r in rows)]))
    with pytest.raises(DataError, match="'flower' has images in test but none to learn from"):
        regraft.train(table, out=tmp_path / "other", quiet=True)


@pytest.mark.parametrize(("arguments", "error", "message"), [
    ({"seed": -1}, SettingsError, "seed: -1 is not allowed; it must be at least 0"),
    ({"fit": "stretch"}, SettingsError, "fit: 'stretch' is not allowed; it must be one of crop, pad, squash"),
    ({"folds": 1, "size": 8}, SettingsError, "folds: 1 is not allowed; .*; size: 8 is not allowed"),
    ({"seeds": 3}, SettingsError, "seeds: no such setting; did you mean 'seed'"),
    ({"time_limit": "soon"}, SettingsError, "'soon' is no duration; write it as 90s, 5m or 1h"),
    ({"backbone": "efficientnet_lite9"}, UnknownNameError, "did you mean 'efficientnet_lite"),
    ({"device": "cuda"}, UsageError, "'cuda' is not to be had here"),
    ({"store_limit": "much"}, SettingsError, "'much' is no size; write it as 20GB"),
])
def test_bad_settings(crops: Path, tmp_path: Path, arguments: dict[str, Any], error: type[Exception],
                      message: str) -> None:
    with pytest.raises(error, match=message):
        regraft.train(crops, out=tmp_path / "out", quiet=True, **arguments)
    assert not (tmp_path / "out" / "manifest.json").exists()


@pytest.mark.parametrize(("names", "message"), [
    ([], "no class folder"),
    (["cats"], "holds images of 1 class: cats; a classifier needs images of at least 2"),
])
def test_too_few_classes(tmp_path: Path, names: list[str], message: str) -> None:
    data = tmp_path / "data"
    data.mkdir()
    for name in names:
        shutil.copytree(write_crops(tmp_path / "crops", 2) / "palace", data / name)
    done = regraft_cli("train", data, "--out", tmp_path / "out")
    assert done.returncode == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def _start(data: Path, out: Path, store: Path, *more: str) -> subprocess.Popen[str]:
    # Tests that a shell runs in the background ignore Ctrl-C, and what they start would too.
    listening = None if os.name == "nt" else functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    return subprocess.Popen([sys.executable, "-m", "regraft.cli", "train", str(data), "--out", str(out), "--store",
                             str(store), *more], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                            preexec_fn=listening)


def _wait_for_rows(store: Path, rows: int) -> None:
    """Until the pass has committed so many rows."""
    until = time.monotonic() + 120
    while time.monotonic() < until:
        time.sleep(0.05)
        if not list(store.glob("*.f32")):
            continue
        with contextlib.closing(sqlite3.connect(store / "index.sqlite", timeout=60)) as database:
            (found,) = database.execute("SELECT COUNT(*) FROM rows").fetchone()
        if found >= rows:
            return
    pytest.fail("the pass wrote nothing")


@pytest.mark.slow
def test_killed_in_the_pass_it_continues_to_the_same_result(tmp_path: Path) -> None:
    data = write_digits(tmp_path / "digits", "0123", 40)
    store = tmp_path / "store"
    # Each store measures its engines anew and may choose another one, whose features differ in the last bits.
    engine = ("--engine", "onnxruntime")
    with _start(data, tmp_path / "out", store, *engine) as process:
        _wait_for_rows(store, 64)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert not (tmp_path / "out" / "manifest.json").exists()
    continued = json_of("train", data, "--out", tmp_path / "out", "--store", store, *engine)
    undisturbed = json_of("train", data, "--out", tmp_path / "whole", "--store", tmp_path / "other", *engine)
    assert continued["features"]["reused"] >= 64
    assert undisturbed["features"]["reused"] == 0
    for name in ("validation", "test", "head"):
        assert continued[name] == undisturbed[name]
    assert (tmp_path / "out" / "manifest.json").read_bytes() == (tmp_path / "whole" / "manifest.json").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.skipif(os.name == "nt", reason="Windows has no such signals")
def test_told_to_stop_it_leaves_nothing_half_written(tmp_path: Path, sent: signal.Signals, code: int) -> None:
    data = write_digits(tmp_path / "digits", "0123", 40)
    with _start(data, tmp_path / "out", tmp_path / "store") as process:
        _wait_for_rows(tmp_path / "store", 64)
        process.send_signal(sent)
        _, said = process.communicate(timeout=30)
    assert process.returncode == code, said
    assert "Traceback" not in said
    assert "stopped; what was computed so far is kept" in said
    assert not (tmp_path / "out" / "manifest.json").exists()
    assert not [p for p in (tmp_path / "out").rglob("*") if "half" in p.name or "finishing" in p.name]
    assert json_of("train", data, "--out", tmp_path / "out", "--store", tmp_path / "store")["features"]["reused"] >= 64


def test_a_folder_in_use_is_refused(crops: Path, tmp_path: Path) -> None:
    from regraft.runs.folder import claim

    with claim(tmp_path / "out", {}, False), pytest.raises(OutputError, match="in use by another training"):
        regraft.train(crops, out=tmp_path / "out", force=True, quiet=True)


def test_without_out_a_fresh_folder_is_made(crops: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    results = [regraft.train(crops, quiet=True) for _ in range(2)]
    assert len({result.out for result in results}) == 2
    assert all(Path(result.out).parent == Path("runs") for result in results)
