"""Several labels an image: a table, a training, figures, answers, a page; and what does not take them says so."""

from __future__ import annotations

import csv
import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import regraft
from regraft import evaluation, metrics
from regraft.data import label_splits
from regraft.data.table import read_table
from regraft.decisions.labels import f1_threshold
from regraft.errors import DataError, RegraftError, SettingsError, UsageError
from regraft.heads.independent import fit_independent
from regraft.records.heads import HeadSettings
from regraft.records.labels import LabelsEvaluation, LabelsPrediction, LabelsResult
from tests.doors import json_of, regraft_cli


def write_table(file: Path, rows: Sequence[tuple[str, Sequence[str]]], separator: str = ";") -> Path:
    """A table of paths and labels; its header is ``path,labels``."""
    with file.open("w", newline="", encoding="utf-8") as handle:
        writer = csv.writer(handle)
        writer.writerow(["path", "labels"])
        writer.writerows([path, separator.join(labels)] for path, labels in rows)
    return file


def write_pairs(folder: Path, images: int, seed: int = 0) -> Path:
    """Two of scikit-learn's real digits 0 to 4 side by side, or black in place of one or both, with a table."""
    from sklearn.datasets import load_digits

    digits, rng = load_digits(), np.random.default_rng(seed)
    folder.mkdir(parents=True)
    rows = []
    for number in range(images):
        canvas, labels = np.zeros((8, 16), np.uint8), []
        for at in (0, 8):
            if rng.random() < 0.8:
                label = int(rng.integers(0, 5))
                row = int(rng.choice(np.flatnonzero(digits.target == label)))
                canvas[:, at:at + 8] = np.rint(digits.images[row] * (255 / 16))
                labels.append(str(label))
        name = f"{number:04d}.png"
        Image.fromarray(canvas).resize((128, 64), Image.Resampling.NEAREST).save(folder / name)
        rows.append((name, labels))
    return write_table(folder / "table.csv", rows)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pairs(tmp_path_factory.mktemp("pairs") / "pairs", 240)


@pytest.fixture(scope="module")
def model(pairs: Path, tmp_path_factory: pytest.TempPathFactory) -> LabelsResult:
    result = regraft.train(pairs, labels="several", fit="squash", size=64, quiet=True,
                           out=tmp_path_factory.mktemp("labels") / "model")
    assert isinstance(result, LabelsResult)
    return result


# -- the whole way ---------------------------------------------------------------------------------


def test_a_training_measures_what_ranking_by_chance_does_not_reach(model: LabelsResult) -> None:
    assert model.test is not None
    assert model.validation is not None
    for figures in (model.test, model.validation):
        assert figures.mean_average_precision is not None
        assert figures.mean_average_precision > 2 * figures.chance
        low, high = figures.intervals["mean_average_precision"]
        assert figures.chance < low <= figures.mean_average_precision <= high
    assert 40 <= model.test.n <= 56  # a fifth of each label, and so of the images about
    assert model.test.n + model.validation.n == 240
    assert "flatter" in model.validation.note
    assert not model.test.note
    assert any(finding.kind == "several_labels" for finding in model.findings)
    assert LabelsResult.from_dict(model.to_dict()) == model


def test_the_saved_model_says_so_and_keeps_its_thresholds(model: LabelsResult) -> None:
    loaded: Any = regraft.load(model.out)
    assert "labels, several an image" in repr(loaded)
    assert (loaded.record.task, loaded.record.head.kind) == ("several_labels", "independent")
    assert model.test is not None
    assert [of.threshold for of in model.test.labels] == list(loaded.record.labels.thresholds)


def test_evaluating_again_gives_the_same_figures(model: LabelsResult, pairs: Path) -> None:
    again = json_of("evaluate", model.out, pairs, "--splits", Path(model.out) / "run" / "splits.csv", "--quiet")
    assert model.test is not None
    expected = model.test.to_dict()
    for name in ("mean_average_precision", "micro_f1", "macro_f1", "hamming_loss", "log_loss", "labels", "intervals"):
        assert again[name] == expected[name], name


