"""Files of features: written by the command, read by everyone's libraries, learned from without a network."""

from __future__ import annotations

import csv
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

import regraft
from regraft.errors import (
    BackboneError,
    DataError,
    MissingExtraError,
    ModelError,
    OutputError,
    UnknownNameError,
    UsageError,
)
from regraft.extraction.files import open_features
from regraft.model import HeadModel
from tests.conftest import write_crops
from tests.doors import regraft_cli

h5py = pytest.importorskip("h5py")

ENDINGS = ("h5", "npz", "parquet", "safetensors")


@pytest.fixture(scope="module")
def photos(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten photographs of ants and ten of bees in split folders, one unreadable file beside them."""
    target = tmp_path_factory.mktemp("photos") / "photos"
    for split, count in (("train", 7), ("val", 3)):
        for label in ("ants", "bees"):
            folder = target / split / label
            folder.mkdir(parents=True)
            for file in sorted((shared_data / "hymenoptera" / split / label).glob("*.jpg"))[:count]:
                shutil.copy(file, folder)
    (target / "train" / "ants" / "broken.jpg").write_bytes(b"\xff\xd8\xff no more")
    return target


@pytest.fixture(scope="module")
def files(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same pooled features in every format."""
    folder = tmp_path_factory.mktemp("files")
    made = {ending: folder / f"f.{ending}" for ending in ENDINGS}
    counts = [regraft.features(photos, out=file, quiet=True).features.computed for file in made.values()]
    assert counts[1:] == [0, 0, 0], "nothing is computed twice"
    return made


def every(file: Path) -> NDArray[np.float32]:
    opened = open_features(file)
    return opened.read(np.arange(len(opened.index)))


# -- what is written -------------------------------------------------------------------------------


def test_hdf5_as_others_read_it(photos: Path, files: dict[str, Path]) -> None:
    with h5py.File(files["h5"]) as file:
        assert (file["features"].shape, file["features"].dtype) == ((20, 1280), np.float32)
        assert file["labels"].dtype == np.int32
        assert list(file.attrs["classes"]) == ["ants", "bees"]
        paths, splits = (file[name].asstr()[:].tolist() for name in ("paths", "splits"))
        assert [path.split("/")[1] for path in paths] == [("ants", "bees")[label] for label in file["labels"][:]]
        assert {path.split("/")[0].replace("val", "validation") + s for path, s in zip(paths, splits, strict=True)} == {
            "traintrain", "validationvalidation"}
        assert all((photos / path).is_file() for path in paths)
        assert (file.attrs["layer"], file.attrs["pooling"], file.attrs["format_version"]) == ("last", "none", "1")
        assert json.loads(file.attrs["preprocessing"])["size"] == 224
        assert len(file.attrs["weights_digest"]) == 64


def test_every_format_holds_the_same(files: dict[str, Path]) -> None:
    opened = {ending: open_features(file) for ending, file in files.items()}
    first = opened["h5"]
    for ending, other in opened.items():
        assert np.array_equal(every(files[ending]), every(files["h5"])), ending
        assert list(other.index.paths) == list(first.index.paths)
        assert other.index.classes == first.index.classes
        assert np.array_equal(other.index.y_N, first.index.y_N)
        assert np.array_equal(other.index.splits, first.index.splits)
        assert (other.digests, other.origin) == (first.digests, first.origin)


def test_other_libraries_read_them(files: dict[str, Path]) -> None:
    import pyarrow.parquet

    numbers = every(files["h5"])
    with np.load(files["npz"], allow_pickle=False) as archive:
        assert np.array_equal(archive["features"], numbers)
        assert archive["splits"].dtype.kind == archive["paths"].dtype.kind == "U"
    table = pyarrow.parquet.read_table(files["parquet"])
    assert np.array_equal(np.array(table["features"].to_pylist(), np.float32), numbers)
    assert set(table["label"].to_pylist()) == {"ants", "bees"}
    assert np.array_equal(load_file(files["safetensors"])["features"], numbers)


def test_the_document(photos: Path, tmp_path: Path) -> None:
    made = regraft.features(photos, out=tmp_path / "f.npz", layer="blocks.4", pool="max", quiet=True)
    document = made.to_dict()
    assert "1 unreadable images are not in it: train/ants/broken.jpg: " in repr(made)
    assert (document["images"], document["shape"], document["classes"]) == (20, [112], ["ants", "bees"])
    assert document["quarantined"] == 1
    assert document["unreadable"][0]["path"] == "train/ants/broken.jpg"
    assert document["bytes"] == (tmp_path / "f.npz").stat().st_size
    assert [path.name for path in tmp_path.iterdir()] == ["f.npz"]


@pytest.mark.parametrize("ending", ENDINGS)
def test_features_in_their_own_shape(photos: Path, tmp_path: Path, ending: str) -> None:
    out = tmp_path / f"maps.{ending}"
    made = regraft.features(photos, out=out, layer="blocks.5", pool="none", limit=2, quiet=True)
    assert (made.shape, made.images, made.quarantined) == ((192, 7, 7), 8 - made.quarantined, made.quarantined)
    maps = every(out).reshape(-1, 192, 49)
    pooled = regraft.features(photos, out=tmp_path / "pooled.npz", layer="blocks.5", limit=2, quiet=True)
    assert pooled.images == made.images
    assert np.allclose(maps.mean(2), every(tmp_path / "pooled.npz"), atol=1e-5)
    largest = regraft.features(photos, out=tmp_path / "largest.npz", layer="blocks.5", pool="max", limit=2, quiet=True)
    assert largest.shape == (192,)
    assert np.array_equal(maps.max(2), every(tmp_path / "largest.npz"))
    if ending == "h5":
        with h5py.File(out) as file:
            assert file["features"].shape == (made.images, 192, 7, 7)


def test_quarantined_images_are_no_rows_of_maps(photos: Path, tmp_path: Path) -> None:
    for ending in ("h5", "npz"):
        made = regraft.features(photos, out=tmp_path / f"f.{ending}", layer="blocks.6", pool="none", quiet=True)
        assert (made.images, made.quarantined) == (20, 1)
    assert np.array_equal(every(tmp_path / "f.h5"), every(tmp_path / "f.npz"))


@pytest.mark.parametrize(("settings", "error", "message"), [
    ({"layer": "bloks.4"}, UnknownNameError, r"no layer is called 'bloks\.4'; did you mean 'blocks\.4'"),
    ({"out": "f.pkl"}, UsageError, r"f\.pkl has no ending .* \.h5, \.hdf5, \.npz, \.parquet, \.safetensors"),
    ({"pool": "median"}, UsageError, "mean, max, none"),
    ({"max_quarantined": 0.01}, DataError, "1 of 21 images can't be read"),
    ({"max_quarantined": 0.01, "pool": "none", "layer": "blocks.6"}, DataError, "1 of 21 images can't be read"),
])
def test_mistakes(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any],
                  error: type[Exception], message: str) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=message):
        regraft.features(photos, **{"out": "f.h5", "quiet": True, **settings})
    assert list(tmp_path.iterdir()) == []


