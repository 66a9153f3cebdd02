"""Exported files answer without PyTorch; so do models of the bundled backbone, which train without it too."""

from __future__ import annotations

import csv
import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import regraft
from regraft.data.view import view0
from regraft.engines.light import light_engine, lightened
from regraft.errors import ImageError, ModelError, OutputError, SettingsError, UsageError
from regraft.networks.lite import load_lite
from regraft.records.networks import Readout
from regraft.records.preprocessing import Preprocessing
from regraft.records.results import ExportResult, TrainResult
from regraft.runtime import OnnxModel, load_onnx
from tests.doors import json_of, regraft_cli, without_torch


@pytest.fixture(scope="module")
def file(exported: ExportResult) -> OnnxModel:
    return load_onnx(exported.out)


def close(given: Any, expected: Any) -> None:
    """The same labels and verdicts, and probabilities as near as engines are."""
    for key in ("label", "unknown", "decision", "labels"):
        assert [p[key] for p in given["predictions"]] == [p[key] for p in expected["predictions"]]
    for one, other in zip(given["predictions"], expected["predictions"], strict=True):
        assert one["probabilities"] == pytest.approx(other["probabilities"], abs=1e-4)
        assert one["novelty"] == pytest.approx(other["novelty"], abs=1e-3)


def test_a_file_answers_as_its_folder_does_and_never_asks_for_torch(exported: ExportResult, crops: Path) -> None:
    expected = regraft.predict(exported.model, crops, quiet=True).to_dict()
    close(without_torch("predict", exported.out, crops, "--quiet"), expected)
    loaded = regraft.load(exported.out)
    assert isinstance(loaded, OnnxModel)
    assert loaded.predict(crops).to_dict() == regraft.predict(exported.out, crops, quiet=True).to_dict()
    assert (loaded.classes, loaded.digest) == (("flower", "palace"), exported.model_digest)


def earlier(exported: str, path: Path, unknown: str = "null") -> Path:
    """The same file as an earlier version wrote it: no output for the novelty, and nothing said of precision."""
    proto = onnx.load(exported)
    del proto.graph.output[2]
    texts = {entry.key: entry.value for entry in proto.metadata_props if entry.key not in ("precision", "agreement")}
    onnx.helper.set_model_props(proto, {**texts, "format_version": "2", "unknown": unknown})
    onnx.save(proto, path)
    return path


def test_files_of_the_version_before_still_answer(exported: ExportResult, crops: Path, tmp_path: Path) -> None:
    expected = regraft.predict(exported.out, crops, quiet=True)
    assert expected[0].novelty is not None
    found = regraft.load(earlier(exported.out, tmp_path / "old.onnx")).predict(crops)
    assert [answer.probabilities for answer in found] == [answer.probabilities for answer in expected]
    assert {(answer.unknown, answer.novelty) for answer in found} == {(None, None)}
    softmax = json.dumps({"format_version": 1, "kind": "softmax", "threshold": 0.2, "accept": 0.95, "accepted": 0.95,
                          "chosen_by": "", "tried": {}})
    for answer in regraft.load(earlier(exported.out, tmp_path / "old.onnx", softmax)).predict(crops):
        assert answer.novelty == pytest.approx(1 - (answer.probability or 0))
        assert answer.unknown is ((answer.novelty or 0) > 0.2)
    distance = softmax.replace("softmax", "relative_mahalanobis")
    with pytest.raises(ModelError, match="gives other things than what it tells"):
        regraft.load(earlier(exported.out, tmp_path / "old.onnx", distance))


def test_pixels_and_run_are_the_way_of_predict(file: OnnxModel, crops: Path) -> None:
    files = sorted(crops.rglob("*.jpg"))[17:23]
    opened = [path.open("rb") for path in files[:2]]
    sources: list[Any] = [*opened, files[2].read_bytes(), str(files[3]), *files[4:]]
    P_NK = file.run(np.stack([file.pixels(source) for source in sources]))
    for one in opened:
        one.close()
    assert P_NK.dtype == np.float64
    assert P_NK.shape == (6, 2)
    answers = file.predict(files)
    assert [answer.probabilities for answer in answers] == [
        dict(zip(file.classes, row.tolist(), strict=True)) for row in P_NK]
    assert file.predict(files[3])[0] == answers[3]  # alone as in company
    with pytest.raises(ImageError):
        file.pixels(b"no picture")
    with pytest.raises(UsageError, match="runs on the processor"):
        file.predict(files, device="cuda")


