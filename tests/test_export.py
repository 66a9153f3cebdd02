"""``export``: one file that answers as the model does, or none at all."""

from __future__ import annotations

import csv
import json
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import regraft
from regraft import manifest
from regraft.data.view import view0
from regraft.errors import ExportError, ModelError, OutputError, SettingsError
from regraft.exports import agreement
from regraft.heads.linear import LinearHead
from regraft.model import Model
from regraft.networks import onnx_graph
from regraft.progress import Silent
from regraft.records.exported import OPSET, export_names
from regraft.records.preprocessing import Preprocessing
from regraft.records.results import ExportResult, TrainResult
from regraft.runs.export import Compared, images
from regraft.runs.serve import open_model
from regraft.runtime import OnnxModel, load_onnx
from tests.conftest import write_crops
from tests.doors import regraft_cli, without_torch


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_the_file_its_record_and_the_folder(exported: ExportResult, trained: TrainResult) -> None:
    out = Path(exported.out)
    assert names(out.parent) - names(Path(trained.out)) == {"model.onnx", "model.onnx.json"}
    assert (exported.format, exported.opset, exported.bytes) == ("onnx", 18, out.stat().st_size)
    assert exported.sha256 == manifest.file_digest(out)
    assert json.loads((out.parent / "model.onnx.json").read_text()) == exported.to_dict()
    assert exported.agreement.splits == {"validation": 0, "train": 32}
    assert (exported.agreement.images, exported.agreement.labels_equal, exported.agreement.unreadable) == (32, 32, 0)
    assert 0 <= exported.agreement.largest_probability_difference < 1e-5
    assert 0 <= exported.agreement.largest_logit_difference < 1e-4
    assert "same label as the model on 32 of 32 images (train 32)" in repr(exported)
    assert (exported.precision, exported.outputs) == ("fp32", ("probabilities", "logits", "novelty"))
    assert exported.files == {"model.onnx": exported.sha256}
    assert (exported.agreement.labelled, exported.agreement.accuracy_change, exported.agreement.unknown_equal) == (
        32, 0.0, 32)
    assert 0 <= (exported.agreement.largest_novelty_difference or 0) < 1e-3
    assert regraft.load(exported.model).classes == ("flower", "palace")


def test_the_file_alone_answers_as_the_model_does(exported: ExportResult, crops: Path) -> None:
    """With ONNX Runtime and what the file says about itself, in batches of every size."""
    session = onnxruntime.InferenceSession(exported.out, providers=["CPUExecutionProvider"])
    about = session.get_modelmeta().custom_metadata_map
    assert set(about) == {"format_version", "labels", "preprocessing", "model_digest", "regraft_version", "decoder",
                          "backbone", "head", "training_counts", "seen", "decision", "unknown", "precision",
                          "agreement", "self_test", "file_digest"}
    assert (about["format_version"], about["regraft_version"]) == ("3", regraft.__version__)
    assert (about["precision"], about["agreement"]) == ("fp32", "null")
    threshold = json.loads(about["unknown"])["threshold"]
    digest = json.loads((Path(exported.model) / manifest.NAME).read_text())["digest"]
    assert about["model_digest"] == exported.model_digest == digest
    labels, rules = json.loads(about["labels"]), Preprocessing.from_dict(json.loads(about["preprocessing"]))
    files = sorted(crops.rglob("*.jpg"))
    answers = regraft.load(exported.model).predict(files)
    pixels_NHWC = np.stack([view0(file.read_bytes(), rules).pixels for file in files])
    for size in (1, 2, 5, 64):
        rows = [i % len(files) for i in range(size)]
        P_NK, L_NK, novelty_N = session.run(["probabilities", "logits", "novelty"], {"pixels": pixels_NHWC[rows]})
        assert (novelty_N.dtype, novelty_N.shape) == (np.float32, (size,))
        assert novelty_N == pytest.approx([answers[row].novelty for row in rows], abs=1e-3)
        assert (novelty_N > threshold).tolist() == [answers[row].unknown for row in rows]
        assert (P_NK.dtype, P_NK.shape, L_NK.dtype, L_NK.shape) == (np.float32, (size, 2), np.float32, (size, 2))
        for row, P_K in zip(rows, P_NK, strict=True):
            assert labels[P_K.argmax()] == answers[row].label
            assert answers[row].probabilities == pytest.approx(dict(zip(labels, P_K.tolist(), strict=True)), abs=1e-4)