def test_python_and_the_command_line_answer_alike(model: LabelsResult, pairs: Path, tmp_path: Path) -> None:
    loaded: Any = regraft.load(model.out)
    answers = loaded.predict(pairs.parent)
    table = tmp_path / "answers.csv"
    document = json_of("predict", model.out, pairs.parent, "--csv", table, "--quiet")
    assert document["predictions"] == [json.loads(json.dumps({k: v for k, v in answer.to_dict().items()
                                                              if k != "format_version"})) for answer in answers]
    thresholds = dict(zip(loaded.classes, loaded.record.labels.thresholds, strict=True))
    for answer in answers:
        assert answer.probabilities is not None
        assert answer.labels is not None
        assert set(answer.labels) == {label for label, p in answer.probabilities.items() if p >= thresholds[label]}
        assert answer.label == (max(answer.labels, key=answer.probabilities.__getitem__) if answer.labels else None)
        assert (answer.probability is None) == (answer.label is None)
    assert any(not answer.labels for answer in answers)
    assert any(len(answer.labels or ()) == 2 for answer in answers)
    with table.open(newline="", encoding="utf-8") as handle:
        rows = list(csv.DictReader(handle))
    assert [tuple(json.loads(row["labels"])) for row in rows] == [answer.labels for answer in answers]
    assert json.loads(rows[0]["probabilities"]) == answers[0].probabilities
    counted: Any = regraft.predict(model.out, pairs.parent, out=tmp_path / "answers.jsonl", quiet=True)
    assert counted.labels == {label: sum(label in (a.labels or ()) for a in answers) for label in loaded.classes}
    none = next(answer for answer in answers if not answer.labels)
    assert repr(none).endswith(": no label")


def test_the_page_shows_labels_and_no_confusion(model: LabelsResult) -> None:
    page = (Path(model.out) / "run" / "report.html").read_text("utf-8")
    assert "Mean average precision on test images" in page
    assert "What is taken for what" not in page
    assert model.test is not None
    for of in model.test.labels:
        assert re.search(rf"<bdi>{of.label}</bdi></th><td class=\"n\" data-value=\"{of.n}\"", page)
        assert f"{of.threshold:.3f}" in page
    written = regraft.write_report(model.out, out=Path(model.out).parent / "again.html", quiet=True)
    assert Path(written.page).read_text("utf-8") == page


def test_the_run_is_listed(model: LabelsResult) -> None:
    assert model.test is not None
    [row] = regraft.list_runs(Path(model.out).parent).runs
    assert row.test == model.test.exact_match


@pytest.mark.slow
def test_of_many_images_a_validation_split_chooses(tmp_path: Path) -> None:
    table = write_pairs(tmp_path / "pairs", 2_700)
    result: Any = regraft.train(table, labels="several", fit="squash", size=32, no_test=True, out=tmp_path / "model",
                           quiet=True)
    assert (result.chosen_by, result.test) == ("the validation split", None)
    assert result.validation.mean_average_precision > 0.9
    assert 480 <= result.validation.n <= 600


# -- real pictures ---------------------------------------------------------------------------------