def test_evaluate_says_of_a_file_what_it_says_of_its_folder(exported: ExportResult, crops: Path) -> None:
    by_file, by_folder = (regraft.evaluate(model, crops, quiet=True) for model in (exported.out, exported.model))
    assert by_file.seen_in_training == by_folder.seen_in_training == 32
    assert (by_file.confusion, by_file.majority) == (by_folder.confusion, by_folder.majority)
    assert by_file.log_loss == pytest.approx(by_folder.log_loss, abs=1e-4)


def test_other_files_are_refused_in_one_line(exported: ExportResult, tmp_path: Path) -> None:
    whole = Path(exported.out).read_bytes()
    outside = onnx.load(exported.out)
    onnx.external_data_helper.set_external_data(outside.graph.initializer[0], "weights.bin")
    outside.graph.initializer[0].ClearField("raw_data")
    foreign = onnx.load(exported.out)
    del foreign.metadata_props[:]
    other = onnx.load(exported.out)
    for entry in other.metadata_props:
        if entry.key == "labels":
            entry.value = '["a", "b", "c"]'
        elif entry.key == "training_counts":
            entry.value = "[1, 1, 1]"
    for content, message in ((b"text, no network", "no protocol buffer|in the middle"),
                             (whole[:len(whole) // 2], "in the middle"),
                             (outside.SerializeToString(), "lie in another file"),
                             (foreign.SerializeToString(), "its format_version is None"),
                             (other.SerializeToString(), "takes and gives other things")):
        (tmp_path / "model.onnx").write_bytes(content)
        with pytest.raises(ModelError, match=message) as error:
            regraft.load(tmp_path / "model.onnx")
        assert "\n" not in str(error.value)
    with pytest.raises(ModelError, match="does not exist"):
        regraft.load(tmp_path / "none.onnx")


def test_tables_hold_a_row_for_each_image(exported: ExportResult, crops: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.jpg").write_text("text")
    paths = [crops, tmp_path / "broken.jpg"]
    answers = regraft.predict(exported.out, paths, quiet=True)
    result: Any = regraft.predict(exported.out, paths, out=tmp_path / "t.jsonl", quiet=True)
    rows = [json.loads(line) for line in (tmp_path / "t.jsonl").read_text().splitlines()]
    assert [(row["path"], row["label"], row["probability"], row["error"]) for row in rows] == [
        (p.path, p.label, p.probability, p.error) for p in answers]
    assert rows[0]["runner_up_probability"] == pytest.approx(1 - rows[0]["probability"], abs=1e-6)
    assert {rows[0]["label"], rows[0]["runner_up"]} == {"flower", "palace"}
    assert {row["model_digest"] for row in rows} == {exported.model_digest}
    assert (result.images, result.errors, sum(result.labels.values())) == (41, 1, 40)
    parquet = pytest.importorskip("pyarrow.parquet")
    for name in ("t.csv", "t.parquet"):
        regraft.predict(exported.out, paths, out=tmp_path / name, quiet=True)
    assert parquet.read_table(tmp_path / "t.parquet").to_pylist() == rows
    with (tmp_path / "t.csv").open(newline="") as text:
        assert list(csv.DictReader(text)) == [
            {name: "" if cell is None else str(cell) for name, cell in row.items()} for row in rows]
    assert {path.name for path in tmp_path.iterdir()} == {"broken.jpg", "t.csv", "t.jsonl", "t.parquet"}
    with pytest.raises(SettingsError, match=r"must end in \.csv, \.parquet, \.jsonl"):
        regraft.predict(exported.out, paths, out="t.xlsx")


def test_killed_and_continued_no_row_is_lost_or_doubled(exported: ExportResult, crops: Path, tmp_path: Path) -> None:
    folder = tmp_path / "many"
    for i in range(3):
        shutil.copytree(crops, folder / str(i))
    command = ["predict", exported.out, folder, "--out", tmp_path / "t.csv", "--quiet"]
    journal = tmp_path / ".t.csv.part"
    running = subprocess.Popen([sys.executable, "-m", "regraft.cli", *map(str, command)])
    while not journal.exists() or journal.read_bytes().count(b"\n") < 20:
        assert running.poll() is None
        time.sleep(0.01)
    running.send_signal(signal.SIGKILL)
    running.wait()
    with journal.open("ab") as torn:
        torn.write(b'{"path": "half a li')
    document = json_of(*command)
    assert 19 <= document["continued"] < document["images"] == 120
    with (tmp_path / "t.csv").open(newline="") as text:
        assert [row["path"] for row in csv.DictReader(text)] == sorted(map(str, folder.rglob("*.jpg")))
    assert not journal.exists()


def test_pictures_are_copied_into_folders_by_class(exported: ExportResult, crops: Path, tmp_path: Path) -> None:
    folder = tmp_path / "sorted"
    for _ in range(2):  # again: what is there stays as it is
        answers = regraft.predict(exported.out, [crops, crops / "palace"], sort_into=folder, quiet=True)
        copies = sorted(path for path in folder.rglob("*") if path.is_file())
        assert len(copies) == len(answers) == 60
    assert {path.parent.name for path in copies} == {"flower", "palace"}
    assert {path.name for path in (folder / "palace").iterdir()} >= {"000.jpg", "000-2.jpg"}
    (folder / "palace" / "000.jpg").write_text("something else")
    with pytest.raises(OutputError, match="is another picture"):
        regraft.predict(exported.out, crops, sort_into=folder, quiet=True)


def test_training_evaluating_and_predicting_without_torch(trained: TrainResult, crops: Path, tmp_path: Path) -> None:
    out = tmp_path / "model"
    result = without_torch("train", crops, "--out", out, "--store", tmp_path / "store", "--quiet")
    assert result["features"] == {"computed": 40, "reused": 0}
    figures = without_torch("evaluate", out, crops, "--store", tmp_path / "store", "--quiet")
    assert figures["accuracy"]["value"] > 0.9
    close(without_torch("predict", out, crops, "--quiet"), regraft.predict(out, crops, quiet=True).to_dict())
    close(without_torch("predict", trained.out, crops, "--quiet"),
          regraft.predict(trained.out, crops, quiet=True).to_dict())
    for asked in (["--strategy", "partial"], ["--backbone", "resnet18"], ["--device", "cuda"]):
        told = without_torch("train", crops, "--out", tmp_path / asked[1], "--quiet", *asked, exit_code=1)
        assert told.strip().count("\n") == 0
        assert told.strip().endswith('install it with: pip install "regraft[train]"')


@pytest.mark.parametrize(("name", "size"), [("efficientnet_lite0", 224), ("efficientnet_lite0", 97),
                                            ("efficientnet_lite1", 240), ("efficientnet_lite2", 260)])
def test_the_network_without_torch_is_the_one_with_it(name: str, size: int, crops: Path) -> None:
    from regraft.engines.pytorch import PyTorchEngine
    from regraft.networks.build import load_backbone

    light, heavy = load_lite(name, "testing"), load_backbone(name, size=size)
    for attribute in ("name", "digest", "readouts", "input", "architecture", "licence"):
        assert getattr(light, attribute) == getattr(heavy, attribute)
    rules = Preprocessing(size=size)
    pixels = np.stack([view0(path, rules).pixels for path in sorted(crops.rglob("*.jpg"))[19:21]])
    expected_BD = PyTorchEngine(heavy.module, heavy.readouts, rules, "cpu").run(pixels)
    engine = light_engine(light, light.readouts, rules, "cpu")
    assert engine.key == "onnxruntime-cpu-fp32"
    np.testing.assert_allclose(engine.run(pixels), expected_BD, atol=1e-4 * np.abs(expected_BD).max())


@pytest.mark.parametrize(("stage", "size"), [("stage7", 224), ("stage1", 97), ("stage8", 97)])
def test_the_front_without_torch_is_the_one_with_it(stage: str, size: int, crops: Path, tmp_path: Path) -> None:
    """A changed network too: its weights are those of now."""
    import torch

    from regraft.engines.onnxruntime import ONNXRuntimeEngine
    from regraft.engines.pytorch import PyTorchEngine
    from regraft.networks.build import load_backbone
    from regraft.networks.graph import Graph, Prefix
    from regraft.training.batches import AT_CUT

    network = load_backbone("efficientnet_lite0", size=size)
    with torch.no_grad():
        network.module.get_parameter("bn1.bias").add_(0.1)
    graph = Graph(network.module, size, network.readouts)
    cut = next(cut for cut in graph.cuts if cut.position == graph.stage_ends[stage])
    light = lightened("efficientnet_lite0", network.module, network.readouts, "cpu", "auto")
    assert light is not None
    before = graph.readouts_before(cut)
    assert stage in [readout.name for readout in before]
    readouts, rules = (*before, Readout(AT_CUT, "", "none", cut.numbers)), Preprocessing(size=size)
    pixels = np.stack([view0(path, rules).pixels for path in sorted(crops.rglob("*.jpg"))[19:21]])
    expected_BD = PyTorchEngine(Prefix(graph, cut, before), readouts, rules, "cpu").run(pixels)
    (tmp_path / "front.onnx").write_bytes(light.before(stage).onnx(readouts, rules, 2))
    found_BD = ONNXRuntimeEngine(tmp_path / "front.onnx", readouts, rules, 2).run(pixels)
    np.testing.assert_allclose(found_BD, expected_BD, atol=1e-4 * np.abs(expected_BD).max())


@pytest.mark.parametrize("stage", ["stage1", "stage6", "stage8"])
def test_a_stage_is_read_as_it_is_without_torch(stage: str, crops: Path, tmp_path: Path) -> None:
    from regraft.engines.onnxruntime import ONNXRuntimeEngine
    from regraft.engines.pytorch import PyTorchEngine
    from regraft.networks.build import load_backbone
    from regraft.networks.readouts import read_as

    network, rules = load_backbone("efficientnet_lite0", size=97), Preprocessing(size=97)
    readouts = (network.readouts[-1], read_as(f"{stage}/flatten", network.module, network.readouts, 97))
    light = lightened("efficientnet_lite0", network.module, readouts, "cpu", "auto")
    assert light is not None
    pixels = np.stack([view0(path, rules).pixels for path in sorted(crops.rglob("*.jpg"))[19:21]])
    expected_BD = PyTorchEngine(network.module, readouts, rules, "cpu").run(pixels)
    (tmp_path / "whole.onnx").write_bytes(light.onnx(readouts, rules, 2))
    found_BD = ONNXRuntimeEngine(tmp_path / "whole.onnx", readouts, rules, 2).run(pixels)
    np.testing.assert_allclose(found_BD, expected_BD, atol=1e-4 * np.abs(expected_BD).max())


def test_what_needs_pytorch_is_not_lightened() -> None:
    from regraft.networks.build import load_backbone
    from regraft.networks.readouts import read_as

    network = load_backbone("efficientnet_lite0")
    pooled = network.readouts
    inside = read_as("blocks.4.0/mean", network.module, pooled, 224)
    assert lightened("efficientnet_lite0", network.module, pooled, "cpu", "auto") is not None
    assert lightened("efficientnet_lite0", network.module, pooled, "cpu", "pytorch") is None
    assert lightened("efficientnet_lite0", network.module, (*pooled, inside), "cpu", "auto") is None
    assert lightened("torch:mine", network.module, pooled, "cpu", "auto") is None


def test_the_command_line_counts_what_it_wrote(exported: ExportResult, crops: Path, tmp_path: Path) -> None:
    done = regraft_cli("predict", exported.out, crops, "--out", tmp_path / "t.csv", "--quiet")
    assert done.returncode == 0
    assert done.stdout.startswith(f"40 images in {tmp_path / 't.csv'}: flower 20, palace 20")