def test_one_file_that_tells_nothing_of_the_machine(exported: ExportResult) -> None:
    proto = onnx.load(exported.out, load_external_data=False)
    assert [(entry.domain, entry.version) for entry in proto.opset_import] == [("", OPSET)]
    assert all(tensor.data_location == onnx.TensorProto.DEFAULT for tensor in proto.graph.initializer)
    (pixels,) = proto.graph.input
    assert [d.dim_param or d.dim_value for d in pixels.type.tensor_type.shape.dim] == ["N", 224, 224, 3]
    assert pixels.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    data = Path(exported.out).read_bytes()
    for trace in (b".py", b"site-packages", b"stack_trace", str(Path(regraft.__file__).parent).encode()):
        assert trace not in data


@pytest.fixture
def folder(trained: TrainResult, tmp_path: Path) -> Path:
    shutil.copytree(trained.out, tmp_path / "model")
    return tmp_path / "model"


def test_a_file_that_answers_otherwise_is_refused(exported: ExportResult, crops: Path) -> None:
    """The exported file of one head beside a model with others."""
    files, file = sorted(crops.glob("*/00[0-4].jpg")), OnnxModel(Path(exported.out).read_bytes())
    loaded = regraft.load(exported.model)
    head = loaded.head
    assert isinstance(head, LinearHead)

    def compare(model: Model = loaded) -> None:
        agreement.check(file, model, files, {"given": len(files)}, Silent())

    for other, message in (
        (LinearHead(head.settings, head.W_DK * np.float32(0.9), head.b_K), r"0 of 10 labels differ, probabilities by"),
        (LinearHead(head.settings, -head.W_DK, -head.b_K), r"10 of 10 labels differ, such as that of .*000\.jpg"),
    ):
        loaded.head = other
        with pytest.raises(ExportError, match=message):
            compare()
    renamed = replace(loaded.record, classes=("flower", "castle"))
    with pytest.raises(ExportError, match="names other classes"):
        compare(Model(loaded.folder, renamed, head, loaded.seen))


def _wrong_mean(proto: onnx.ModelProto) -> None:
    _change(proto, (1, 3, 1, 1), lambda mean: mean * 0.9)


def _swapped_channels(proto: onnx.ModelProto) -> None:
    _change(proto, (32, 3, 3, 3), lambda kernels: kernels[:, ::-1])


def _other_interpolation(proto: onnx.ModelProto) -> None:
    (rules,) = (entry for entry in proto.metadata_props if entry.key == "preprocessing")
    assert '"bicubic"' in rules.value
    rules.value = rules.value.replace('"bicubic"', '"bilinear"')


def _change(proto: onnx.ModelProto, shape: tuple[int, ...], change: Callable[[Any], Any]) -> None:
    """Change the first tensor of that shape in the file."""
    tensor = next(tensor for tensor in proto.graph.initializer if tuple(tensor.dims) == shape)
    changed = np.ascontiguousarray(change(onnx.numpy_helper.to_array(tensor)), np.float32)
    tensor.CopyFrom(onnx.numpy_helper.from_array(changed, tensor.name))


@pytest.mark.parametrize("plant", [_wrong_mean, _swapped_channels, _other_interpolation])
def test_a_planted_difference_is_refused_saying_by_how_much(
        plant: Callable[[onnx.ModelProto], None], exported: ExportResult, crops: Path) -> None:
    proto = onnx.load(exported.out)
    plant(proto)
    files = sorted(crops.rglob("*.jpg"))[::4]
    told = r"labels differ.*, probabilities by up to \d\.\de[-+]\d\d \(0\.0001 is let pass\), scores by up to \d\.\de"
    with pytest.raises(ExportError, match=told):
        agreement.check(OnnxModel(proto.SerializeToString()), regraft.load(exported.model), files, {"given": 10},
                        Silent())


