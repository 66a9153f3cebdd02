"""The model folder: every byte that decides answers is checked, nothing in it is executed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load, load_file, save_file

import regraft
from regraft import manifest, model
from regraft.errors import ModelError, TamperedError
from regraft.model import FILES
from regraft.records.results import TrainResult
from tests.doors import regraft_cli


@pytest.fixture
def folder(trained: TrainResult, tmp_path: Path) -> Path:
    shutil.copytree(trained.out, tmp_path / "model", ignore=shutil.ignore_patterns("run"))
    return tmp_path / "model"


def sign(folder: Path) -> None:
    """A manifest that fits whatever lies in the folder: what a forger would write too."""
    files = {name: manifest.file_digest(folder / name) for name in FILES}
    (folder / manifest.NAME).write_text(manifest.manifest_text(files))


@pytest.mark.parametrize("name", [*FILES, manifest.NAME])
@pytest.mark.parametrize("where", [0.0, 0.01, 0.5, 0.999])
def test_any_changed_byte_is_noticed(folder: Path, name: str, where: float) -> None:
    data = bytearray((folder / name).read_bytes())
    data[int(where * (len(data) - 1))] ^= 0x01
    (folder / name).write_bytes(data)
    with pytest.raises(ModelError, match=name):
        regraft.load(folder)


@pytest.mark.parametrize("change", [
    lambda text: text.replace(" ", "  ", 1), lambda text: text + "\n", lambda text: text[:-1],
    lambda text: json.dumps(json.loads(text)),
])
def test_even_white_space_of_the_manifest_counts(folder: Path, change: Callable[[str], str]) -> None:
    file = folder / manifest.NAME
    file.write_text(change(file.read_text()))
    with pytest.raises(TamperedError, match=r"manifest\.json was changed"):
        regraft.load(folder)


@pytest.mark.parametrize("name", FILES)
def test_missing_and_cut_files(folder: Path, name: str) -> None:
    whole = (folder / name).read_bytes()
    (folder / name).write_bytes(whole[:-1])
    with pytest.raises(TamperedError, match=name):
        regraft.load(folder)
    (folder / name).unlink()
    with pytest.raises(TamperedError, match=name):
        regraft.load(folder)


def test_predict_refuses_on_the_command_line(folder: Path, crops: Path) -> None:
    data = bytearray((folder / "head.safetensors").read_bytes())
    data[-1] ^= 0x80
    (folder / "head.safetensors").write_bytes(data)
    done = regraft_cli("predict", folder, crops / "palace" / "000.jpg")
    assert done.returncode == 1
    assert done.stdout == ""
    assert len(done.stderr.strip().splitlines()) == 1
    assert "head.safetensors was changed" in done.stderr


@pytest.mark.parametrize(("make", "message"), [
    (lambda p: None, "is no model folder; `regraft train DATA --out"),
    (lambda p: p.mkdir(), "holds no finished model"),
    (lambda p: (p / "run").mkdir(parents=True), "run the same train command again"),
])
def test_folders_without_a_model(tmp_path: Path, make: Callable[[Path], None], message: str) -> None:
    make(tmp_path / "model")
    with pytest.raises(ModelError, match=message):
        regraft.load(tmp_path / "model")


def rewrite_record(folder: Path, **changes: object) -> None:
    record = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps({**record, **changes}))


@pytest.mark.parametrize(("changes", "message"), [
    ({"format_version": 99}, "format_version is 99"),
    ({"surprise": 1}, "surprise"),
    ({"classes": ["one"]}, "at least two classes"),
    ({"classes": "palace"}, "classes"),
    ({"precision": "bf16"}, "precision"),
    ({"training_counts": [1]}, "counts the training images"),
])
def test_forged_records_are_refused(folder: Path, changes: dict[str, object], message: str) -> None:
    rewrite_record(folder, **changes)
    sign(folder)
    with pytest.raises(ModelError, match=message):
        regraft.load(folder)


def test_forged_tensors_are_refused(folder: Path) -> None:
    head = load_file(folder / "head.safetensors")
    for weight in (np.full_like(head["weight"], np.nan), head["weight"][:-1], head["weight"][:, :1]):
        save_file({"weight": weight, "bias": head["bias"]}, folder / "head.safetensors")
        sign(folder)
        with pytest.raises(ModelError):
            regraft.load(folder)


def test_a_backbone_name_is_looked_up_never_imported(folder: Path, crops: Path) -> None:
    rewrite_record(folder, backbone="os:system")
    sign(folder)
    with pytest.raises(regraft.errors.RegraftError, match="no backbone is called 'os:system'"):
        regraft.load(folder).predict(crops / "palace" / "000.jpg")


@pytest.mark.parametrize("name", ["../outside", "/etc/passwd", "run/../model.json", ""])
def test_a_manifest_names_files_of_its_folder_only(folder: Path, name: str) -> None:
    files = {n: manifest.file_digest(folder / n) for n in FILES}
    (folder / manifest.NAME).write_text(manifest.manifest_text({**files, name: "0" * 64}))
    with pytest.raises(TamperedError):
        regraft.load(folder)


def test_the_model_knows_its_images_by_their_pixels(folder: Path) -> None:
    images = load_file(folder / "images.safetensors")
    assert images["training"].shape == (32, 16)
    assert images["validation"].shape == (0, 16)
    record = json.loads((folder / "model.json").read_text())
    assert record["precision"] == "fp32"
    assert record["preprocessing"]["size"] == 224


def test_arrays_come_back_whatever_their_order_in_memory() -> None:
    W_DK = np.arange(6, dtype=np.float32).reshape(2, 3).T
    assert np.array_equal(load(model.packed_arrays({"weight": W_DK}))["weight"], W_DK)
