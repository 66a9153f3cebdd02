"""New images join a model's training: who is tested on what, what is computed, and when the model is replaced."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import regraft
from regraft.errors import DataError, ModelError, OutputError, UsageError
from regraft.manifest import model_digest
from regraft.records.update import UpdateResult
from tests.conftest import write_digits
from tests.doors import json_of, regraft_cli

LABELS, OLD, NEW = "0123", 40, 4


@pytest.fixture(scope="module", autouse=True)
def own_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A feature store of this file alone: what is computed is counted, and other files know the same digits."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REGRAFT_STORE", str(tmp_path_factory.mktemp("store")))
        yield


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``old`` with 40 digits of each of four classes, ``new`` with 4 others of each; read only."""
    folder = tmp_path_factory.mktemp("digits")
    write_digits(folder / "old", LABELS, OLD + NEW)
    for label in LABELS:
        (folder / "new" / label).mkdir(parents=True)
        for file in sorted((folder / "old" / label).iterdir())[OLD:]:
            file.rename(folder / "new" / label / file.name)
    return folder


@pytest.fixture(scope="module")
def base(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of the old digits; read only."""
    return Path(regraft.train(digits / "old", out=tmp_path_factory.mktemp("base") / "model", report="none",
                              quiet=True).out)


@pytest.fixture
def model(base: Path, tmp_path: Path) -> Path:
    """A copy of the model."""
    return shutil.copytree(base, tmp_path / "model")


@pytest.fixture(scope="module")
def updated(base: Path, digits: Path, tmp_path_factory: pytest.TempPathFactory) -> UpdateResult:
    """The model of the old digits, updated with the new ones; read only."""
    model = shutil.copytree(base, tmp_path_factory.mktemp("updated") / "model")
    return regraft.update(model, digits / "new", quiet=True)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def rows(folder: Path | str) -> list[dict[str, str]]:
    with (Path(folder) / "run" / "splits.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def splits(folder: Path | str) -> dict[tuple[str, str], str]:
    return {(row["root"], row["path"]): row["split"] for row in rows(folder)}


def mislabelled(digits: Path, folder: Path, each: int) -> Path:
    """Old digits, turned a little, each under the label of the next class."""
    for label in LABELS:
        target = folder / LABELS[(LABELS.index(label) + 1) % len(LABELS)]
        target.mkdir(parents=True)
        for file in sorted((digits / "old" / label).iterdir())[:each]:
            with Image.open(file) as picture:
                picture.rotate(4).save(target / file.name)
    return folder


# -- promoted --------------------------------------------------------------------------------------


def test_a_tenth_more_images_make_the_model_anew(updated: UpdateResult, base: Path, digits: Path) -> None:
    assert updated.promoted
    assert updated.exit_code == 0
    assert (updated.training.features.computed, updated.training.features.reused) == (16, 160)
    assert updated.old_images == {"train": 128, "validation": 0, "test": 32}
    assert sum(updated.new_images.values()) == 16
    assert (updated.new_classes, updated.vanished_classes, updated.absent_classes) == ((), (), ())
    assert updated.previous is not None
    assert contents(Path(updated.previous)) == contents(base)
    assert regraft.load(updated.model).digest != model_digest(base)
    again = regraft.evaluate(updated.model, digits / "old", splits=base / "run" / "splits.csv", quiet=True)
    assert again.split == "test"  # and not seen
    assert sorted(path.name for path in Path(updated.model).parent.iterdir()) == [
        "model", Path(updated.previous).name]


def test_who_was_tested_stays_a_test_image(updated: UpdateResult, base: Path) -> None:
    before, after = splits(base), splits(updated.model)
    assert {key: split for key, split in after.items() if key[0] == "0"} == before
    assert {split for key, split in after.items() if key[0] == "1"} == {"train", "test"}


def test_old_and_new_are_compared_on_the_same_images(updated: UpdateResult) -> None:
    tests = sum(split == "test" for split in splits(updated.model).values())
    assert updated.comparison.n == tests > 32
    assert updated.old_test is not None
    assert updated.old_test.n == 32
    assert (updated.comparison.first, updated.comparison.second) == (updated.previous, updated.model)
    assert updated.training.test is not None
    assert updated.comparison.second_accuracy == updated.training.test.accuracy
    for one in (updated.comparison, updated.old_test):
        assert one.difference >= -updated.tolerance
        assert one.high >= 0
    assert updated.drift.accuracy_new is not None
    assert updated.drift.unknown_new is not None
    assert updated.drift.accuracy_old == updated.old_test.first_accuracy
    for words in ("was updated in", "not worse on all test images", "16 computed, 160 reused", "drift: "):
        assert words in repr(updated)


def test_what_came_of_it_is_kept(updated: UpdateResult) -> None:
    run = Path(updated.model) / "run"
    assert UpdateResult.from_dict(json.loads((run / "update.json").read_text("utf-8"))).to_dict() == updated.to_dict()
    page = (run / "report.html").read_text("utf-8")
    assert "regraft update MODEL new" in page
    assert str(Path(updated.model).parent) not in page


def test_the_same_command_again_changes_nothing(updated: UpdateResult, digits: Path) -> None:
    before = contents(Path(updated.model))
    again = json_of("update", updated.model, digits / "new")
    assert again == updated.to_dict()
    assert contents(Path(updated.model)) == before
    with pytest.raises(UsageError, match="nothing is new"):
        regraft.update(updated.model, digits / "old", quiet=True)


def test_an_updated_model_is_updated_again(updated: UpdateResult, digits: Path, tmp_path: Path,
                                           monkeypatch: pytest.MonkeyPatch) -> None:
    model = shutil.copytree(updated.model, tmp_path / "model")
    write_digits(tmp_path / "more", "45", 12)
    monkeypatch.chdir(tmp_path)
    found = json_of("update", "model", "more", digits / "new", "--report", "none", "--tolerance", "0.1")
    assert found["promoted"]
    assert found["known"] == 16
    assert found["training"]["features"] == {"computed": 24, "reused": 176}
    assert found["absent_classes"] == list(LABELS)
    assert [new["label"] for new in found["new_classes"]] == ["4", "5"]
    for new in found["new_classes"]:
        assert new["images"] == 12
        assert 0 < new["test"] < 12
        assert new["recall"] is not None
    assert regraft.load(model).classes == tuple("012345")
    before, after = splits(updated.model), splits(model)
    assert {key: after[key] for key in before} == before
    # Figures of the classes that both know: the old model is not blamed for the others.
    assert found["comparison"]["n"] == sum(split == "test" for split in before.values())
    assert "can't be told" in found["drift"]["text"]


def test_copies_go_where_the_picture_is_known(base: Path, digits: Path, model: Path, tmp_path: Path) -> None:
    known = splits(base)
    wanted = {split: [path for (_, path), at in known.items() if at == split][:4] for split in ("train", "test")}
    new = shutil.copytree(digits / "new", tmp_path / "new")
    for split, paths in wanted.items():
        for path in paths:
            shutil.copy(digits / "old" / path, new / path.replace("/", f"/{split}-"))
    result = regraft.update(model, new, out=tmp_path / "out", report="none", quiet=True)
    found = {path: split for (root, path), split in splits(result.candidate or result.model).items() if root == "1"}
    for split, paths in wanted.items():
        assert {found[path.replace("/", f"/{split}-")] for path in paths} == {split}
    assert "8 new images are copies of old ones" in " ".join(map(str, result.findings))
    assert result.training.features.computed == 0


def test_groups_stay_whole(digits: Path, tmp_path: Path) -> None:
    def grouped(folder: Path, part: slice, first: int) -> Path:
        """Pictures whose names begin with a group: 8 groups among the old, the first two and two more in the new."""
        for label in LABELS:
            (folder / label).mkdir(parents=True)
            for number, file in enumerate(sorted((digits / "old" / label).iterdir())[part]):
                shutil.copy(file, folder / label / f"g{first + number % (8 if not first else 4)}-{file.name}")
        return folder

    old, new = grouped(tmp_path / "old", slice(0, 24), 0), grouped(tmp_path / "new", slice(24, 32), 6)
    out = tmp_path / "model"
    regraft.train(old, out=out, group=r"(g\d+)-", test_share=0.3, report="none", quiet=True)
    result = regraft.update(out, new, report="none", quiet=True, tolerance=0.99)
    sides: dict[str, set[str]] = {}
    for row in rows(result.candidate or result.model):
        sides.setdefault(Path(row["path"]).name.partition("-")[0], set()).add(row["split"])
    assert len(sides) == 10
    assert all(len(found) == 1 for found in sides.values()), sides


# -- not promoted ----------------------------------------------------------------------------------


def test_mislabelled_images_do_not_replace_the_model(model: Path, digits: Path, tmp_path: Path,
                                                     capsys: pytest.CaptureFixture[str]) -> None:
    wrong = mislabelled(digits, tmp_path / "wrong", 20)
    before = contents(model)
    done = regraft_cli("update", model, wrong, "--report", "none")
    assert done.returncode == 3, done.stderr
    assert contents(model) == before
    (candidate,) = tmp_path.glob("model.update-*")
    assert f"was not updated; the candidate stays in {candidate}" in done.stdout
    assert "worse on the old test images alone" in done.stdout
    assert "the old model does worse on the new images, or their labels are wrong" in done.stdout
    assert regraft.load(candidate).classes == tuple(LABELS)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", candidate.name, "wrong"]
    again = regraft.update(model, wrong, report="none")
    assert "the candidate is finished already" in capsys.readouterr().err
    assert (again.promoted, again.exit_code, again.candidate, again.previous) == (False, 3, str(candidate), None)
    assert contents(model) == before


def test_a_class_that_vanished_is_not_lost_in_silence(base: Path, digits: Path, tmp_path: Path, model: Path) -> None:
    fewer = shutil.copytree(digits / "old", tmp_path / "fewer")
    shutil.rmtree(fewer / "3")
    new = shutil.copytree(digits / "new", tmp_path / "new")
    shutil.rmtree(new / "3")
    result = regraft.update(model, new, originals=fewer, report="none", quiet=True)
    assert not result.promoted
    assert result.vanished_classes == ("3",)
    assert "the candidate no longer knows 3" in repr(result)
    assert "40 images of the old training are gone" in " ".join(map(str, result.findings))
    assert contents(model) == contents(base)


# -- killed ----------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="Windows has no such signal")
def test_killed_in_the_training_the_same_command_finishes(base: Path, model: Path, digits: Path, tmp_path: Path,
                                                          ) -> None:
    command = ["update", str(model), str(digits / "new"), "--out", str(tmp_path / "out"), "--store",
               str(tmp_path / "store")]
    with subprocess.Popen([sys.executable, "-m", "regraft.cli", *command], stdout=subprocess.DEVNULL,
                          stderr=subprocess.DEVNULL) as process:
        until(lambda: (tmp_path / "out" / "run" / "plan.json").exists())
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert not (tmp_path / "out" / "manifest.json").exists()
    assert contents(model) == contents(base)
    done = regraft_cli(*command)
    assert done.returncode == 0, done.stderr
    assert "continuing in" in done.stderr
    assert model_digest(model) != model_digest(base)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="Windows has no such signal")
@pytest.mark.parametrize("wait", [0.0, 0.001])
def test_killed_in_the_promotion_there_is_one_whole_model(base: Path, model: Path, digits: Path, tmp_path: Path,
                                                          wait: float) -> None:
    command = ["update", str(model), str(digits / "new")]
    with subprocess.Popen([sys.executable, "-m", "regraft.cli", *command], stdout=subprocess.DEVNULL,
                          stderr=subprocess.DEVNULL) as process:
        until(lambda: (tmp_path / ".model.promotion.json").exists() or model_digest(model) != model_digest(base))
        time.sleep(wait)
        process.send_signal(signal.SIGKILL)
    assert regraft.load(model).classes == tuple(LABELS)
    done = json_of(*command)
    assert done["promoted"]
    whole(model, Path(done["previous"]), base)


def whole(model: Path, previous: Path, base: Path) -> None:
    """The promotion is finished: the new model in its place, the old one beside it, nothing else."""
    assert regraft.load(model).digest != model_digest(base)
    assert contents(previous) == contents(base)
    assert sorted(path.name for path in model.parent.iterdir()) == [model.name, previous.name]


@pytest.mark.parametrize("state", ["before", "exchanged", "moved away"])
def test_a_promotion_that_was_stopped_is_finished(updated: UpdateResult, base: Path, digits: Path, tmp_path: Path,
                                                  state: str) -> None:
    model, previous, candidate = (tmp_path / name for name in ("model", "model.before", "model.candidate"))
    new, old = {"before": (candidate, model), "exchanged": (model, candidate),
                "moved away": (candidate, previous)}[state]
    shutil.copytree(updated.model, new)
    shutil.copytree(base, old)
    name = json.loads((new / "run" / "settings.json").read_text("utf-8"))["settings"]["update"]
    (tmp_path / ".model.promotion.json").write_text(json.dumps({
        "format_version": 1, "candidate": str(candidate), "previous": str(previous), "update": name}))
    result = regraft.update(model, digits / "new", out=candidate, quiet=True)
    assert result.promoted
    whole(model, previous if state != "before" else Path(result.previous or ""), base)


def until(happened: Any) -> None:
    end = time.monotonic() + 120
    while not happened():
        assert time.monotonic() < end, "it never came so far"
        time.sleep(0.0002)


# -- other trainings -------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_training_by_steps_is_repeated_with_its_plan(digits: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    plan = tmp_path / "plan.toml"
    plan.write_text('name = "short"\n[[phases]]\nname = "head"\nlearns = "head"\nepochs = 1\n', "utf-8")
    regraft.train(digits / "old", out=model, plan=plan, report="none", quiet=True)
    plan.unlink()  # the run keeps it
    before = splits(model)
    result = regraft.update(model, digits / "new", tolerance=0.99, report="none", quiet=True)
    assert result.training.strategy == "short"
    assert result.training.epochs
    after = splits(result.candidate or result.model)
    assert {key: after[key] for key in before} == before
    assert {"train", "validation", "test"} >= set(after.values())


# -- refused ---------------------------------------------------------------------------------------


def test_what_can_not_be_updated_is_refused(model: Path, base: Path, digits: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="is no model folder"):
        regraft.update(tmp_path / "none", digits / "new", quiet=True)
    with pytest.raises(DataError, match="none does not exist"):
        regraft.update(model, tmp_path / "none", quiet=True)
    with pytest.raises(DataError, match=r"none of the 160 images of .*; say where they are with --originals DATA"):
        regraft.update(model, digits / "old", originals=digits / "new", quiet=True)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").touch()
    with pytest.raises(OutputError, match="is neither empty nor the folder of a run"):
        regraft.update(model, digits / "new", out=tmp_path / "full", quiet=True)
    with pytest.raises(OutputError, match="holds another model"):
        regraft.update(model, digits / "new", out=base, quiet=True)
    assert contents(model) == contents(base)
    settings, features = model / "run" / "settings.json", tmp_path / "features.h5"
    features.touch()
    begun = json.loads(settings.read_text("utf-8"))
    for change, words in (({"module": "Net"}, "a network of your own"), ({"data": str(features)}, "a file of features"),
                          ({"data": "gone"}, "are not at gone any more; say where they are with --originals DATA")):
        settings.write_text(json.dumps({**begun, "settings": {**begun["settings"], **change}}), "utf-8")
        with pytest.raises((UsageError, DataError), match=words):
            regraft.update(model, digits / "new", quiet=True)
    settings.unlink()
    with pytest.raises(ModelError, match="keeps no settings of its training"):
        regraft.update(model, digits / "new", quiet=True)


def test_without_test_images_there_is_nothing_to_compare(digits: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    regraft.train(digits / "old", out=model, no_test=True, report="none", quiet=True)
    with pytest.raises(UsageError, match="was trained without test images"):
        regraft.update(model, digits / "new", quiet=True)
    (tmp_path / "own").mkdir()
    shutil.copytree(digits / "new", tmp_path / "own" / "test")
    result = regraft.update(model, tmp_path / "own", report="none", quiet=True)
    assert result.comparison.n == 16
    assert result.old_test is None