def _other_novelty(proto: onnx.ModelProto) -> None:
    """The distance from class means that are the square of what they are."""
    (means,) = (tensor for tensor in proto.graph.initializer if tensor.name.endswith("means_1KR"))
    changed = onnx.numpy_helper.to_array(means) * np.float32(1.1)
    means.CopyFrom(onnx.numpy_helper.from_array(changed, means.name))


def _other_threshold(proto: onnx.ModelProto) -> None:
    (unknown,) = (entry for entry in proto.metadata_props if entry.key == "unknown")
    unknown.value = json.dumps({**json.loads(unknown.value), "threshold": -1e6})


@pytest.mark.parametrize("plant", [_other_novelty, _other_threshold])
def test_a_planted_difference_of_the_novelty_is_refused(
        plant: Callable[[onnx.ModelProto], None], exported: ExportResult, crops: Path) -> None:
    proto = onnx.load(exported.out)
    plant(proto)
    with pytest.raises(ExportError, match=r"0 of 5 labels differ, .* novelty by up to \d\.\de"):
        agreement.check(OnnxModel(proto.SerializeToString()), regraft.load(exported.model),
                        sorted(crops.rglob("*.jpg"))[::8], {"given": 5}, Silent())


def _as_int8(proto: onnx.ModelProto) -> OnnxModel:
    """The file as one that calls itself int8."""
    (precision,) = (entry for entry in proto.metadata_props if entry.key == "precision")
    precision.value = "int8"
    return OnnxModel(proto.SerializeToString())


def test_a_lower_precision_may_cost_a_point(exported: ExportResult, crops: Path) -> None:
    """Not the last bits count then, but the answers: a file with its classes swapped is wrong on all."""
    files, loaded = sorted(crops.rglob("*.jpg"))[::4], regraft.load(exported.model)
    labels = {file: file.parent.name for file in files}
    proto = onnx.load(exported.out)
    _other_novelty(proto)
    found = agreement.check(_as_int8(proto), loaded, files, {"given": 10}, Silent(), labels)
    assert (found.labels_equal, found.labelled, found.accuracy_change) == (10, 10, 0.0)
    assert (found.largest_novelty_difference or 0) > 1e-2
    for name in ("weight", "bias"):
        (tensor,) = (one for one in proto.graph.initializer if one.name.endswith(f"head.0.{name}"))
        tensor.CopyFrom(onnx.numpy_helper.from_array(-onnx.numpy_helper.to_array(tensor), tensor.name))
    with pytest.raises(ExportError, match=r"the int8 file is right on 0\.0% of 10 images and the model on 100\.0%, "
                                          r"100\.0 points more; 1 point is let pass; .* take --precision fp16 or fp32"):
        agreement.check(_as_int8(proto), loaded, files, {"given": 10}, Silent(), labels)
    with pytest.raises(ExportError, match=r"gives 10 of 10 images another label than the model, 100\.0% of them; 1 p"):
        agreement.check(_as_int8(proto), loaded, files, {"given": 10}, Silent())
    (tensor,) = (one for one in proto.graph.initializer if one.name.endswith("head.0.bias"))
    tensor.CopyFrom(onnx.numpy_helper.from_array(np.full(tuple(tensor.dims), np.nan, np.float32), tensor.name))
    with pytest.raises(ExportError, match="in int8 this network gives scores that are no numbers"):
        agreement.check(_as_int8(proto), loaded, files, {"given": 10}, Silent())


def test_what_one_file_does_not_hold_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = names(folder)
    monkeypatch.setattr(onnx_graph, "MOST_BYTES", 10**6)
    with pytest.raises(ExportError, match=r"takes [\d,]+ bytes, and one ONNX file holds at most 1,000,000"):
        regraft.export(folder, quiet=True)
    assert names(folder) == before


@pytest.mark.slow
def test_what_is_refused_leaves_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = names(folder)
    monkeypatch.setattr(agreement, "TOLERANCE", 0.0)
    with pytest.raises(ExportError, match=r"does not answer as the model does: .* \(0 is let pass\), .*; nothing was"):
        regraft.export(folder, quiet=True)
    assert names(folder) == before


