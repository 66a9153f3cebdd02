"""Calibration, unknown images and rules of decision: chosen on held-out answers, obeyed by every door."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.special import softmax

import regraft
from regraft import evaluation, metrics
from regraft.decisions.calibration import fit_temperature, smoothed_temperature, tempered
from regraft.decisions.rules import ASKED, choose_rule, decide, label_sets, recall_threshold
from regraft.errors import DataError, SettingsError, TamperedError, UnknownNameError, UsageError
from regraft.records.decisions import DecisionRule, Requirement, Threshold, Wanted
from regraft.records.model import ModelRecord
from regraft.records.results import Predictions, TrainResult
from regraft.runs.wanted import read_costs
from tests.conftest import write_crops, write_digits
from tests.doors import json_of
from tests.test_own_network import small

GOLDEN = Path(__file__).parent / "golden"
CLASSES = ("a", "b", "c")


def answers(n: int, seed: int, sharpness: float = 1.0) -> tuple[NDArray[np.float64], NDArray[np.int32]]:
    """Probabilities that are right as often as they say at a sharpness of 1, and the labels drawn from them."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(n, 3)) * 2
    y = (softmax(logits, 1).cumsum(1) < rng.random(n)[:, None]).sum(1).clip(max=2).astype(np.int32)
    return softmax(logits * sharpness, 1), y


# -- calibration -----------------------------------------------------------------------------------


@pytest.mark.parametrize("sharpness", [0.5, 1.0, 3.0])
def test_the_temperature_undoes_false_confidence(sharpness: float) -> None:
    P, y = answers(4_000, 1, sharpness)
    temperature = fit_temperature(P, y)
    assert temperature == pytest.approx(sharpness, rel=0.1)
    assert metrics.log_loss(tempered(P, temperature), y) <= metrics.log_loss(P, y)
    fresh, y_fresh = answers(4_000, 2, sharpness)
    assert metrics.calibration_error(tempered(fresh, temperature), y_fresh) < 0.03


def test_answers_that_are_all_right_do_not_become_certain() -> None:
    P = np.full((40, 3), 0.1)
    y = np.arange(40, dtype=np.int32) % 3
    P[np.arange(40), y] = 0.8
    assert 0.9 < tempered(P, fit_temperature(P, y)).max() < 0.995


@pytest.mark.parametrize("smoothing", [0.1, 0.4])
def test_smoothed_labels_have_a_temperature_of_their_own(smoothing: float) -> None:
    P, y = answers(1_000, 1, 3.0)
    found = smoothed_temperature(P, y, smoothing)

    def loss(temperature: float) -> float:
        logs = np.log(tempered(P, temperature))
        return float(-((1 - smoothing) * logs[np.arange(len(y)), y] + smoothing * logs.mean(1)).mean())

    assert loss(found) < min(loss(found * 1.05), loss(found / 1.05))
    assert found > fit_temperature(P, y)


def test_probabilities_of_zero_stay_probabilities() -> None:
    P = np.tile([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]], (20, 1))
    y = np.array([0, 1, 1] * 20, np.int32)
    calibrated = tempered(P, fit_temperature(P, y))
    assert np.isfinite(calibrated).all()
    assert calibrated.sum(1) == pytest.approx(1)
    assert metrics.log_loss(calibrated, y) < metrics.log_loss(P, y)


# -- rules -----------------------------------------------------------------------------------------


def test_thresholds_decide() -> None:
    P = np.array([[0.3, 0.6, 0.1], [0.1, 0.6, 0.3], [0.3, 0.25, 0.45], [0.2, 0.3, 0.5]])
    rule = DecisionRule((Threshold("a", 0.9, 0.25),))
    assert decide(P, rule, CLASSES).tolist() == [0, 1, 0, 2]
    both = DecisionRule((Threshold("a", 0.9, 0.25), Threshold("c", 0.9, 0.3)))
    assert decide(P, both, CLASSES).tolist() == [0, 2, 2, 2]  # of several the one furthest above its own
    every = DecisionRule(tuple(Threshold(name, 0.9, 0.9) for name in CLASSES))
    assert decide(P, every, CLASSES).tolist() == P.argmax(1).tolist()
    asking = replace(rule, ask_below=0.5)
    assert decide(P, asking, CLASSES).tolist() == [ASKED, 1, ASKED, 2]


