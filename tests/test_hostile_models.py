"""Hostile model folders and files: nothing in them runs, and each is refused at once with an error of ours."""

from __future__ import annotations

import json
import pickle
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from safetensors.numpy import load_file, save_file

import regraft
from regraft import manifest
from regraft.errors import RegraftError
from regraft.model import FILES
from regraft.records.results import ExportResult, TrainResult

#: Seconds that a refusal may take.
AT_ONCE = 1.0


class Malicious:
    """Writes a file when it is unpickled."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.proof,)


@pytest.fixture(scope="module")
def warm(trained: TrainResult, exported: ExportResult, crops: Path) -> Path:
    """A picture; everything that answering imports is there by then."""
    picture = crops / "palace" / "000.jpg"
    for model in (trained.out, exported.out):
        assert regraft.load(model).predict(picture).predictions[0].label == "palace"
    return picture


@pytest.fixture
def folder(trained: TrainResult, tmp_path: Path) -> Path:
    shutil.copytree(trained.out, tmp_path / "model", ignore=shutil.ignore_patterns("run"))
    return tmp_path / "model"


def refused(path: Path, picture: Path, message: str) -> None:
    """Loading and asking it ends at once, in one line."""
    started = time.monotonic()
    with pytest.raises(RegraftError, match=message) as caught:
        regraft.load(path).predict(picture)
    assert time.monotonic() - started < AT_ONCE
    assert "\n" not in str(caught.value)
    assert not (path.parent / "proof").exists()


def pickled(name: str) -> Callable[[Path], None]:
    def plant(folder: Path) -> None:
        (folder / name).write_bytes(pickle.dumps({"weight": Malicious(folder.parent / "proof")}))

    return plant


def header(name: str, length: int, text: bytes = b"{}") -> Callable[[Path], None]:
    def plant(folder: Path) -> None:
        (folder / name).write_bytes(length.to_bytes(8, "little") + text)

    return plant


def tensors(name: str, change: Callable[[dict[str, Any]], dict[str, Any]]) -> Callable[[Path], None]:
    def plant(folder: Path) -> None:
        save_file({key: np.ascontiguousarray(value) for key, value in change(load_file(folder / name)).items()},
                  folder / name)

    return plant


def record(**changes: object) -> Callable[[Path], None]:
    def plant(folder: Path) -> None:
        values = json.loads((folder / "model.json").read_text())
        (folder / "model.json").write_text(json.dumps({**values, **changes}))

    return plant


def nested(folder: Path) -> None:
    (folder / "model.json").write_text("[" * 100_000)


def every(value: float) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda state: {name: np.full_like(tensor, value) if tensor.dtype.kind == "f" else tensor
                          for name, tensor in state.items()}


HEAD, BACKBONE, UNKNOWN = "head.safetensors", "backbone.safetensors", "unknown.safetensors"
UNKNOWN_NOVELTY = {"kind": "relative_mahalanobis", "threshold": float("nan"), "accept": 0.95, "accepted": 0.95,
                   "chosen_by": "", "tried": {}}


@pytest.mark.parametrize(("plant", "message"), [
    (pickled(HEAD), "holds no readable tensors"),
    (pickled(BACKBONE), "holds no readable tensors"),
    (pickled(UNKNOWN), "holds no readable tensors"),
    (header(HEAD, 2**60), "holds no readable tensors"),
    (header(BACKBONE, 10**8), "holds no readable tensors"),
    (header(UNKNOWN, 100_000, b"[" * 100_000), "holds no readable tensors"),
    (nested, "no model that this Regraft can read"),
    (record(backbone="os:system"), "no backbone is called 'os:system'"),
    (record(backbone="../../etc/passwd"), "no backbone is called"),
    (record(head={"kind": "builtins.eval", "readouts": ["last"], "weighting": "equal", "strength": 1.0}), "head.kind"),
    (record(__class__="os.system"), "__class__"),
    (record(unknown=UNKNOWN_NOVELTY), "a number, not nan"),
    (record(temperature=float("nan")), "a positive number, not nan"),
    (tensors(HEAD, every(float("nan"))), "finite"),
    (tensors(UNKNOWN, every(float("inf"))), "finite"),
    (tensors(BACKBONE, every(float("nan"))), "scores that are no numbers"),
    (tensors(HEAD, lambda state: {**state, "weight": state["weight"][:-1]}), "the record says"),
    (tensors(UNKNOWN, lambda state: {**state, "inside": state["inside"][:, :-1]}), "do not fit each other"),
    (tensors(BACKBONE, lambda state: {**state, "conv_stem.weight": state["conv_stem.weight"][:, :1]}),
     r"do not fit efficientnet_lite0: conv_stem\.weight is"),
    (tensors(BACKBONE, lambda state: {**state, "conv_stem.weight": state["conv_stem.weight"].astype(np.float64)}),
     r"do not fit efficientnet_lite0: conv_stem\.weight is"),
])
def test_a_signed_folder_of_a_forger(folder: Path, warm: Path, plant: Callable[[Path], None], message: str) -> None:
    """The manifest fits what lies there: it is no signature."""
    plant(folder)
    files = {name: manifest.file_digest(folder / name) for name in FILES}
    (folder / manifest.NAME).write_text(manifest.manifest_text(files))
    refused(folder, warm, message)


@pytest.mark.parametrize("name", ["../outside", "/etc/passwd", "run/../model.json"])
def test_a_manifest_that_leaves_its_folder(folder: Path, warm: Path, name: str) -> None:
    files = {name: manifest.file_digest(folder / name) for name in FILES}
    (folder / manifest.NAME).write_text(manifest.manifest_text({**files, name: "0" * 64}))
    refused(folder, warm, r"manifest\.json was changed")


def test_a_manifest_too_deep_to_read(folder: Path, warm: Path) -> None:
    (folder / manifest.NAME).write_text("[" * 100_000)
    refused(folder, warm, r"manifest\.json was changed")


def outside(proto: Any) -> None:
    onnx.external_data_helper.set_external_data(proto.graph.initializer[0], "/etc/passwd")
    proto.graph.initializer[0].ClearField("raw_data")


def foreign_operator(proto: Any) -> None:
    proto.opset_import.append(onnx.helper.make_opsetid("evil", 1))
    proto.graph.node[0].domain, proto.graph.node[0].op_type = "evil", "Run"


def deep_text(proto: Any) -> None:
    next(entry for entry in proto.metadata_props if entry.key == "decision").value = "[" * 100_000


def no_numbers(proto: Any) -> None:
    for tensor in proto.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT and tensor.raw_data:
            values = np.full(tuple(tensor.dims), np.nan, np.float32)
            tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))


def without_novelty(proto: Any) -> None:
    del proto.graph.output[2]


@pytest.mark.parametrize(("plant", "message"), [
    (outside, "lie in another file"), (foreign_operator, "no model that `regraft export` wrote"),
    (deep_text, "can't be read"), (no_numbers, "scores that are no numbers"),
    (without_novelty, "gives other things than what it tells"),
])
def test_an_onnx_file_of_a_forger(exported: ExportResult, warm: Path, tmp_path: Path, plant: Callable[[Any], None],
                                  message: str) -> None:
    proto = onnx.load(exported.out)
    plant(proto)
    (tmp_path / "model.onnx").write_bytes(proto.SerializeToString())
    refused(tmp_path / "model.onnx", warm, message)


@pytest.mark.parametrize("content", [
    b"", b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\x7f", b"\xff" * 100_000, bytes(1000), b"\x3a\x80\x80\x80\x80\x08",
], ids=["empty", "endless field", "endless number", "zeros", "length beyond its end"])
def test_bytes_that_are_no_onnx_file(content: bytes, warm: Path, tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(content)
    refused(tmp_path / "model.onnx", warm, "no model that `regraft export` wrote")


def test_a_pickle_that_is_called_onnx(warm: Path, tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(pickle.dumps(Malicious(tmp_path / "proof")))
    refused(tmp_path / "model.onnx", warm, "no model that `regraft export` wrote")


def test_a_class_called_script_stays_a_text(folder: Path, warm: Path) -> None:
    name = "<script>window.ran = 1</script>"
    record(classes=["flower", name])(folder)
    files = {name: manifest.file_digest(folder / name) for name in FILES}
    (folder / manifest.NAME).write_text(manifest.manifest_text(files))
    answers = regraft.load(folder).predict(warm)
    assert answers[0].label == name
    assert "<script>" not in answers._repr_html_()