def test_a_network_that_cannot_be_translated() -> None:
    class Unruly(nn.Module):
        def forward(self, pixels_NHWC: Tensor) -> tuple[Tensor, Tensor]:
            if float(pixels_NHWC.float().mean()) > 0:
                return pixels_NHWC, pixels_NHWC
            return pixels_NHWC, -pixels_NHWC

    with pytest.raises(ExportError) as found:
        onnx_graph.onnx_graph(Unruly(), torch.zeros(2, 8, 8, 3, dtype=torch.uint8), ["a", "b"], any_number=True)
    assert re.fullmatch(r"PyTorch's ONNX exporter can't translate this network \(.+\); take another backbone, or use "
                        r"the model folder itself", str(found.value))


def test_without_images_to_compare_on_there_is_no_file(folder: Path, tmp_path: Path) -> None:
    begun = folder / "run" / "settings.json"
    told = json.loads(begun.read_text())
    for gone in (str(tmp_path / "gone"), "torchvision:Flowers102", "torchvision:../../nothing"):
        begun.write_text(json.dumps({**told, "settings": {**told["settings"], "data": gone}}))
        with pytest.raises(ExportError, match=r"holds none of the images of the training, .* with --data DIR"):
            regraft.export(folder, quiet=True)
    for content in ("{}", "[]", "no json", json.dumps({"settings": {"data": 7}})):
        begun.write_text(content)
        with pytest.raises(ExportError, match=r"does not tell which images it was trained on, .* with --data DIR"):
            regraft.export(folder, quiet=True)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ExportError, match=r"empty holds no pictures, .* with --data DIR"):
        regraft.export(folder, data=tmp_path / "empty", quiet=True)
    assert "model.onnx" not in names(folder)


def test_unreadable_images_are_counted(exported: ExportResult, crops: Path, tmp_path: Path) -> None:
    (tmp_path / "text.jpg").write_text("this is text")
    data, loaded = OnnxModel(Path(exported.out).read_bytes()), regraft.load(exported.model)
    with pytest.raises(ExportError, match=r"none of the 1 images to compare on can be read; give others with --data"):
        agreement.check(data, loaded, [tmp_path / "text.jpg"], {"given": 1}, Silent())
    files = [crops / "palace" / "000.jpg", tmp_path / "text.jpg"]
    found = agreement.check(data, loaded, files, {"given": 2}, Silent())
    assert (found.images, found.unreadable, found.splits) == (1, 1, {"given": 2})


