"""``verify``: every changed byte and every other answer is found, named and measured; with and without PyTorch."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from PIL import Image

import regraft
from regraft import manifest
from regraft.data import decode, view
from regraft.errors import ModelError, TamperedError
from regraft.model import FILES, SELF_TEST, Model
from regraft.records.exported import digests, sealed
from regraft.records.networks import Readout
from regraft.records.results import ExportResult, TrainResult
from regraft.selftest.pictures import pictures
from tests.conftest import write_crops
from tests.doors import json_of, regraft_cli, without_torch
from tests.test_export import _change


@pytest.fixture
def folder(trained: TrainResult, tmp_path: Path) -> Path:
    shutil.copytree(trained.out, tmp_path / "model", ignore=shutil.ignore_patterns("run"))
    return tmp_path / "model"


@pytest.fixture
def file(exported: ExportResult, tmp_path: Path) -> Path:
    return Path(shutil.copy(exported.out, tmp_path / "model.onnx"))


def sign(folder: Path, names: tuple[str, ...] = FILES) -> None:
    """A manifest that fits whatever lies in the folder: so that only answers can tell what was planted."""
    (folder / manifest.NAME).write_text(manifest.manifest_text(
        {name: manifest.file_digest(folder / name) for name in names}))


def plant(file: Path, change: Callable[[onnx.ModelProto], None]) -> None:
    """Change an exported file, and seal it anew: its own digest then fits."""
    proto = onnx.load(file)
    change(proto)
    for entry in proto.metadata_props:
        if entry.key == "file_digest":
            entry.value = "0" * 64
    file.write_bytes(sealed(proto.SerializeToString()))


def test_a_fresh_folder_and_its_file_pass(trained: TrainResult, exported: ExportResult) -> None:
    document = json_of("verify", trained.out, "--quiet")
    assert (document["kind"], document["errors"], document["notes"]) == ("folder", [], [])
    assert {item["name"] for item in document["files"]} == set(FILES)
    assert all(item["expected"] == item["found"] for item in document["files"])
    test = document["self_test"]
    assert (test["files"], test["labels_equal"], test["pixels_equal"], test["differences"]) == (20, 20, 20, [])
    assert test["largest_probability_difference"] < 1e-6
    done = regraft_cli("verify", exported.out)
    assert done.returncode == 0
    assert done.stdout.splitlines()[:2] == [f"{exported.out}: verified", "  digests: 1 of 1 files as they were"]
    assert "self-test: 20 of 20 pictures answered as they were, probabilities within" in done.stdout


def test_without_torch_too(trained: TrainResult, exported: ExportResult) -> None:
    for path in (trained.out, exported.out):
        document = without_torch("verify", path, "--quiet")
        assert document["errors"] == []
        assert document["model_digest"] == exported.model_digest
        assert document["self_test"]["labels_equal"] == document["self_test"]["pixels_equal"] == 20
        assert document["self_test"]["largest_probability_difference"] < 1e-4


def test_the_pictures_are_drawn_and_of_many_kinds(folder: Path, crops: Path) -> None:
    """Nothing of the training's images is in the self-test; a second training of other images holds the same ones."""
    kept = regraft.load(folder).self_test
    assert kept is not None
    assert [(file.name, file.content) for file in kept.files] == list(pictures())
    assert len({file.content for file in kept.files}) == len(kept.files) == 20
    assert (folder / SELF_TEST).stat().st_size < 400_000
    opened = [Image.open(io.BytesIO(file.content)) for file in kept.files]
    assert {image.format for image in opened} == {"JPEG", "PNG", "GIF", "BMP"}
    assert {"RGB", "L", "CMYK", "RGBA", "P", "I;16", "1"} == {image.mode for image in opened}
    assert {image.getexif().get(0x0112, 1) for image in opened} == {1, 3, 5, 6}