def test_costs_decide() -> None:
    P = np.array([[0.98, 0.02], [0.9, 0.1], [0.4, 0.6]])
    costs = ((0.0, 1.0), (50.0, 0.0))
    assert decide(P, DecisionRule(costs=costs), ("ok", "defect")).tolist() == [1, 1, 1]
    assert decide(P, DecisionRule(costs=costs, ask_cost=0.2), ("ok", "defect")).tolist() == [ASKED, ASKED, ASKED]
    assert decide(P, DecisionRule(costs=((0.0, 1.0), (1.0, 0.0))), ("ok", "defect")).tolist() == [0, 0, 1]


def test_a_required_recall_holds_for_fresh_images() -> None:
    """On average over many splits; the promise of a k-th lowest value does not depend on the distribution."""
    rng = np.random.default_rng(0)
    caught = [(rng.beta(3, 1, 200) >= recall_threshold(rng.beta(3, 1, 90), 0.95)).mean() for _ in range(400)]
    assert 0.95 <= np.mean(caught) < 0.97


def test_rules_are_chosen_on_answers() -> None:
    P, y = answers(2_000, 3)
    wanted = Wanted(0.95, (Requirement("b", 0.97),), ask=0.9, conformal=0.9)
    rule = choose_rule(wanted, P, y, CLASSES)
    assert rule is not None
    fresh, y_fresh = answers(20_000, 4)
    decided = decide(fresh, replace(rule, ask_below=None), CLASSES)
    assert (decided[y_fresh == 1] == 1).mean() == pytest.approx(0.97, abs=0.015)
    asked = decide(fresh, rule, CLASSES)
    assert (asked == y_fresh)[asked != ASKED].mean() == pytest.approx(0.9, abs=0.02)
    sets = label_sets(fresh, rule)
    assert sets[np.arange(len(sets)), y_fresh].mean() == pytest.approx(0.9, abs=0.02)
    figures = evaluation.judge_rule(fresh, y_fresh, CLASSES, rule)
    assert figures.points[0].sensitivity is not None
    assert figures.points[0].sensitivity.value >= (decided[y_fresh == 1] == 1).mean()
    assert figures.covered is not None
    assert figures.covered.value == pytest.approx(sets[np.arange(len(sets)), y_fresh].mean())
    assert "b from a probability of" in figures.price
    assert "a person is asked about" in figures.price
    assert choose_rule(Wanted(0.95), P, y, CLASSES) is None
    with pytest.raises(DataError, match="no image of 'b' could be held out"):
        choose_rule(wanted, P[y != 1], y[y != 1], CLASSES)


def test_too_few_images_promise_nothing() -> None:
    P, y = answers(5, 5)
    rule = choose_rule(Wanted(0.95, conformal=0.99), P, y, CLASSES)
    assert rule is not None
    assert label_sets(P, rule).all()
    assert recall_threshold(np.array([0.4, 0.2, 0.9]), 0.999) == 0.2


def test_a_table_of_costs(tmp_path: Path) -> None:
    table = tmp_path / "costs.csv"
    table.write_text("right,no,yes,ask\nyes,5,0,0.5\nno,0,1,0.5\n")
    assert read_costs(table, ("no", "yes")) == (((0.0, 1.0), (5.0, 0.0)), 0.5)
    for text, words in (("right,no\nno,0\nyes,1\n", "the columns no; costs need one for each class"),
                        ("right,no,yes\nno,0,1\n", "the rows no; costs need one"),
                        ("right,no,yes\nno,0,x\nyes,1,0\n", "'x' is no cost"),
                        ("right,no,yes,ask\nno,0,1,2\nyes,1,0,3\n", "holds several values")):
        table.write_text(text)
        with pytest.raises(DataError, match=words):
            read_costs(table, ("no", "yes"))


# -- the doors -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def deciding(tmp_path_factory: pytest.TempPathFactory) -> TrainResult:
    """A model of digits with a rule; read only."""
    folder = tmp_path_factory.mktemp("deciding")
    data = write_digits(folder / "digits", "012389", 30)
    return regraft.train(data, module=small(classes=6), size=32, out=folder / "model", quiet=True, ask=0.98,
                         require="recall:8>=0.9", conformal=0.9)