def test_which_images_are_compared(folder: Path, crops: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Validation images, training images up to a number, never test images; others only where they are given."""
    table = folder / "run" / "splits.csv"
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    tested = {crops / row["path"] for row in rows if row["split"] == "test"}
    found = images(folder, None)
    files = found.files
    assert found.splits == {"validation": 0, "train": 32}
    assert found.labels == {file: file.parent.name for file in crops.rglob("*.jpg")}
    assert set(found.learned) == set(files)
    assert set(files) == set(crops.rglob("*.jpg")) - tested
    # Moved images are found by the names that splits.csv gives them.
    shutil.copytree(crops, tmp_path / "moved")
    moved = images(folder, tmp_path / "moved")
    assert [file.relative_to(tmp_path / "moved") for file in moved.files] == [file.relative_to(crops) for file in files]
    held = {row["path"] for row in rows if row["split"] == "train" and row["path"].endswith("7.jpg")}
    table.write_text("path,split\n" + "".join(
        f"{row['path']},{'validation' if row['path'] in held else row['split']}\n" for row in rows))
    monkeypatch.setattr("regraft.runs.export._AT_LEAST", 10)
    found = images(folder, None)
    files = found.files
    assert found.splits == {"validation": len(held), "train": 10 - len(held)}
    assert len(found.learned) == 32 - len(held)
    assert not set(found.learned) & set(files[:len(held)])
    assert {str(file.relative_to(crops)) for file in files[:len(held)]} == held
    assert {file.parent.name for file in files[len(held):]} == {"palace", "flower"}
    monkeypatch.setattr("regraft.runs.export._AT_LEAST", 1)
    assert images(folder, None).splits == {"validation": len(held), "train": 0}
    others = write_crops(tmp_path / "others", 4) / "palace"
    assert images(folder, others) == Compared([others / "000.jpg"], {"given": 1}, {}, [others / "000.jpg"])
    shutil.rmtree(folder / "run")
    assert images(folder, crops).splits == {"given": 1}


def test_images_of_a_table(tmp_path: Path) -> None:
    data = write_crops(tmp_path / "data", 2)
    paths = sorted(str(file.relative_to(data)) for file in data.rglob("*.jpg"))
    (data / "table.csv").write_text("path,label\n" + "".join(f"{path},{Path(path).parent}\n" for path in paths))
    run = tmp_path / "model" / "run"
    run.mkdir(parents=True)
    (run / "settings.json").write_text(json.dumps({"settings": {"data": str(data / "table.csv")}}))
    (run / "splits.csv").write_text("path,split\n" + "".join(f"{path},validation\n" for path in paths))
    found = images(tmp_path / "model", None)
    assert (found.files, found.splits) == ([data / path for path in paths], {"validation": 4, "train": 0})


def test_mistakes_are_told_before_any_work(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"out: 'model\.json' is not allowed; its name must end in \.onnx"):
        regraft.export(folder, out="model.json")
    with pytest.raises(SettingsError, match=r"its name must end in \.xml"):
        regraft.export(folder, format="openvino", out="model.onnx")
    with pytest.raises(SettingsError, match=r"precision: 'int8' is not allowed with --format torch; leave it away"):
        regraft.export(folder, format="torch", precision="int8")
    with pytest.raises(OutputError, match="there is no folder"):
        regraft.export(folder, out=tmp_path / "none" / "a.onnx")
    (tmp_path / "a.onnx").mkdir()
    with pytest.raises(OutputError, match="it is a folder"):
        regraft.export(folder, out=tmp_path / "a.onnx")
    done = regraft_cli("export", tmp_path / "none")
    assert (done.returncode, done.stdout) == (1, "")
    assert "is no model folder" in done.stderr


def test_without_the_extra_it_is_named(folder: Path) -> None:
    code = ("import sys\n"
            "sys.modules['onnxscript'] = None\n"
            "from regraft.cli import main\n"
            f"main(['export', {str(folder)!r}, '--quiet'])\n")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == (
        'error: exporting needs an optional part; install it with: pip install "regraft[train,export]"\n')


def test_a_replaced_model_takes_its_export_with_it(folder: Path, crops: Path) -> None:
    assert {"model.onnx", "model.int8.onnx.json", "model.xml", "model.bin", "model.pt2", "model.timm.safetensors",
            "model.timm.json", "model.timm.safetensors.json"} <= set(export_names())
    for name in export_names():
        (folder / name).write_text("of the first model")
    regraft.load(folder)
    regraft.train(crops, out=folder, seed=3, force=True, quiet=True)
    assert not names(folder) & set(export_names())


@pytest.mark.slow
def test_the_command_line_says_nothing_but_the_result(folder: Path, exported: ExportResult) -> None:
    done = regraft_cli("export", folder, "--quiet", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    document = json.loads(done.stdout)
    assert document["agreement"]["labels_equal"] == 32
    # The same model is the same file.
    assert document["sha256"] == exported.sha256


@pytest.fixture(scope="module")
def on_last(crops: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with a linear head on the last features alone, after one epoch of its last layers."""
    out = tmp_path_factory.mktemp("last") / "model"
    regraft.train(crops, out=out, strategy="partial", set=["head.reads=last", "phases.*.epochs=1"], quiet=True)
    return out


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_lower_precisions_say_what_they_change(precision: Any, folder: Path, crops: Path, exported: ExportResult,
                                               ) -> None:
    found = regraft.export(folder, precision=precision, quiet=True)
    assert (Path(found.out).name, found.precision) == (f"model.{precision}.onnx", precision)
    assert found.bytes < (0.6 if precision == "fp16" else 0.4) * exported.bytes
    seen = found.agreement
    assert (seen.images, seen.labelled, seen.splits) == (32, 32, {"validation": 0, "train": 32})
    assert 0 < seen.largest_probability_difference < 0.5
    assert (seen.accuracy_change or 0) >= -0.01
    assert f", {precision}, " in repr(found)
    assert re.search(r"same label as the model on \d+ of 32 images .*, probabilities within .*accuracy on these",
                     repr(found), flags=re.DOTALL)
    loaded = load_onnx(found.out)
    assert loaded.record.precision == precision
    assert loaded.record.agreement == seen
    assert loaded.record.model_digest == found.model_digest
    assert repr(loaded).endswith(f"as ONNX in {precision}")
    labels = [answer.label for answer in regraft.predict(folder, crops, quiet=True)]
    done = without_torch("predict", found.out, crops, "--quiet")
    assert sum(answer["label"] == label for answer, label in zip(done["predictions"], labels, strict=True)) >= 39
    assert {answer["unknown"] for answer in done["predictions"]} <= {True, False}
    data = Path(found.out).read_bytes()
    own = str(Path(regraft.__file__).parent).encode()
    assert not [trace for trace in (b"site-packages", b"stack_trace", own, str(folder).encode()) if trace in data]
    if precision == "int8":
        proto = onnx.load(found.out)
        assert {"QuantizeLinear", "DequantizeLinear"} <= {node.op_type for node in proto.graph.node}
        assert [(entry.domain, entry.version) for entry in proto.opset_import] == [("", OPSET)]
        shutil.copy(found.out, folder / "model.onnx")
        shutil.copy(found.out + ".json", folder / "model.onnx.json")
        with pytest.raises(ModelError, match=r"model\.onnx is in int8, and a model folder is served as it answers"):
            open_model(folder, Silent())


@pytest.mark.slow
def test_openvino_runs_its_two_files(folder: Path, crops: Path) -> None:
    found = regraft.export(folder, format="openvino", quiet=True)
    assert (found.format, found.opset, found.outputs) == ("openvino", None, ("probabilities", "logits", "novelty"))
    assert set(found.files) == {"model.xml", "model.bin"}
    assert found.bytes == sum((folder / name).stat().st_size for name in found.files)
    assert found.agreement.labels_equal == found.agreement.unknown_equal == found.agreement.images == 32
    import openvino

    graph = openvino.Core().read_model(folder / "model.xml")
    assert json.loads(graph.get_rt_info(["regraft", "labels"]).astype(str)) == ["flower", "palace"]
    picture = crops / "palace" / "000.jpg"
    pixels_1SS3 = view0(picture, regraft.load(folder).record.preprocessing).pixels[None]
    # Left alone, OpenVINO computes in bf16 where the processor can.
    answer = openvino.Core().compile_model(graph, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})(pixels_1SS3)
    expected = regraft.load(folder).predict(picture)[0]
    assert answer["probabilities"][0].argmax() == ["flower", "palace"].index(str(expected.label))
    assert answer["novelty"][0] == pytest.approx(expected.novelty, abs=1e-3)
    assert not [trace for trace in (b".py", b"site-packages", str(folder).encode())
                if trace in (folder / "model.xml").read_bytes()]