def test_a_file_is_replaced_only_by_force(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "f.npz"
    out.write_bytes(b"mine")
    with pytest.raises(OutputError, match=r"exists; take another --out, or replace a file with --force"):
        regraft.features(photos, out=out, quiet=True)
    assert out.read_bytes() == b"mine"
    regraft.features(photos, out=out, force=True, quiet=True)
    assert every(out).shape == (20, 1280)


def test_a_full_disk_is_told_before_anything_is_computed(photos: Path, tmp_path: Path,
                                                         monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr("regraft.runs.folder.shutil.disk_usage", lambda path: usage._replace(free=1_000_000))
    monkeypatch.setattr("regraft.engines.pytorch.PyTorchEngine.run", lambda *_: pytest.fail("the network ran"))
    needed = 21 * 24 * 56 * 56 * 4
    with pytest.raises(OutputError, match=r"needs [\d,]+ bytes, 1,000,000 are free there") as caught:
        regraft.features(photos, out=tmp_path / "f.h5", layer="blocks.1", pool="none", quiet=True)
    told = int(str(caught.value).split(" needs ")[1].split(" bytes")[0].replace(",", ""))
    assert needed <= told <= 1.05 * needed
    assert list(tmp_path.iterdir()) == []


def test_without_h5py_the_extra_is_named(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(MissingExtraError, match=r'pip install "regraft\[hdf5\]"'):
        regraft.features(photos, out=tmp_path / "f.h5", quiet=True)


# -- training on them ------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ENDINGS)
def test_training_on_our_files_answers_images(photos: Path, files: dict[str, Path], tmp_path: Path, ending: str,
                                              monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("regraft.engines.pytorch.PyTorchEngine.run", lambda *_: pytest.fail("the network ran"))
        result = regraft.train(files[ending], out=tmp_path / "out", quiet=True)
    assert (result.features.computed, result.features.reused, result.backbone) == (0, 20, "efficientnet_lite0")
    assert result.validation is not None
    assert result.test is not None
    with (tmp_path / "out" / "run" / "splits.csv").open(newline="") as file:
        assert {row["path"].split("/")[0] for row in csv.DictReader(file) if row["split"] == "validation"} == {"val"}
    loaded = regraft.load(tmp_path / "out")
    assert loaded.record.start == "features"
    image = next((photos / "val" / "bees").iterdir())
    # The model answers an image as its head answers the image's row.
    opened = open_features(files[ending])
    row = list(opened.index.paths).index(f"val/bees/{image.name}")
    expected = loaded.head.probabilities(opened.read(np.array([row])))[0]
    answer = loaded.predict(image)
    assert answer.probabilities == pytest.approx(dict(zip(("ants", "bees"), expected.tolist(), strict=True)), abs=1e-5)
    assert loaded.seen.count(opened.digests) > 0


def test_a_model_on_maps_answers_images(photos: Path, tmp_path: Path) -> None:
    regraft.features(photos, out=tmp_path / "f.h5", layer="blocks.5", pool="none", quiet=True)
    regraft.train(tmp_path / "f.h5", out=tmp_path / "out", quiet=True)
    figures = regraft.evaluate(tmp_path / "out", photos / "train", quiet=True)
    assert figures.accuracy.value >= 0.8
    assert figures.seen_in_training > 0


def test_settings_of_the_network_are_refused(files: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--fit, --size: not for a file of features"):
        regraft.train(files["npz"], out=tmp_path / "out", size=128, fit="pad", quiet=True)
    assert not (tmp_path / "out").exists()


def foreign(path: Path, features: Any, labels: Any, **more: Any) -> Path:
    """A file of features as others write it."""
    if path.suffix == ".npz":
        np.savez_compressed(path, features=features, labels=labels, **more)
    elif path.suffix == ".safetensors":
        save_file({"features": features, "labels": labels, **more}, path)
    else:
        with h5py.File(path, "w") as file:
            for name, values in {"features": features, "labels": labels, **more}.items():
                file[name] = values
    return path


@pytest.fixture
def two_clouds() -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """60 maps [2, 2, 5] (Keras's order) around two centres."""
    rng = np.random.default_rng(0)
    labels = np.arange(60) % 2
    return (rng.normal(size=(60, 2, 2, 5)) + 3 * labels[:, None, None, None]).astype(np.float32), labels


@pytest.mark.parametrize("ending", ["h5", "npz", "safetensors"])
@pytest.mark.parametrize("change", [
    lambda y: y, lambda y: y[:, None].astype(np.int32), lambda y: np.eye(2, dtype=np.float32)[y],
])
def test_files_made_elsewhere(tmp_path: Path, ending: str, change: Callable[[NDArray[Any]], NDArray[Any]],
                              two_clouds: tuple[NDArray[np.float32], NDArray[np.int64]]) -> None:
    X, y = two_clouds
    result = regraft.train(foreign(tmp_path / f"f.{ending}", X, change(y)), out=tmp_path / "out", quiet=True)
    assert result.backbone == "none"
    assert [f.kind for f in result.findings] == ["no_network"]
    assert result.test is not None
    assert result.test.accuracy.value == 1
    loaded = regraft.load(tmp_path / "out")
    assert isinstance(loaded, HeadModel)
    assert loaded.classes == ("0", "1")
    assert np.array_equal(loaded.head.probabilities(X.reshape(60, -1)).argmax(1), y)


def test_a_head_refuses_images_in_one_line(crops: Path, tmp_path: Path,
                                           two_clouds: tuple[NDArray[np.float32], NDArray[np.int64]]) -> None:
    X, y = two_clouds
    names = np.array([b"left", b"right"])[y]
    regraft.train(foreign(tmp_path / "f.h5", X, names), out=tmp_path / "out", quiet=True)
    done = regraft_cli("predict", tmp_path / "out", crops / "palace" / "000.jpg")
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (1, "", 1)
    assert "has no network and answers features only (model.head.probabilities), not images" in done.stderr
    with pytest.raises(ModelError, match="answers features only"):
        regraft.evaluate(tmp_path / "out", crops, quiet=True)
    assert "Head of 2 classes (left, right) on 20 features" in repr(regraft.load(tmp_path / "out"))
    # A model with a network takes its place, and the other way round.
    regraft.train(crops, out=tmp_path / "out", force=True, quiet=True)
    assert regraft.load(tmp_path / "out").predict(crops / "palace" / "000.jpg").label == "palace"
    regraft.train(tmp_path / "f.h5", out=tmp_path / "out", force=True, quiet=True)
    assert isinstance(regraft.load(tmp_path / "out"), HeadModel)
    assert not (tmp_path / "out" / "backbone.safetensors").exists()


def test_other_weights_than_those_that_made_the_features(tmp_path: Path) -> None:
    import timm

    data = write_crops(tmp_path / "data", 6)
    weights = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        weights.append(tmp_path / f"{seed}.safetensors")
        save_file({k: v.numpy() for k, v in timm.create_model("resnet10t").state_dict().items()}, weights[-1])
    regraft.features(data, out=tmp_path / "f.npz", backbone="resnet10t", weights=weights[0], size=64, quiet=True)
    with pytest.raises(BackboneError, match=r"1\.safetensors holds other weights"):
        regraft.train(tmp_path / "f.npz", out=tmp_path / "wrong", weights=weights[1], quiet=True)
    regraft.train(tmp_path / "f.npz", out=tmp_path / "right", weights=weights[0], quiet=True)
    assert regraft.load(tmp_path / "right").predict(data / "palace" / "000.jpg").errors == ()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        without = regraft.train(tmp_path / "f.npz", out=tmp_path / "without", quiet=True)
    assert without.backbone == "resnet10t"
    with pytest.raises(ModelError, match="train again with --weights FILE, the weights of resnet10t"):
        regraft.load(tmp_path / "without").predict(data / "palace" / "000.jpg")


NUMBERS = np.ones((4, 3), np.float32)


@pytest.mark.parametrize(("arrays", "message"), [
    ({"features": NUMBERS}, "has no labels; it has features"),
    ({"features": NUMBERS, "labels": np.arange(3)}, "has 4 rows of features but 3 labels"),
    ({"features": np.ones(4), "labels": np.arange(4)}, "are no rows of numbers"),
    ({"features": np.array(["a"] * 4), "labels": np.arange(4)}, "are no numbers"),
    ({"features": NUMBERS, "labels": np.array([0, 0.5, 1, 1])}, "are no whole numbers"),
    ({"features": NUMBERS, "labels": np.array([0, 1, 2, 3]), "classes": np.array(["a", "b"])}, "labels lie in 0..3"),
    ({"features": NUMBERS, "labels": np.array(["a", "b", "c", "a"]), "classes": np.array(["a", "b"])}, "'c' is none"),
    ({"features": NUMBERS, "labels": np.array([0, 0, 1, 1]), "splits": np.array(["train"] * 3 + ["dev"])},
     "splits must be train, validation, test or empty"),
    ({"features": NUMBERS, "labels": np.array([0, 0, 1, 1]), "paths": np.array(["a", "b", "a", "c"])},
     "more than once"),
    ({"features": NUMBERS, "labels": np.array([0, 0, 0, 0])}, "of 1 class"),
    ({"features": NUMBERS * np.nan, "labels": np.array([0, 0, 1, 1])}, "hold a number that is not finite"),
    ({"features": np.array([[object()]] * 4), "labels": np.arange(4)}, "are no numbers"),
    ({"features": NUMBERS, "labels": np.array([object()] * 4)}, "Object arrays cannot be loaded"),
])
def test_files_that_can_not_be_learned_from(tmp_path: Path, arrays: dict[str, Any], message: str) -> None:
    np.savez(tmp_path / "f.npz", **arrays)
    with pytest.raises(DataError, match=message):
        regraft.train(tmp_path / "f.npz", out=tmp_path / "out", no_test=True, quiet=True)


@pytest.mark.parametrize("ending", ENDINGS)
def test_damaged_files(files: dict[str, Path], tmp_path: Path, ending: str) -> None:
    whole = files[ending].read_bytes()
    for name, content in {"empty": b"", "text": b"no features", "cut": whole[:len(whole) // 2]}.items():
        file = tmp_path / f"{name}.{ending}"
        file.write_bytes(content)
        with pytest.raises(DataError) as caught:
            regraft.train(file, out=tmp_path / "out", quiet=True)
        assert file.name in str(caught.value)
        assert "\n" not in str(caught.value)