def test_every_door_obeys_the_rule(deciding: TrainResult, tmp_path: Path) -> None:
    model = regraft.load(deciding.out, module=small(classes=6))
    data = write_digits(tmp_path / "more", "012389", 40)
    given = model.predict(data)
    rule = model.record.decision
    assert rule is not None
    P = np.array([[(one.probabilities or {})[name] for name in model.classes] for one in given])
    expected = ["ask" if k == ASKED or one.unknown else model.classes[k]
                for k, one in zip(decide(P, rule, model.classes).tolist(), given, strict=True)]
    assert [one.decision for one in given] == expected
    assert "ask" in expected
    assert all(one.label in (one.labels or ()) for one in given)
    written = regraft.predict(deciding.out, str(data), module=small(classes=6), csv=tmp_path / "answers.csv",
                             quiet=True)
    with (tmp_path / "answers.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["decision"] for row in rows] == [one.decision for one in written] == expected
    assert json.loads(rows[0]["labels"]) == list(written[0].labels or ())
    figures = regraft.evaluate(deciding.out, data, module=small(classes=6), quiet=True)
    assert figures.decided is not None
    assert figures.decided.points[0].label == "8"
    assert figures.log_loss == pytest.approx(
        metrics.log_loss(P, np.array([model.classes.index(Path(one.path).parent.name) for one in given], np.int32)))


def test_the_training_tells_what_the_rule_costs(deciding: TrainResult) -> None:
    assert deciding.validation is not None
    assert deciding.validation.decided is not None
    [point] = deciding.validation.decided.points
    assert (point.label, point.wanted) == ("8", 0.9)
    assert point.sensitivity is not None
    assert point.sensitivity.value >= 0.9
    assert "by the rule: 8 from a probability of" in repr(deciding)


def test_what_decides_unknown_is_checked_before_use(deciding: TrainResult, tmp_path: Path) -> None:
    model = regraft.load(deciding.out, module=small(classes=6))
    assert model.record.unknown is not None
    assert model.record.unknown.accepted == pytest.approx(0.95, abs=0.03)
    assert set(model.record.unknown.tried) == {"relative_mahalanobis", "softmax", "energy"}
    assert (model.known is not None) == (model.record.unknown.kind == "relative_mahalanobis")
    shutil.copytree(deciding.out, tmp_path / "model")
    (tmp_path / "model" / "model.json").write_text("{}")
    with pytest.raises(TamperedError, match=r"model\.json"):
        regraft.load(tmp_path / "model", module=small(classes=6))


def test_a_model_saved_before_all_this_answers_as_it_did(tmp_path: Path) -> None:
    """Made by the code before temperatures, novelty and rules: it has none of them."""
    model = regraft.load(GOLDEN / "old-model", module=small())
    recorded = json.loads((GOLDEN / "old-model-answers.json").read_text())
    data = write_digits(tmp_path / "digits", "0123", 40)
    for name, expected in recorded.items():
        [answer] = model.predict(data / name)
        assert answer.probabilities == pytest.approx(expected, abs=1e-4)
        assert (answer.unknown, answer.novelty, answer.decision, answer.labels) == (None, None, None, None)
    figures = regraft.evaluate(GOLDEN / "old-model", data, module=small(), quiet=True)
    assert figures.accuracy.value > 0.9
    assert figures.decided is None
    assert ModelRecord.from_dict(model.record.to_dict()) == model.record


@pytest.mark.parametrize(("options", "error", "words"), [
    ({"require": "recall:palace"}, SettingsError, "write recall:CLASS>=SHARE"),
    ({"require": "recall:palace>=1.2"}, SettingsError, "a share between 0 and 1"),
    ({"require": "recall:palast>=0.9"}, UnknownNameError, "no class is called 'palast'; did you mean 'palace'"),
    ({"require": "recall:palace>=0.9", "costs": "costs.csv"}, SettingsError, "can't both decide"),
    ({"costs": "nowhere.csv"}, DataError, "can't be read as a table of costs"),
    ({"ask": 1.5}, SettingsError, "less than 1"),
])
def test_bad_wishes_are_one_line_and_leave_no_trace(crops: Path, tmp_path: Path, options: dict[str, object],
                                                    error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        regraft.train(crops, out=tmp_path / "model", quiet=True, **options)  # type: ignore[arg-type]
    assert not (tmp_path / "model").exists()


def test_a_class_called_ask_can_not_be_asked_for(tmp_path: Path) -> None:
    data = write_crops(tmp_path / "data", 2)
    (data / "palace").rename(data / "ask")
    with pytest.raises(UsageError, match="a class is called 'ask'"):
        regraft.train(data, out=tmp_path / "model", quiet=True, ask=0.9)


# -- comparing and listing -------------------------------------------------------------------------


def test_a_paired_difference() -> None:
    """Newcombe's own example (Stat. Med. 17, 1998), and the plain interval where images are many."""
    value, low, high = metrics.paired_difference(36, 2, 12, 0)
    assert value == pytest.approx(0.2)
    assert (low, high) == pytest.approx((0.0569, 0.3404), abs=1e-4)
    value, low, high = metrics.paired_difference(60_000, 10_000, 12_000, 18_000)
    error = np.sqrt(0.22 - 0.02**2) / np.sqrt(100_000)
    assert (low, high) == pytest.approx((0.02 - 1.96 * error, 0.02 + 1.96 * error), abs=1e-4)
    assert metrics.mcnemar(0, 0) == 1
    assert metrics.mcnemar(2, 12) == pytest.approx(2 * sum([1, 14, 91]) / 2**14)


def test_models_are_compared_and_runs_listed(trained: TrainResult, crops: Path, tmp_path: Path) -> None:
    other = tmp_path / "runs" / "other"
    regraft.train(crops, out=other, quiet=True, splits=Path(trained.out) / "run" / "splits.csv", set=[], limit=None,
                  folds=2)
    kept = json_of("compare", trained.out, other)
    assert (kept["n"], kept["low"] <= kept["difference"] <= kept["high"]) == (8, True)
    fresh = write_crops(tmp_path / "fresh", 6, seed=31)
    assert regraft.compare(trained.out, other, fresh, quiet=True).n == 12
    elsewhere = tmp_path / "runs" / "elsewhere"
    regraft.train(crops, out=elsewhere, quiet=True, seed=5, folds=2)
    with pytest.raises(DataError, match=r"8 and 8 test images, \d of them in common"):
        regraft.compare(other, elsewhere, quiet=True)
    (elsewhere / "manifest.json").unlink()
    listed = regraft.list_runs(tmp_path / "runs")
    assert [(Path(row.out).name, row.state) for row in listed.runs] == [("elsewhere", "unfinished"),
                                                                         ("other", "finished")]
    assert "unfinished: features computed" in repr(listed)
    with pytest.raises(DataError, match="there is no folder"):
        regraft.list_runs(tmp_path / "nowhere")


# -- shared sets -----------------------------------------------------------------------------------


def _some(folder: Path, count: int) -> list[Path]:
    files = sorted(path for path in folder.rglob("*") if path.suffix in (".jpg", ".png", ".jpeg"))
    return [files[i * len(files) // count] for i in range(count)]


def _areas(known: Predictions, strange: Predictions) -> tuple[float, float]:
    """Area under the ROC curve of the novelty, and of a lack of confidence."""
    both = [*known, *strange]
    is_strange = np.arange(len(both)) >= len(known)
    novelty = np.array([one.novelty for one in both], float)
    certainty = np.array([one.probability for one in both], float)
    return metrics.roc_auc(novelty, is_strange), metrics.roc_auc(-certainty, is_strange)


def _part(source: Path, target: Path, classes: Sequence[str]) -> Path:
    target.mkdir()
    for name in classes:
        (target / name).symlink_to(source / name)
    return target


@pytest.mark.slow
def test_images_of_other_sets_are_unknown(shared_data: Path, tmp_path: Path) -> None:
    """Far: clothing against satellite tiles and pets, tiles against digits; near: left-out classes of the same set."""
    names = sorted(path.name for path in (shared_data / "eurosat").iterdir())
    tiles = _part(shared_data / "eurosat", tmp_path / "tiles", names[:5])
    digits = _part(shared_data / "mnist" / "train", tmp_path / "digits", "01234")
    cases = [(shared_data / "clothing", {"eurosat": _some(shared_data / "eurosat", 100),
                                         "cats_dogs": _some(shared_data / "cats_dogs", 100)}, 0.95),
             (shared_data / "eurosat", {"mnist": _some(shared_data / "mnist", 100)}, 0.95),
             (tiles, {"tiles": [p for n in names[5:] for p in _some(shared_data / "eurosat" / n, 25)]}, 0.8),
             (digits, {"digits": [p for n in "56789" for p in _some(shared_data / "mnist" / "test" / n, 25)]}, 0.8)]
    better = []
    for number, (data, strange, least) in enumerate(cases):
        out = tmp_path / f"model{number}"
        regraft.train(data, out=out, quiet=True, limit=60, follow_links=True)
        model = regraft.load(out)
        with (out / "run" / "splits.csv").open(newline="") as file:
            known = model.predict([data / row["path"] for row in csv.DictReader(file) if row["split"] == "test"])
        for name, files in strange.items():
            area, plain = _areas(known, model.predict(files))
            assert area >= least, f"{data.name} against {name}"
            better.append(area > plain)
    assert sum(better) >= 3