@pytest.mark.slow
def test_torch_runs_its_program(folder: Path, crops: Path) -> None:
    """In a process that knows neither Regraft nor timm."""
    found = regraft.export(folder, format="torch", quiet=True)
    assert (Path(found.out).name, found.opset, found.agreement.labels_equal) == ("model.pt2", None, 32)
    files, rules = sorted(crops.rglob("*.jpg"))[18:21], regraft.load(folder).record.preprocessing
    np.save(folder / "pixels.npy", np.stack([view0(file, rules).pixels for file in files]))
    code = ("import sys, json\n"
            "for name in ('regraft', 'timm', 'onnx'): sys.modules[name] = None\n"
            "import numpy, torch\n"
            "about = {'regraft.json': ''}\n"
            f"program = torch.export.load({found.out!r}, extra_files=about).module()\n"
            f"answer = program(torch.from_numpy(numpy.load({str(folder / 'pixels.npy')!r})))\n"
            "labels = json.loads(json.loads(about['regraft.json'])['labels'])\n"
            "print([labels[k] for k in answer['probabilities'].argmax(1)], len(answer['novelty']))\n")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    expected = [answer.label for answer in regraft.load(folder).predict(files)]
    assert done.stdout.strip() == f"{expected} 3"
    with zipfile.ZipFile(found.out) as archive:
        parts = b"".join(archive.read(name) for name in archive.namelist())
    assert not [trace for trace in (b"site-packages", str(Path(regraft.__file__).parent).encode()) if trace in parts]


