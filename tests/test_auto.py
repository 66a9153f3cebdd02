"""What a training without a strategy does: a first look, a forecast, and stages that learn where that may pay."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import regraft
from regraft.errors import OutputError, TimeLimitError
from regraft.runs import auto
from regraft.strategy.presets import AUGMENT
from regraft.strategy.reading import read_plan
from tests.conftest import write_crops, write_digits

SMALL: dict[str, Any] = {"size": 48, "report": "none"}


def forecast(told: str) -> list[str]:
    """The lines that tell it."""
    return [line for line in told.splitlines() if line.startswith(("forecast: ", "taken: "))]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """80 crops of photos, which a frozen network tells apart."""
    return write_crops(tmp_path_factory.mktemp("auto") / "photos", 40)


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """300 digits, which are unlike photos."""
    return write_digits(tmp_path_factory.mktemp("auto") / "digits", "35689", 60)


def test_few_images_are_not_looked_at_first(crops: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = regraft.train(crops, out=tmp_path / "out", store=tmp_path / "store", **SMALL)
    told = capsys.readouterr().err
    assert "a class has 16 images (median), and below 30" in told
    assert "forecast" not in told
    assert (result.strategy, result.features.computed, result.features.reused) == ("features", 40, 0)


def test_the_forecast_comes_first_and_the_look_counts(photos: Path, tmp_path: Path,
                                                      capsys: pytest.CaptureFixture[str]) -> None:
    result = regraft.train(photos, out=tmp_path / "out", store=tmp_path / "store", **SMALL)
    frozen, stages, taken = forecast(capsys.readouterr().err)
    assert frozen.startswith("forecast: features (learns the answer only): ")
    assert "usually pays where more than 10% of such images are wrong" in stages
    assert taken == "taken: the network stays frozen"
    assert (result.strategy, result.features.computed, result.features.reused) == ("features", 80, 0)
    assert regraft.predict(tmp_path / "out", next(photos.rglob("*.jpg")), quiet=True)[0].label
    again = regraft.train(photos, out=tmp_path / "again", store=tmp_path / "store", quiet=True, **SMALL)
    assert (again.features.computed, again.features.reused) == (0, 80)


@pytest.mark.slow
def test_stages_learn_where_that_may_pay(digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = regraft.train(digits, out=tmp_path / "out", store=tmp_path / "store", **SMALL)
    told = capsys.readouterr().err
    _, stages, taken = forecast(told)
    assert stages.startswith("forecast: partial (learns the last 2 stages too): ")
    assert taken == "taken: the last stages learn too; kept if that does better on validation"
    assert result.strategy == "partial"
    assert (result.features.computed, result.features.reused) == (300, 0)
    assert "Changing pictures" in told
    tried = read_plan((tmp_path / "out" / "run" / "plan.toml").read_text()).phases[0].augment
    assert (tried == AUGMENT) == ("does no harm here, so the plan does so" in told)
    assert result.probe is not None
    assert result.validation is not None
    assert result.validation.accuracy.value >= result.probe.accuracy.value


@pytest.mark.slow
def test_what_takes_too_long_is_not_begun(digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                          capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(auto, "AUTO_LIMIT", "0.1s")
    result = regraft.train(digits, out=tmp_path / "out", **SMALL)
    *_, taken = forecast(capsys.readouterr().err)
    assert taken == ("taken: the network stays frozen: stages may learn for 100 ms; --strategy partial lets them learn "
                     "all the same")
    assert result.strategy == "features"


def test_a_folder_that_is_taken_is_told_before_the_look(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "mine.txt").write_text("dear")
    with pytest.raises(OutputError, match="neither empty nor"):
        regraft.train(photos, out=tmp_path / "letters", store=tmp_path / "store", quiet=True)
    with pytest.raises(OutputError, match="no unfinished run to resume"):
        regraft.train(photos, out=tmp_path / "new", store=tmp_path / "store", resume=True, quiet=True)
    assert not (tmp_path / "store").exists()


def test_an_unfinished_run_goes_on_with_what_was_chosen(photos: Path, tmp_path: Path,
                                                        capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    with pytest.raises(TimeLimitError):
        regraft.train(photos, out=out, strategy="features", time_limit="0.001s", store=tmp_path / "store", **SMALL)
    capsys.readouterr()
    result = regraft.train(photos, out=out, store=tmp_path / "store", **SMALL)
    told = capsys.readouterr().err
    assert f"continuing in {out}" in told
    assert "forecast" not in told
    assert result.strategy == "features"


def test_groups_of_whole_classes_are_no_reason_to_fail(tmp_path: Path) -> None:
    data = write_digits(tmp_path / "digits", "01", 30)
    result = regraft.train(data, out=tmp_path / "out", group=r"^(\d)/", no_test=True, quiet=True, **SMALL)
    assert result.strategy == "features"