@pytest.mark.slow
def test_two_real_pictures_side_by_side_have_two_labels(shared_data: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    kinds = sorted(folder for folder in (shared_data / "clothing" / "train").iterdir() if folder.is_dir())
    rows = []
    for number in range(500):
        first, second = (kinds[k] for k in rng.choice(len(kinds), 2, replace=False))
        canvas = Image.new("RGB", (320, 160))
        for at, kind in ((0, first), (160, second)):
            file = rng.choice(np.array(sorted(kind.iterdir()), object))
            canvas.paste(Image.open(file).convert("RGB").resize((160, 160)), (at, 0))
        if dark := bool(rng.random() < 0.3):
            canvas = canvas.point(lambda value: value // 3)
        canvas.save(tmp_path / f"{number:04d}.jpg", quality=92)
        rows.append((f"{number:04d}.jpg", [first.name, second.name, *(["dark"] if dark else [])]))
    table = write_table(tmp_path / "table.csv", rows, "|")
    result: Any = regraft.train(table, labels="several", label_separator="|", fit="squash", out=tmp_path / "model",
                           quiet=True)
    assert result.test is not None
    assert result.test.mean_average_precision > 2 * result.test.chance
    dark_figures = next(of for of in result.test.labels if of.label == "dark")
    assert dark_figures.average_precision > 0.9
    evaluated: Any = regraft.evaluate(result.out, table, splits=tmp_path / "model" / "run" / "splits.csv", quiet=True)
    assert evaluated.mean_average_precision == result.test.mean_average_precision


# -- figures and fits ------------------------------------------------------------------------------


def answers(rows: int = 300, labels: int = 7) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities with equal ones among them, and labels of which one is rare."""
    rng = np.random.default_rng(1)
    Y_NK = rng.random((rows, labels)) < np.linspace(0.02, 0.6, labels)
    P_NK = np.round(1 / (1 + np.exp(-(2 * Y_NK - 1 + 1.5 * rng.normal(size=Y_NK.shape)))), 2)
    return P_NK, Y_NK


def test_figures_are_those_of_scikit_learn() -> None:
    from sklearn import metrics as theirs

    P_NK, Y_NK = answers()
    thresholds = np.linspace(0.3, 0.7, Y_NK.shape[1])
    given = thresholds <= P_NK
    found = evaluation.judge_labels(P_NK, Y_NK, tuple("abcdefg"), thresholds.tolist(), split="test", method="here")
    expected = {
        "mean_average_precision": theirs.average_precision_score(Y_NK, P_NK, average="macro"),
        "micro_f1": theirs.f1_score(Y_NK, given, average="micro"),
        "macro_f1": theirs.f1_score(Y_NK, given, average="macro"),
        "hamming_loss": theirs.hamming_loss(Y_NK, given),
        "log_loss": np.mean([theirs.log_loss(Y_NK[:, k], np.clip(P_NK[:, k], 1e-9, 1 - 1e-9)) for k in range(7)]),
    }
    assert {name: getattr(found, name) for name in expected} == pytest.approx(expected, abs=1e-6)
    assert found.exact_match.value == pytest.approx(theirs.accuracy_score(Y_NK, given), abs=1e-6)
    for k, of in enumerate(found.labels):
        assert of.average_precision == pytest.approx(theirs.average_precision_score(Y_NK[:, k], P_NK[:, k]), abs=1e-6)
        assert of.roc_auc == pytest.approx(theirs.roc_auc_score(Y_NK[:, k], P_NK[:, k]), abs=1e-6)
        assert of.precision == pytest.approx(theirs.precision_score(Y_NK[:, k], given[:, k]), abs=1e-6)
        assert of.recall == pytest.approx(theirs.recall_score(Y_NK[:, k], given[:, k]), abs=1e-6)
        assert of.f1 == pytest.approx(theirs.f1_score(Y_NK[:, k], given[:, k]), abs=1e-6)


def test_weights_count_rows_several_times() -> None:
    P_NK, Y_NK = answers()
    weight_N = np.random.default_rng(2).integers(0, 4, len(P_NK))
    rows = np.repeat(np.arange(len(P_NK)), weight_N)
    expected = [metrics.average_precision(P_NK[rows, k], Y_NK[rows, k]) for k in range(Y_NK.shape[1])]
    assert metrics.ranked(P_NK, Y_NK)(weight_N.astype(float)) == pytest.approx(expected, abs=1e-12)


def test_labels_that_do_not_occur_are_not_measured() -> None:
    P_NK, Y_NK = answers()
    Y_NK[:, 2] = False
    found = evaluation.judge_labels(P_NK, Y_NK, tuple("abcdefg"), [0.99] * 7, split="test", method="here")
    assert found.labels[2].average_precision is None
    assert found.labels[2].recall is None
    others = [of.average_precision for of in found.labels if of.average_precision is not None]
    assert found.mean_average_precision == pytest.approx(np.mean(others))
    assert LabelsEvaluation.from_dict(found.to_dict()) == found


def test_thresholds_have_the_highest_f1() -> None:
    P_NK, Y_NK = answers()
    for k in range(1, Y_NK.shape[1]):
        def f1(threshold: float, k: int = k) -> float:
            called = P_NK[:, k] >= threshold
            return float(2 * (called & Y_NK[:, k]).sum() / (called.sum() + Y_NK[:, k].sum()))

        assert f1(f1_threshold(P_NK[:, k], Y_NK[:, k])) == max(map(f1, np.unique(P_NK[:, k])))
    assert f1_threshold(P_NK[:20, 0], np.arange(20) < 2) == 0.5


def test_each_label_is_fitted_as_scikit_learn_does_alone() -> None:
    from sklearn.linear_model import LogisticRegression

    rng = np.random.default_rng(3)
    X_ND = rng.normal(size=(300, 12)).astype(np.float32)
    Y_NK = X_ND @ rng.normal(size=(12, 4)) + rng.normal(size=(300, 4)) > [0, 1, 3, 99]
    head = fit_independent({"last": X_ND}, Y_NK, HeadSettings("independent", ("last",), "by_width", 1e-2))
    Z_ND = (X_ND - X_ND.mean(0)) / np.sqrt((300 * X_ND.var(0) + 10 * X_ND.var(0).mean()) / 310 * 12)
    for k in range(3):
        own = LogisticRegression(C=1 / (1e-2 * 300), tol=1e-10).fit(Z_ND, Y_NK[:, k])
        assert head.probabilities(X_ND)[:, k] == pytest.approx(own.predict_proba(Z_ND)[:, 1], abs=2e-3)
    # What no image has can't be learned: half an image is as good a guess as any.
    assert head.probabilities(X_ND)[:, 3] == pytest.approx(0.5 / 300, rel=1e-3)


# -- splits ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("units", [None, 100])
def test_labels_are_held_out_in_their_shares(units: int | None) -> None:
    rng = np.random.default_rng(4)
    Y_NK = rng.random((1_000, 12)) < np.geomspace(0.004, 0.5, 12)
    units_N = None if units is None else rng.integers(0, units, 1_000).astype(np.int32)
    held = label_splits.holdout(Y_NK, units_N, 0.2, 0)
    assert (held == label_splits.holdout(Y_NK, units_N, 0.2, 0)).all()
    counts, shares = Y_NK.sum(0), Y_NK[held].sum(0) / Y_NK.sum(0)
    assert np.abs(shares - 0.2)[counts >= 20].max() < (0.05 if units is None else 0.12)
    assert (Y_NK[~held].sum(0) > 0).all()
    fold_N = label_splits.folds(Y_NK, units_N, 5, 0)
    for fold in range(5):
        assert (Y_NK[fold_N != fold].sum(0) > 0).all()
    if units_N is not None:
        for which in (held, fold_N):
            assert all(len(set(which[units_N == unit])) == 1 for unit in np.unique(units_N))


def test_the_only_image_with_a_label_stays_in_training() -> None:
    Y_NK = np.zeros((50, 2), np.bool_)
    Y_NK[:25, 0], Y_NK[7, 1] = True, True
    assert all(not label_splits.holdout(Y_NK, None, 0.5, seed)[7] for seed in range(20))
    assert all(label_splits.folds(Y_NK, None, 5, seed)[7] == -1 for seed in range(20))


# -- tables and what is refused --------------------------------------------------------------------


def test_cells_are_taken_apart_only_where_that_is_asked_for(tmp_path: Path) -> None:
    table = write_table(tmp_path / "t.csv", [("a.png", ["cat", " dog", "cat"]), ("b.png", ["cat"]), ("c.png", [])])
    index = read_table(table, ";")
    assert [index.labels(row) for row in range(3)] == [("cat", "dog"), ("cat",), ()]
    assert "1 images have none" in index.findings[0].text
    with pytest.raises(DataError, match="line 4: the label is empty"):
        read_table(table)
    table.write_text("path,label\na.png,cat;dog\nb.png,cat\n", "utf-8")
    one = read_table(table)
    assert one.classes == ("cat", "cat;dog")
    assert "--labels several" in one.findings[0].text


def test_lists_of_labels_in_parquet(tmp_path: Path) -> None:
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    rows = pyarrow.table({"path": ["a.png", "b.png"], "labels": [["x", "y"], []]})
    parquet.write_table(rows, tmp_path / "t.parquet")
    index = read_table(tmp_path / "t.parquet", ";")
    assert [index.labels(row) for row in range(2)] == [("x", "y"), ()]
    parquet.write_table(pyarrow.table({"path": ["a.png"], "labels": [["x;y"]]}), tmp_path / "t.parquet")
    with pytest.raises(DataError, match="row 1: the label 'x;y' holds ';'"):
        read_table(tmp_path / "t.parquet", ";")


@pytest.mark.parametrize(("settings", "words"), [
    ({"strategy": "partial"}, "labels: several labels an image are learned on frozen features, without --strategy"),
    ({"require": "recall:1>=0.9", "conformal": 0.9}, "without --require, --conformal"),
    ({"limit": 3, "accept": 0.9}, "without --limit, --accept"),
    ({"label_separator": " "}, "label_separator: ' ' is not allowed"),
    ({"labels": "one", "label_separator": "|"}, "add --labels several"),
])
def test_what_a_training_of_several_labels_does_not_take(settings: dict[str, Any], words: str, tmp_path: Path,
                                                         ) -> None:
    with pytest.raises(SettingsError, match=re.escape(words)):
        regraft.train("t.csv", **{"labels": "several", "out": tmp_path / "out", **settings})
    assert not (tmp_path / "out").exists()


def test_folders_have_one_label_an_image(crops: Path, tmp_path: Path) -> None:
    done = regraft_cli("train", crops, "--labels", "several", "--out", tmp_path / "out")
    assert done.returncode == 2
    assert "is no table" in done.stderr
    assert not (tmp_path / "out").exists()


def test_doors_of_one_label_say_what_they_do_not_take(model: LabelsResult, trained: LabelsResult, pairs: Path,
                                                      tmp_path: Path) -> None:
    for words, call in (
            ("export, and serve with it", lambda: regraft.export(model.out, quiet=True)),
            ("compare so far", lambda: regraft.compare(model.out, model.out, quiet=True)),
            ("compare so far", lambda: regraft.compare(model.out, model.out, pairs, quiet=True)),
            ("slices:", lambda: regraft.evaluate(model.out, pairs, slices="size", quiet=True)),
            ("sort_into:", lambda: regraft.predict(model.out, pairs.parent, sort_into=tmp_path / "sorted", quiet=True)),
            ("side by side", lambda: regraft.write_report([model.out, trained.out], quiet=True)),
            ("leave --label-separator away",
             lambda: regraft.evaluate(trained.out, pairs, label_separator="|", quiet=True))):
        with pytest.raises(UsageError, match=words) as caught:
            call()
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "sorted").exists()
    assert not (Path(model.out) / "model.onnx").exists()


def test_serving_is_refused(model: LabelsResult) -> None:
    pytest.importorskip("uvicorn")
    with pytest.raises(RegraftError, match="serve with it"):
        regraft.serve(model.out, port=0, quiet=True)


def test_labels_that_the_model_does_not_know(model: LabelsResult, pairs: Path, tmp_path: Path) -> None:
    shutil.copy(pairs.parent / "0000.png", tmp_path)
    table = write_table(tmp_path / "t.csv", [("0000.png", ["1", "unicorn"])])
    with pytest.raises(DataError, match=r"the model does not know 'unicorn' \(1 images\)"):
        regraft.evaluate(model.out, table, quiet=True)


def test_an_unreadable_image_is_an_answer(model: LabelsResult, tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"no picture")
    [answer] = regraft.predict(model.out, tmp_path / "broken.png")
    assert answer.error
    assert not isinstance(answer, LabelsPrediction) or answer.labels is None
