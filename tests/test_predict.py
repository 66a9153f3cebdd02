"""``predict`` and ``load``: one answer through every door, in any company."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import regraft
from regraft.errors import DataError, UsageError
from regraft.records.results import TrainResult
from tests.doors import json_of, regraft_cli


def test_command_line_and_python_agree_to_the_last_digit(trained: TrainResult, crops: Path) -> None:
    file = crops / "palace" / "003.jpg"
    document = json_of("predict", trained.out, file)
    answer = regraft.load(trained.out).predict(file)
    assert document == answer.to_dict()
    assert document == regraft.predict(trained.out, file).to_dict()
    assert set(document["predictions"][0]) == {"path", "label", "probability", "probabilities", "unknown", "error",
                                               "novelty", "decision", "labels"}
    assert answer.label == "palace"
    assert answer.probabilities is not None
    assert sum(answer.probabilities.values()) == pytest.approx(1, abs=1e-12)
    assert answer.probability == max(answer.probabilities.values())
    assert answer[0].unknown is None


def test_the_answer_does_not_depend_on_the_company(trained: TrainResult, crops: Path) -> None:
    model = regraft.load(trained.out)
    files = sorted(crops.rglob("*.jpg"))[:11]
    together = model.predict(files)
    assert [p.path for p in together] == [str(f) for f in files]
    for i in (0, 3, 10):
        assert model.predict(files[i])[0] == together[i]


def test_what_evaluate_and_train_report_are_these_answers(trained: TrainResult, crops: Path) -> None:
    with (Path(trained.out) / "run" / "splits.csv").open(newline="") as file:
        test = [crops / row["path"] for row in csv.DictReader(file) if row["split"] == "test"]
    answers = regraft.load(trained.out).predict(test)
    assert trained.test is not None
    right = [p.label == Path(p.path).parent.name for p in answers]
    assert np.mean(right) == pytest.approx(trained.test.accuracy.value)
    losses = [-np.log((p.probabilities or {})[Path(p.path).parent.name]) for p in answers]
    assert np.mean(losses) == pytest.approx(trained.test.log_loss, rel=1e-12)


def test_a_folder_with_broken_files(trained: TrainResult, crops: Path, tmp_path: Path) -> None:
    folder = tmp_path / "mixed"
    folder.mkdir()
    (folder / "a.jpg").write_bytes((crops / "palace" / "000.jpg").read_bytes())
    (folder / "b.jpg").write_text("this is text")
    (folder / "c.jpg").write_bytes((crops / "flower" / "000.jpg").read_bytes())
    done = regraft_cli("predict", trained.out, folder, tmp_path / "none.jpg", "--csv", tmp_path / "out.csv")
    assert done.returncode == 1
    lines = done.stdout.strip().splitlines()
    assert len(lines) == 4
    assert lines[1] == f"{folder / 'b.jpg'}: is no image of a known format (it looks like text)"
    assert lines[3] == f"{tmp_path / 'none.jpg'}: does not exist"
    assert "Traceback" not in done.stderr
    rows = list(csv.DictReader((tmp_path / "out.csv").read_text().splitlines()))
    assert [row["label"] for row in rows] == ["palace", "", "flower", ""]
    document = json_of("predict", trained.out, folder, exit_code=1)
    assert [p["label"] for p in document["predictions"]] == ["palace", None, "flower"]
    assert document["predictions"][1]["error"] == "is no image of a known format (it looks like text)"
    assert all(document["predictions"][1][key] is None for key in ("probability", "probabilities", "unknown"))


def test_pictures_in_memory_are_the_file_they_came_from(trained: TrainResult, crops: Path, tmp_path: Path) -> None:
    model = regraft.load(trained.out)
    with Image.open(crops / "flower" / "001.jpg") as opened:
        picture = opened.convert("RGB")
    picture.save(tmp_path / "lossless.png")
    from_file = model.predict(tmp_path / "lossless.png").probabilities
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    for source in (picture, np.asarray(picture), buffer.getvalue()):
        assert model.predict(source).probabilities == from_file
    bad = model.predict(np.zeros((4, 4), np.uint8))
    assert "give uint8 [height, width, 3]" in (bad[0].error or "")


def test_several_are_no_single_answer(trained: TrainResult, crops: Path, tmp_path: Path) -> None:
    answers = regraft.load(trained.out).predict(crops / "palace")
    assert len(answers) == 20
    assert [p.path for p in answers[:2]] == [str(crops / "palace" / name) for name in ("000.jpg", "001.jpg")]
    with pytest.raises(UsageError, match="there are 20 predictions"):
        _ = answers.label
    with pytest.raises(DataError, match="holds no pictures"):
        regraft.load(trained.out).predict(tmp_path)


def test_a_model_needs_nothing_of_its_run(trained: TrainResult, crops: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(trained.out, tmp_path / "alone", ignore=shutil.ignore_patterns("run"))
    file = crops / "palace" / "005.jpg"
    assert regraft.load(tmp_path / "alone").predict(file) == regraft.load(trained.out).predict(file)


def test_notebook_and_terminal_show_names_escaped(trained: TrainResult) -> None:
    answer = regraft.load(trained.out).predict("no\nsuch<b>.jpg")
    assert "\n" not in repr(answer)
    assert "<b>" not in answer._repr_html_()
    assert json.loads(json.dumps(answer.to_dict()))["predictions"][0]["path"] == "no\nsuch<b>.jpg"
