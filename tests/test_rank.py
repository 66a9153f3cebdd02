"""Networks ranked on the user's images: honest figures, few image passes, words that explain themselves."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.covariance import ledoit_wolf_shrinkage

import regraft
from regraft.errors import UnknownNameError, UsageError
from regraft.heads.choose import Candidate
from regraft.heads.probe import lead, measure
from regraft.heads.transferability import h_score, ledoit_wolf, log_me
from regraft.records.ranking import Ranking
from regraft.strategy.halving import growing_order, recommend, rounds, survivors
from tests.conftest import write_crops
from tests.doors import regraft_cli

MOBILENET = Path(__file__).parents[2] / "shared" / "weights" / "mobilenetv2_100_in1k_dequantised.safetensors"


def features(seed: int = 0, n: int = 90, d: int = 12, classes: int = 3,
             ) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    rng = np.random.default_rng(seed)
    y = np.arange(n, dtype=np.int32) % classes
    return (rng.normal(size=(n, d)) + 2 * rng.normal(size=(classes, d))[y]).astype(np.float32), y


def test_a_lead_is_of_the_first_over_the_second() -> None:
    first, second = np.zeros(100, bool), np.zeros(100, bool)
    first[:30] = True
    second[10:35] = True  # 10 that only the first got right, 5 that only the second did
    value, low, high = lead(first, second)
    assert value == pytest.approx(0.05)
    assert -0.05 < low < 0 < 0.1 < high < 0.15
    assert lead(first, first)[0] == 0.0


@pytest.mark.parametrize(("n", "d"), [(90, 12), (20, 40)])
def test_shrinkage_is_ledoit_and_wolfs(n: int, d: int) -> None:
    X = np.random.default_rng(1).normal(size=(n, d)) * np.linspace(0.3, 3, d)
    X -= X.mean(0)
    assert ledoit_wolf(X) == pytest.approx(ledoit_wolf_shrinkage(X, assume_centered=True), rel=1e-9)


def test_h_score_is_the_trace_it_is_defined_as() -> None:
    X, y = features()
    centred = X - X.mean(0)
    share = ledoit_wolf(centred.astype(np.float64))
    covariance = centred.T @ centred / len(X)
    shrunk = (1 - share) * covariance + share * np.trace(covariance) / X.shape[1] * np.eye(X.shape[1])
    means = np.stack([centred[y == label].mean(0) for label in y])
    between = means.T @ means / len(X)
    assert h_score(X, y) == pytest.approx((1 - share) * np.trace(np.linalg.solve(shrunk, between)), rel=1e-4)


@pytest.mark.parametrize(("n", "d"), [(45, 12), (20, 40)])
def test_log_me_is_the_largest_evidence_of_bayesian_regression(n: int, d: int) -> None:
    X, y = features(2, n, d)

    def evidence(t: NDArray[np.float64], alpha: float, beta: float) -> float:
        covariance = np.eye(n) / beta + X.astype(np.float64) @ X.T.astype(np.float64) / alpha
        return float(-(n * math.log(2 * math.pi) + np.linalg.slogdet(covariance)[1]
                       + t @ np.linalg.solve(covariance, t)) / 2)

    grid = 10 ** np.linspace(-2, 4, 61)
    best = [max(evidence((y == label).astype(np.float64), a, b) for a in grid for b in grid) / n for label in range(3)]
    assert log_me(X, y) == pytest.approx(float(np.mean(best)), abs=0.01)


def test_every_beginning_of_the_order_is_fair() -> None:
    y = np.repeat(np.arange(3, dtype=np.int32), (300, 600, 100))
    counts = np.bincount(y[growing_order(y, 0)[:200]])
    assert np.abs(counts - [60, 120, 20]).max() <= 1
    many = np.repeat(np.arange(100, dtype=np.int32), 12)
    assert np.bincount(many[growing_order(many, 0)[:256]]).max() == 4
    assert sorted(growing_order(many, 0)) == list(range(1200))


def test_half_go_on_and_none_that_is_clearly_worse() -> None:
    answers = np.arange(256)
    right = {"a": answers < 250, "b": answers < 248, "c": answers < 249, "d": answers < 200}
    assert survivors(right, dict.fromkeys(right, 0.0)) == ["a", "c"]
    assert survivors({"a": right["a"], "d": right["d"], "e": answers < 190}, dict.fromkeys("ade", 0.0)) == ["a"]
    assert rounds(100) == (100,)
    assert rounds(900) == (256, 900)
    assert rounds(5_000) == (256, 1_024)


@pytest.mark.parametrize(("images", "test", "most"), [(100, 20, 1.0), (1200, 0, 0.6), (1200, 240, 0.6),
                                                     (2000, 400, 0.6), (4000, 1000, 0.4), (4000, 0, 0.4)])
def test_even_equal_networks_cost_few_passes(images: int, test: int, most: float) -> None:
    running, passes, seen = ["a", "b", "c", "d"], 0, 0
    for count in rounds(images - test):
        if seen:
            running = survivors({name: np.ones(seen, bool) for name in running}, dict.fromkeys(running, 0.0))
        passes += len(running) * (count - seen)
        seen = count
    assert passes + images - seen <= most * 4 * images


def test_a_faster_network_is_taken_where_it_is_as_good() -> None:
    answers = np.arange(1000)
    right = {"big": answers < 903, "small": answers < 900, "bad": answers < 880}
    speeds: Mapping[str, float] = {"big": 50.0, "small": 100.0, "bad": 300.0}
    found = recommend(right, dict.fromkeys(right, 0.0), speeds)
    assert found.name == "small"
    assert "2.0 times as fast" in found.reason
    assert recommend(right, dict.fromkeys(right, 0.0), dict.fromkeys(right, 50.0)).name == "big"


def test_a_probe_answers_each_image_by_a_head_that_had_not_seen_it() -> None:
    X, _ = features(3, 200, 50)
    noise = np.random.default_rng(0).integers(0, 2, 200).astype(np.int32)
    probe = measure({"last": X}, noise, None, 2, [Candidate(("last",))], 0)
    assert probe is not None
    assert probe.accuracy < 0.62  # labels drawn at random can't be told
    assert probe.rows.tolist() == list(range(200))
    alone = measure({"last": X[:2]}, np.arange(2, dtype=np.int32), None, 2, [Candidate(("last",))], 0)
    assert alone is None


@pytest.fixture(scope="module")
def ranked(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path, Path]:
    """Two networks, one of a local file, on 120 crops of photos, with a store of its own; the JSON document."""
    if not MOBILENET.is_file():
        pytest.skip("the shared weights are not beside this checkout")
    folder = tmp_path_factory.mktemp("rank")
    data = write_crops(folder / "data", 60)
    ranking = regraft.rank(data, backbones=["efficientnet_lite0", f"mobilenetv2_100_same={MOBILENET}"],
                           out=folder / "out", store=folder / "store", quiet=True)
    return ranking.to_dict(), data, folder


def test_a_ranking_costs_fewer_passes_than_trying_everything(ranked: tuple[dict[str, Any], Path, Path]) -> None:
    document, data, folder = ranked
    assert document["images"] == 96  # 24 of 120 are held out as test, and not looked at
    assert document["passes"] == 2 * 96 + 24
    assert document["all_passes"] == 2 * 120
    assert {row["backbone"] for row in document["ranking"]} == {"efficientnet_lite0", "mobilenetv2_100_same"}
    for row in document["ranking"]:
        assert row["score"]["low"] <= row["score"]["value"] <= row["score"]["high"]
        assert row["images_per_second"] > 0
        assert math.isfinite(row["log_me"])
    winner = document["ranking"][0]
    assert winner["backbone"] == document["recommended"]
    assert winner["behind"] == [0.0, 0.0, 0.0]
    for name in ("ranking.json", "ranking.png", "ranking.svg"):
        assert (folder / "out" / name).stat().st_size > 500
    saved = json.loads((folder / "out" / "ranking.json").read_text())
    assert saved["recommended"] == winner["backbone"]
    trained = regraft.train(data, out=folder / "model", backbone=winner["backbone"], weights=winner["weights"],
                            store=folder / "store", quiet=True)
    assert trained.features.computed == 0


def test_a_ranking_explains_itself(ranked: tuple[dict[str, Any], Path, Path]) -> None:
    document, _, folder = ranked
    written = repr(Ranking.from_dict(json.loads((folder / "out" / "ranking.json").read_text())))
    assert all(len(line) <= 120 for line in written.splitlines())
    text = " ".join(written.split())
    assert f"take {document['recommended']}: " in text
    assert "216 image passes (90% of the 240 that trying everything takes)" in text
    assert "share of images that were named rightly" in text


def test_wrong_names_are_one_line(crops: Path) -> None:
    with pytest.raises(UnknownNameError, match="did you mean"):
        regraft.rank(crops, backbones="efficientnet_lite0,resnet5O", quiet=True)
    for twice in ("resnet18,resnet18", ["resnet18", "resnet18"]):
        with pytest.raises(UsageError, match="named twice"):
            regraft.rank(crops, backbones=twice, quiet=True)
    done = regraft_cli("rank", crops, "--backbones", ",")
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.slow
def test_the_weaker_are_left_behind_on_real_photos(shared_data: Path, tmp_path: Path) -> None:
    """Three networks, two rounds: one is left behind, the winner alone has seen every image."""
    found = regraft.rank(shared_data / "cats_dogs", limit=110, no_test=True, store=tmp_path, quiet=True,
                         backbones=f"efficientnet_lite0,efficientnet_lite1,mobilenetv2_100_same={MOBILENET}")
    assert found.rounds == (256, 440)
    assert sorted(row.images for row in found.ranking) == [256, 440, 440]
    assert found.passes == 3 * 256 + 2 * (440 - 256)
    assert all(row.behind[1] <= row.behind[0] <= row.behind[2] for row in found.ranking)
