"""Several plans in one command: the same images for all, a model folder each, one table."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import regraft
from regraft.errors import OutputError, SettingsError, TimeLimitError, UnknownNameError, UsageError
from regraft.records.results import Compared, Comparison
from regraft.strategy.library import load_plans, recipe
from tests.doors import json_of

SCRATCH = """
name = "From scratch"
[preprocessing]
size = 64
[backbone]
name = "plain:cnn"
start = "random"
[head]
reads = "last"
start = "random"
[[phases]]
name = "everything"
learns = "all"
batch_norm = "training"
epochs = 2
[published]
accuracy = "15.75 %"
"""
DEEPER = """
name = "deeper"
[head]
reads = "last"
[[phases]]
name = "head"
learns = "head"
epochs = 1
[[phases]]
name = "last stage"
learns = ["stages[-1:]", "head"]
epochs = 1
"""


@pytest.fixture(scope="module")
def plans(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Two plans' files, as ``--plan`` takes them."""
    folder = tmp_path_factory.mktemp("plans")
    for name, text in (("scratch", SCRATCH), ("deeper", DEEPER)):
        (folder / f"{name}.toml").write_text(text, "utf-8")
    return f"{folder / 'scratch.toml'}, {folder / 'deeper.toml'}"


@pytest.fixture(scope="module")
def compared(crops: Path, plans: str, tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    """Both plans on the crops; read only."""
    return compare(crops, plans, tmp_path_factory.mktemp("compared") / "out")


def compare(data: Path, plan: str, out: Path, **settings: Any) -> Comparison:
    result = regraft.train(data, plan=plan, out=out, **settings)
    assert isinstance(result, Comparison)
    return result


@pytest.mark.slow
def test_another_backbone_is_meant_for_the_pretrained_ones(crops: Path, plans: str, tmp_path: Path) -> None:
    found = compare(crops, plans, tmp_path / "out", backbone="efficientnet_lite1", set="phases.*.epochs=1")
    assert [row.backbone for row in found.rows] == ["plain:cnn", "efficientnet_lite1"]


def test_every_plan_gets_a_model_on_the_same_images(compared: Comparison, crops: Path) -> None:
    out = Path(compared.out)
    assert [Path(row.out).relative_to(out).name for row in compared.rows] == ["From-scratch", "deeper"]
    splits = {(Path(row.out) / "run" / "splits.csv").read_bytes() for row in compared.rows}
    assert len(splits) == 1
    assert sum(compared.images.values()) == 40
    for row in compared.rows:
        assert row.test is not None
        assert regraft.load(row.out).classes == ("flower", "palace")
        again = regraft.evaluate(row.out, crops, splits=Path(row.out) / "run" / "splits.csv", split="test", quiet=True)
        assert again.accuracy == row.test
        assert (Path(row.out) / "run" / "curves.png").exists()


def test_the_table_holds_what_is_to_be_compared(compared: Comparison) -> None:
    scratch, deeper = compared.rows
    assert (scratch.plan, scratch.backbone, scratch.epochs, scratch.planned) == ("From scratch", "plain:cnn", 2, 2.0)
    assert deeper.backbone == "efficientnet_lite0"
    forecasts = [json.loads(line)["learning"]
                 for line in (Path(deeper.out) / "run" / "phases.jsonl").read_text("utf-8").splitlines()]
    assert forecasts[0] == 2 * (1280 + 1)
    assert deeper.learning == forecasts[1] > 100_000  # of the phase in which most learns
    assert scratch.published == {"accuracy": "15.75 %"}
    lines = (Path(scratch.out) / "run" / "history.jsonl").read_text("utf-8").splitlines()
    assert scratch.first == json.loads(lines[1])["validation_accuracy"]
    assert compared.majority is not None
    assert compared.test_majority is not None
    assert compared.seconds == pytest.approx(scratch.seconds + deeper.seconds)
    text = repr(compared)
    for expected in (f"{deeper.learning:,}", "From scratch", "  published accuracy: 15.75 %", repr(deeper.validation),
                     repr(deeper.test), "always flower", "Choose among the rows by validation."):
        assert expected in text
    page = compared._repr_html_()
    assert "<td>accuracy: 15.75 %</td>" in page
    assert page.count("<tr>") == 4


def test_the_table_is_kept_as_a_document_and_a_picture(compared: Comparison) -> None:
    out = Path(compared.out)
    assert Comparison.from_dict(json.loads((out / "comparison.json").read_text("utf-8"))) == compared
    with Image.open(out / "comparison.png") as picture:
        assert picture.size[0] == 1600
    drawn = (out / "comparison.svg").read_text("utf-8")
    for expected in ("From scratch", "deeper", "always flower 50.0%", repr(compared.rows[1].validation)):
        assert expected in drawn


def test_what_is_finished_is_not_trained_again(compared: Comparison, crops: Path, plans: str,
                                               capsys: pytest.CaptureFixture[str]) -> None:
    before = {row.plan: (Path(row.out) / "manifest.json").stat().st_mtime_ns for row in compared.rows}
    assert compare(crops, plans, Path(compared.out)) == compared
    said = capsys.readouterr().err
    assert "plan 1 of 2, From scratch: finished in" in said
    assert "plan 2 of 2, deeper: finished in" in said
    assert before == {row.plan: (Path(row.out) / "manifest.json").stat().st_mtime_ns for row in compared.rows}


def test_a_comparison_that_was_stopped_goes_on(compared: Comparison, crops: Path, plans: str, tmp_path: Path,
                                               capsys: pytest.CaptureFixture[str]) -> None:
    out = shutil.copytree(compared.out, tmp_path / "moved")
    first = out / "From-scratch"
    (first / "manifest.json").unlink()  # as if it had been stopped before its end
    again = compare(crops, plans, out, resume=True)
    said = capsys.readouterr().err
    assert f"continuing in {first}" in said
    assert f"plan 2 of 2, deeper: finished in {out / 'deeper'} already" in said
    assert same(again) == same(compared)
    assert [row.out for row in again.rows] == [str(first), str(out / "deeper")]
    (first / "run" / "record.json").unlink()  # as if it had been stopped while that was written
    document = json_of("train", crops, "--plan", plans, "--out", out, "--quiet")
    assert same(Comparison.from_dict(document)) == same(compared)


def same(comparison: Comparison) -> list[Compared]:
    """The rows without what may differ from one run to the next."""
    return [replace(row, out="", seconds=0.0) for row in comparison.rows]


def test_other_settings_are_not_mixed_into_a_comparison(compared: Comparison, crops: Path, plans: str) -> None:
    with pytest.raises(OutputError, match=r"trained with other settings \(seed\); say the same again"):
        compare(crops, plans, Path(compared.out), seed=1, quiet=True)
    with pytest.raises(OutputError, match=r"trained with other settings \(plan, set\)"):
        compare(crops, plans, Path(compared.out), set=["phases.*.rate=0.01"], quiet=True)


def test_a_time_limit_says_how_to_go_on(crops: Path, plans: str, tmp_path: Path) -> None:
    with pytest.raises(TimeLimitError) as caught:
        compare(crops, plans, tmp_path / "out", time_limit=0.001, quiet=True)
    assert str(caught.value).endswith(f"continue with the same command and --out {tmp_path / 'out'}")


def test_plans_that_divide_images_differently_are_refused(crops: Path, plans: str, tmp_path: Path) -> None:
    other = tmp_path / "other.toml"
    other.write_text('name = "other"\n[data]\ntest_share = 0.5\n[[phases]]\nname = "p"\nlearns = "head"\n', "utf-8")
    with pytest.raises(UsageError, match=r"the images differently.*data\.test_share: 0\.2 in From scratch, .*0\.5 in "
                                         r"other\); say the same for all, such as --set data\.test_share=0\.2"):
        compare(crops, f"{plans},{other}", tmp_path / "out", quiet=True)
    assert not (tmp_path / "out").exists()


def test_what_can_fail_fails_before_the_first_training(crops: Path, plans: str, tmp_path: Path) -> None:
    first = plans.partition(",")[0]
    with pytest.raises(UsageError, match="two of the plans are called 'From scratch'"):
        compare(crops, f"{first},{first}", tmp_path / "out", quiet=True)
    with pytest.raises(UnknownNameError, match="efficientnet_lite7"):
        compare(crops, plans, tmp_path / "out", backbone="efficientnet_lite7", quiet=True)
    with pytest.raises(SettingsError, match=r"phases\.1"):
        compare(crops, plans, tmp_path / "out", set=["phases.1.epochs=1"], quiet=True)
    with pytest.raises(UnknownNameError, match="no recipe is called 'vgg19-code'"):
        compare(crops, "vgg19-code,vgg19-full", tmp_path / "out", quiet=True)
    with pytest.raises(OutputError, match="holds no unfinished run to resume"):
        compare(crops, plans, tmp_path / "out", resume=True, quiet=True)
    with pytest.raises(OutputError, match="is neither empty nor the folder of these plans"):
        compare(crops, plans, crops, quiet=True)
    assert not (tmp_path / "out").exists()


def test_a_model_folder_is_no_place_for_several(crops: Path, plans: str, compared: Comparison) -> None:
    with pytest.raises(OutputError, match="holds a finished model; several plans need a folder for several models"):
        compare(crops, plans, Path(compared.rows[0].out), quiet=True)


def test_epochs_are_followed_of_one_plan(crops: Path) -> None:
    with pytest.raises(UsageError, match="flowers102 stands for 3 recipes; give one of"):
        regraft.iter_epochs(crops, plan="flowers102")


def test_commas_name_several_plans(tmp_path: Path) -> None:
    names = [plan.name for plan in load_plans("vgg19-codes, own-network,vgg19-full")]
    assert names == ["vgg19-codes", "own-network-random", "own-network-pretrained", "vgg19-full"]
    assert load_plans("vgg19-codes,") == (recipe("vgg19-codes"),)
    odd = tmp_path / "mine, with a comma.toml"
    odd.write_text(SCRATCH, "utf-8")
    assert [plan.name for plan in load_plans(str(odd))] == [plan.name for plan in load_plans(odd)] == ["From scratch"]
    with pytest.raises(UsageError, match="names no plan"):
        load_plans(" , ")