def test_pictures_are_computed_once_for_a_network(crops: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second model on the same frozen network records what asking it would give; what is damaged is made anew."""
    settings: dict[str, Any] = {"strategy": "features", "store": tmp_path / "store", "report": "none", "quiet": True}
    regraft.train(crops, out=tmp_path / "first", **settings)
    [kept] = (tmp_path / "store" / "engines").glob("*.pictures")
    asked: list[int] = []
    features = Model.features

    def counting(model: Model, pixels: NDArray[np.uint8], readouts: Sequence[Readout]) -> NDArray[np.float32]:
        asked.append(len(pixels))
        return features(model, pixels, readouts)

    monkeypatch.setattr(Model, "features", counting)
    regraft.train(crops, out=tmp_path / "second", seed=1, **settings)
    assert not asked
    second = regraft.load(tmp_path / "second")
    recorded, fresh = second.self_test, second.record_self_test()
    assert recorded is not None
    assert [file.pixels for file in recorded.files] == [file.pixels for file in fresh.files]
    np.testing.assert_allclose([file.logits for file in recorded.files], [file.logits for file in fresh.files],
                               atol=1e-4)
    assert regraft.verify(tmp_path / "second", quiet=True).errors == ()
    text = kept.read_text()
    at = text.index('"features": "') + 100
    kept.write_text(text[:at] + ("A" if text[at] != "A" else "B") + text[at + 1:])
    regraft.train(crops, out=tmp_path / "third", **settings)
    assert asked == [20]
    assert kept.read_text() == text


@pytest.mark.parametrize("names", [("head.safetensors",), ("backbone.safetensors", SELF_TEST), ("model.json",)])
def test_changed_bytes_of_a_folder_are_named(folder: Path, names: tuple[str, ...]) -> None:
    for name in names:
        data = bytearray((folder / name).read_bytes())
        data[len(data) // 2] ^= 0x01
        (folder / name).write_bytes(data)
    document = json_of("verify", folder, "--quiet", exit_code=1)
    assert {error.split()[0] for error in document["errors"]} == set(names)
    assert all("was changed: its SHA-256 is" in error for error in document["errors"])
    assert document["self_test"] is None
    (folder / names[0]).unlink()
    found = regraft.verify(folder, quiet=True)
    assert f"{names[0]} is missing or can't be read" in found.errors


@pytest.mark.parametrize("where", [0.0, 0.001, 0.3, 0.7, 0.98, 0.9999])
def test_any_changed_byte_of_a_file_is_found(file: Path, where: float) -> None:
    data = bytearray(file.read_bytes())
    data[int(where * (len(data) - 1))] ^= 0x01
    file.write_bytes(data)
    (error,) = regraft.verify(file, quiet=True).errors
    assert error.startswith("model.onnx was changed: its SHA-256 is ")


def test_the_digest_of_a_file_covers_itself(file: Path) -> None:
    whole = file.read_bytes()
    told = digests(whole)
    assert told is not None
    assert told[0] == told[1]
    for byte in range(-14, 64, 3):
        data = bytearray(whole)
        data[whole.index(told[0].encode()) + byte] ^= 0x41
        file.write_bytes(data)
        try:
            assert regraft.verify(file, quiet=True).errors, byte
        except ModelError as error:
            assert "model.onnx" in str(error)  # noqa: PT017 - one of the two


def test_a_wrong_mean_of_a_folder_is_found_by_its_answers(folder: Path) -> None:
    record = json.loads((folder / "model.json").read_text())
    record["preprocessing"]["mean"] = [0.45, 0.5, 0.5]
    (folder / "model.json").write_text(json.dumps(record))
    sign(folder)
    document = json_of("verify", folder, "--quiet", exit_code=1)
    assert document["self_test"]["pixels_equal"] == 20
    assert document["self_test"]["largest_probability_difference"] > 1e-4
    assert len(document["errors"]) == len(document["self_test"]["differences"]) > 15
    first = document["errors"][0]
    assert first.startswith("self-test: landscape.jpg is ")
    assert "probabilities by up to" in first
    assert first.endswith("(0.0001 is let pass); the network is given the same pixels, so it computes something else")


def test_a_wrong_mean_of_a_file_is_found_by_its_answers(file: Path) -> None:
    plant(file, lambda proto: _change(proto, (1, 3, 1, 1), lambda mean: mean * 0.99))
    found = regraft.verify(file, quiet=True)
    assert [item.expected == item.found for item in found.files] == [True]
    assert found.self_test is not None
    assert len(found.self_test.differences) == 20
    assert "so it computes something else" in found.errors[0]


def _change_rules(proto: onnx.ModelProto, changes: dict[str, Any]) -> None:
    (rules,) = (entry for entry in proto.metadata_props if entry.key == "preprocessing")
    rules.value = json.dumps({**json.loads(rules.value), **changes})


def test_other_pixels_that_change_no_answer_are_noted(file: Path) -> None:
    plant(file, lambda proto: _change_rules(proto, {"background": [255, 254, 255]}))
    found = regraft.verify(file, quiet=True)
    assert found.errors == ()
    (note,) = found.notes
    assert note.startswith("the network is given other pixels for 2 of 20 pictures: recorded with pillow-")


@pytest.mark.parametrize(("key", "value"), [
    ("interpolation", "bilinear"), ("crop_fraction", 0.9), ("fit", "squash"), ("background", [200, 255, 255]),
    ("jpeg_scale_margin", None), ("deep_range", [0, 60000])])
def test_other_preprocessing_is_found(file: Path, key: str, value: object) -> None:
    plant(file, lambda proto: _change_rules(proto, {key: value}))
    found = regraft.verify(file, quiet=True)
    assert found.errors
    assert all("given other pixels, so decoding or preprocessing differs" in error for error in found.errors)
    assert found.notes[0].startswith("the network is given other pixels for ")


@pytest.mark.parametrize(("module", "name", "other", "pictured"), [
    (decode, "_TURNS", {}, {"turned-3.jpg", "turned-6.jpg", "mirrored-5.jpg"}),
    (decode, "_deep_to_grey", lambda values, _: (values >> 7).clip(0, 255).astype(np.uint8), {"deep.png"}),
    (decode, "_DEEP_MODES", (), {"deep.png"}),
    (view, "_smallest", lambda *_: (1, 1), None),
])
def test_another_decoder_is_found(file: Path, module: Any, name: str, other: Any, pictured: set[str] | None,
                                  monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, name, other)
    found = regraft.verify(file, quiet=True)
    assert found.self_test is not None
    told = {difference.file for difference in found.self_test.differences}
    assert told == pictured if pictured else told & {"landscape.jpg", "large.jpg"}


def test_what_can_not_be_read_here_is_named(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode, "FORMATS", tuple(name for name in decode.FORMATS if name != "GIF"))
    (error,) = regraft.verify(file, quiet=True).errors
    assert error.startswith("self-test: palette.gif can't be read here: it is no image of a known format")


def test_rounding_is_let_pass(folder: Path) -> None:
    """Answers that differ by less than the tolerance are the same."""
    kept = regraft.load(folder).self_test
    assert kept is not None
    shifted = replace(kept, files=tuple(
        replace(file, logits=tuple(score * (1 + 1e-6) for score in file.logits)) for file in kept.files))
    (folder / SELF_TEST).write_text(json.dumps(shifted.to_dict()))
    sign(folder)
    assert regraft.verify(folder, quiet=True).errors == ()


def test_a_model_without_a_self_test_loads_and_says_so(folder: Path, crops: Path) -> None:
    (folder / SELF_TEST).unlink()
    sign(folder, tuple(name for name in FILES if name != SELF_TEST))
    assert regraft.load(folder).predict(crops / "palace" / "000.jpg").label == "palace"
    found = regraft.verify(folder, quiet=True)
    assert (found.errors, found.self_test, len(found.files)) == ((), None, len(FILES) - 1)
    assert found.notes == ("there is no self-test in it: it was saved before there was one; training again records "
                           "one",)
    assert regraft.load(folder).record_self_test().files


def test_a_file_of_the_earlier_format_loads_and_says_so(file: Path) -> None:
    proto = onnx.load(file)
    kept = {entry.key: entry.value for entry in proto.metadata_props if entry.key not in ("self_test", "file_digest")}
    onnx.helper.set_model_props(proto, {**kept, "format_version": "2"})
    file.write_bytes(proto.SerializeToString())
    found = regraft.verify(file, quiet=True)
    assert (found.errors, found.files, found.self_test) == ((), (), None)
    assert [note.split(":")[0] for note in found.notes] == ["it tells no digest of its own",
                                                            "there is no self-test in it"]
    onnx.helper.set_model_props(proto, {**kept, "format_version": "3"})
    file.write_bytes(proto.SerializeToString())
    with pytest.raises(ModelError, match="does not tell its file_digest"):
        regraft.verify(file, quiet=True)


def test_a_head_without_a_network_has_its_digests_checked(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    y = np.repeat([0, 1], 20)
    features = rng.normal(size=(40, 8)) + 3 * y[:, None]
    np.savez(tmp_path / "f.npz", features=features.astype(np.float32), labels=y)
    regraft.train(tmp_path / "f.npz", out=tmp_path / "model", quiet=True)
    found = regraft.verify(tmp_path / "model", quiet=True)
    assert found.errors == ()
    assert found.notes == ("there is no self-test: the model has no network and answers features only",)


def test_a_training_by_steps_records_its_own_answers(crops: Path, tmp_path: Path) -> None:
    import torch

    class Small(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = torch.nn.Sequential(
                torch.nn.Conv2d(3, 4, 3, 2), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
            self.classifier = torch.nn.Linear(4, 2)

        def forward(self, pixels_NCHW: torch.Tensor) -> torch.Tensor:
            scores: torch.Tensor = self.classifier(self.layers(pixels_NCHW))
            return scores

    torch.manual_seed(0)
    module = Small()
    regraft.train(write_crops(tmp_path / "data", 6), out=tmp_path / "model", strategy="full", module=module, size=32,
                  set=["phases.*.epochs=1"], no_test=True, quiet=True)
    found = regraft.verify(tmp_path / "model", module=module, quiet=True)
    assert found.errors == ()
    assert found.self_test is not None
    assert found.self_test.labels_equal == 20
    with pytest.raises(ModelError, match=r"in Python, give one"):
        regraft.verify(tmp_path / "model", quiet=True)


def test_mistakes_are_one_line(tmp_path: Path, folder: Path, file: Path) -> None:
    for path, message in ((tmp_path / "none", "is no model folder"), (tmp_path / "none.onnx", "does not exist")):
        done = regraft_cli("verify", path)
        assert (done.returncode, done.stdout) == (1, "")
        assert len(done.stderr.strip().splitlines()) == 1
        assert message in done.stderr
    (folder / manifest.NAME).write_text("{}")
    with pytest.raises(TamperedError, match=r"manifest\.json was changed"):
        regraft.verify(folder, quiet=True)
    with pytest.raises(ModelError, match="holds its network; leave the module away"):
        regraft.verify(file, module=object(), quiet=True)