@pytest.mark.slow
def test_timm_loads_its_weights(on_last: Path, crops: Path) -> None:
    import timm

    found = regraft.export(on_last, format="timm", quiet=True)
    assert (Path(found.out).name, found.outputs) == ("model.timm.safetensors", ("logits",))
    assert set(found.files) == {"model.timm.safetensors", "model.timm.json"}
    assert found.agreement.labels_equal == found.agreement.images == 32
    config = json.loads((on_last / "model.timm.json").read_text())
    network = timm.create_model(config["architecture"], num_classes=config["num_classes"],
                                checkpoint_path=found.out).eval()
    loaded, files = regraft.load(on_last), sorted(crops.rglob("*.jpg"))[18:22]
    pixels = torch.from_numpy(np.stack([view0(file, loaded.record.preprocessing).pixels for file in files]))
    mean, std = (torch.tensor(config["pretrained_cfg"][name]) for name in ("mean", "std"))
    with torch.inference_mode():
        logits = network(((pixels / 255 - mean) / std).permute(0, 3, 1, 2))
    assert [config["label_names"][k] for k in logits.argmax(1)] == [answer.label for answer in loaded.predict(files)]


def test_timm_takes_one_linear_layer_alone(folder: Path) -> None:
    record = regraft.load(folder).record
    assert record.head.readouts != ("last",)
    with pytest.raises(ExportError, match=r"one linear layer on its last features, and this model's head is linear "
                                          r"on last \+ .*; train with --strategy full or partial and --set "
                                          r"head\.reads=last"):
        regraft.export(folder, format="timm", quiet=True)
    assert not names(folder) & set(export_names())


#: Networks of other families, with the side of the image; their weights are random.
FAMILIES = [
    ("resnet18", 64), ("mobilenetv2_100", 64), ("convnext_atto", 64), ("vit_tiny_patch16_224", 224),
    ("torchvision:vgg11", 64), ("densenet121", 64), ("mobilenetv3_small_050", 64), ("regnetx_002", 64),
    ("swin_tiny_patch4_window7_224", 224), ("ghostnet_050", 64), ("mixer_s32_224", 224), ("repvgg_a0", 64),
    ("torchvision:shufflenet_v2_x0_5", 64), ("efficientnet_b0", 64),
]


def random_weights(name: str, size: int, file: Path) -> Path:
    """Weights of a network that has seen nothing, but in which everything is alive."""
    from regraft.networks.build import _architecture
    from regraft.networks.catalogue import resolve

    torch.manual_seed(0)
    network: Any = _architecture(resolve(name), pretrained=False).train()
    with torch.no_grad():  # statistics for the batch norms: without them deep networks give the same for all images
        for _ in range(3):
            network(torch.randn(8, 3, size, size))
    state = {key: tensor.contiguous() for key, tensor in network.state_dict().items()}
    save_file(state, file)
    return file


@pytest.mark.slow
@pytest.mark.parametrize(("name", "size"), FAMILIES)
def test_families(name: str, size: int, crops: Path, tmp_path: Path) -> None:
    weights = random_weights(name, size, tmp_path / "weights.safetensors")
    regraft.train(write_crops(tmp_path / "data", 30), backbone=name, weights=weights, size=size, out=tmp_path / "out",
                  strategy="features", store=tmp_path / "store", quiet=True)
    found = regraft.export(tmp_path / "out", quiet=True).agreement
    assert found.images == found.labels_equal == 48
    assert found.largest_probability_difference < 1e-4
    assert found.largest_logit_difference <= 1e-4 * max(1, found.largest_logit)
