"""Advice from measurements: the rules on known answers, and the whole of it on real images."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import regraft
from regraft.errors import DataError, OutputError
from regraft.heads.probe import Probe
from regraft.records.advice import Advice, Augmented, Pilot
from regraft.records.heads import HeadSettings
from regraft.strategy.advising import (
    Measured,
    about_augmentations,
    entropy,
    expected,
    from_scratch,
    harmless,
    reasons,
    recommended,
    scenario,
)
from regraft.strategy.learning_curve import fit
from regraft.strategy.library import load_plan
from tests.conftest import write_crops, write_digits

PLACES = ("stage1", "stage2", "last", "logits")


def probe(right: int, n: int = 1000, readouts: tuple[str, ...] = ("last",)) -> Probe:
    """A probe that answers the first ``right`` images rightly."""
    answers: NDArray[np.bool_] = np.arange(n) < right
    return Probe(HeadSettings("logistic_regression", readouts, "equal", 1e-4), np.arange(n), answers, 1 - right / n)


def measured(last: int, joined: int, stage: int, images: int = 100) -> Measured:
    places = dict(zip(PLACES, (probe(300), probe(stage), probe(last), probe(last - 10)), strict=True))
    return Measured(probe(last), probe(joined, readouts=("last", "stage2")), images, places, 0.01, 0.5)


def test_the_curve_goes_through_a_power_law() -> None:
    images = (200, 400, 800)
    wrong = [round(100_000 * 2.0 * count**-0.5) for count in images]
    curve = fit(images, wrong, [100_000] * 3)
    assert curve.rate == pytest.approx(0.5, abs=1e-3)
    assert curve.error(1600) == pytest.approx(0.05, abs=1e-3)
    assert curve.gain_of_doubling(800) == pytest.approx(2 * 800**-0.5 * (1 - 2**-0.5), abs=1e-3)
    assert fit((100, 200), (5, 50), (100, 100)).rate == 0.0  # more images do no harm
    assert fit((100,), (0,), (100,)).error(10_000) > 0  # no error at all is not believed


def test_entropy_is_a_share_of_the_largest() -> None:
    assert entropy(np.zeros((2, 10), np.float32)) == pytest.approx(1.0)
    assert entropy(np.array([[50.0, 0.0, 0.0]], np.float32)) == pytest.approx(0.0, abs=1e-6)
    halves = np.array([[9.0, 9.0, -90.0, -90.0]], np.float32)
    assert entropy(halves) == pytest.approx(math.log(2) / math.log(4))


def test_images_are_unlike_where_an_earlier_place_tells_more() -> None:
    assert measured(900, 903, 850).similarity == "similar"
    assert measured(900, 950, 850).similarity == "different"  # joined
    assert measured(900, 903, 940).similarity == "different"  # an earlier stage alone
    assert measured(900, 905, 905).similarity == "similar"  # half a point is nothing


def test_a_trial_is_made_only_where_it_could_change_the_advice() -> None:
    assert not measured(985, 990, 900).may_pay  # hardly an error
    assert not measured(920, 925, 900).may_pay  # like photos, fewer than 10 % wrong
    assert measured(920, 950, 900).may_pay  # unlike photos: there is more to win
    assert measured(800, 800, 700).may_pay
    assert not measured(800, 800, 700, images=10).may_pay  # too few images


@pytest.mark.parametrize(("trained", "loss", "strategy"), [(0.85, 0.4, "partial"), (0.805, 0.4, "features"),
                                                          (0.85, 0.7, "features")])
def test_stages_learn_only_where_the_trial_was_convincing(trained: float, loss: float, strategy: str) -> None:
    assert recommended(Pilot(250, 750, 0.8, trained, 0.6, loss, 10.0)) == strategy
    assert recommended(None) == "features"


def test_forecasts_say_how_they_are_known() -> None:
    found = measured(800, 800, 700)
    frozen, basis = expected("features", found, None)
    assert (frozen.value, basis) == (0.8, "measured")
    tried, basis = expected("partial", found, Pilot(250, 750, 0.8, 0.86, 0.6, 0.4, 10.0), tried=True)
    assert (round(tried.value, 6), basis) == (0.86, "tried")
    assert tried.high - tried.low > frozen.high - frozen.low
    for strategy in ("partial", "full"):
        assert expected(strategy, found, None)[1] == "estimated"
    assert from_scratch(found).low < from_scratch(found).value < frozen.value


def test_reasons_tell_of_the_table_and_of_disagreement() -> None:
    found = measured(985, 990, 900, images=300)
    told = scenario(found, "features")
    assert (told.size, told.similarity, told.rule, told.agrees) == ("large", "similar", "full", False)
    text = " ".join(reasons(found, None, told, ""))
    assert "99.0% of 1,000 images" in text
    assert "say otherwise" in text
    assert "no time was spent on trying" in text
    assert "(no reason)" in " ".join(reasons(found, None, told, "(no reason)"))


def test_augmentations_that_do_harm_are_left_out_and_told() -> None:
    flip = Augmented("horizontal_flip", 600, 0.1512, 0.1807, (0.0295, 0.004, 0.055))
    crop = Augmented("random_resized_crop(scale_low=0.6, scale_high=1)", 600, 0.1512, 0.1555, (0.0043, -0.01, 0.02))
    assert harmless([flip, crop]) == (crop.augmentation,)
    assert about_augmentations([flip, crop]) == ("Changing pictures by horizontal_flip (log-loss 0.151 to 0.181 on 600 "
                                                 "images) makes answers worse, so the plan leaves that out.")
    assert "(random_resized_crop) does no harm" in about_augmentations([crop])
    assert not about_augmentations([])


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> tuple[Advice, Path, Path]:
    """Advice on 80 crops of photos, with its plan, as its JSON document tells it."""
    folder = tmp_path_factory.mktemp("advise")
    data = write_crops(folder / "data", 40)
    document = regraft.advise(data, size=96, out=folder / "plan.toml", store=folder / "store", quiet=True).to_dict()
    assert {"recommended", "reasons", "forecasts", "scenario"} <= document.keys()
    advice = Advice.from_dict(json.loads(json.dumps(document)))
    return advice, data, folder


def test_photos_need_frozen_features_only(photos: tuple[Advice, Path, Path]) -> None:
    advice, data, folder = photos
    assert advice.recommended.strategy == "features"
    assert advice.pilot is None
    ways = ["features", "partial", "partial", "partial", "full", "scratch"]
    assert [one.strategy for one in advice.forecasts] == ways
    assert [one.basis for one in advice.forecasts] == ["measured"] + 5 * ["estimated"]
    assert [one.depth for one in advice.forecasts] == sorted((one.depth for one in advice.forecasts), reverse=True)
    assert all(one.seconds > 0 for one in advice.forecasts)
    assert "fine-tuning is not worth it here" in " ".join(repr(advice).split())
    told = repr(advice).replace(str(data), "photos").replace(str(folder), "here")  # which may lie deep
    assert all(len(line) <= 125 for line in told.splitlines())
    assert load_plan(folder / "plan.toml") == advice.recommended.plan
    assert all((folder / f"plan.{kind}").stat().st_size > 500 for kind in ("png", "svg"))


def test_the_plan_trains(photos: tuple[Advice, Path, Path]) -> None:
    _, data, folder = photos
    result = regraft.train(data, plan=folder / "plan.toml", store=folder / "store", out=folder / "model", quiet=True)
    assert (result.features.computed, result.features.reused) == (16, 64)  # the test images had not been looked at
    with pytest.raises(OutputError, match="is there already"):
        regraft.advise(data, out=folder / "plan.toml", quiet=True)


def test_two_classes_of_the_same_images_give_no_false_certainty(tmp_path: Path) -> None:
    data = write_crops(tmp_path / "one", 6)
    twins = tmp_path / "twins"
    for label in ("a", "b"):
        (twins / label).mkdir(parents=True)
        for number, file in enumerate(sorted(next(data.iterdir()).glob("*.jpg"))):
            Image.open(file).save(twins / label / f"{number}.png")
    advice = regraft.advise(twins, size=96, no_test=True, quiet=True)
    assert advice.recommended.strategy == "features"
    assert advice.forecasts[0].accuracy.high - advice.forecasts[0].accuracy.low > 0.3


def test_a_class_an_image_is_told_in_one_line(tmp_path: Path) -> None:
    data = write_digits(tmp_path / "digits", "01234", 1)
    with pytest.raises(DataError, match="add images"):
        regraft.advise(data, no_test=True, quiet=True)
    with pytest.raises(DataError, match="add images"):
        regraft.rank(data, backbones="efficientnet_lite0", no_test=True, quiet=True)


@pytest.mark.slow
def test_digits_are_unlike_photos_and_a_trial_is_made(tmp_path: Path) -> None:
    """Earlier stages or partial fine-tuning are named for images that are no photos."""
    advice = regraft.advise(write_digits(tmp_path / "digits", "0123456789", 60), quiet=True)
    assert advice.scenario.similarity == "different" or advice.recommended.strategy == "partial"
    assert (advice.pilot is None) == (advice.forecasts[0].accuracy.value > 0.97)
    assert (advice.pilot is None) == (not advice.augmentations)
    kept = {one.augmentation for one in advice.augmentations if not one.harms}
    for phase in advice.recommended.plan.phases:
        assert set(phase.augment) == kept
