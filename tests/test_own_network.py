"""A network of the caller's own: trained from its module, kept without its program, loaded with the module again."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

import regraft
from regraft.errors import BackboneError, ModelError, OutputError, SettingsError, TimeLimitError, UsageError
from regraft.records.results import TrainResult
from tests.conftest import write_digits
from tests.doors import regraft_cli


class Small(nn.Module):
    """Two convolutions, as tutorials write them: one pooling layer serves twice."""

    def __init__(self, classes: int = 7) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 12, 5)
        self.pool = nn.MaxPool2d(2)
        self.conv2 = nn.Conv2d(12, 24, 5)
        self.norm = nn.BatchNorm2d(24)
        self.dense = nn.Linear(24 * 5 * 5, 48)
        self.drop = nn.Dropout(0.1)
        self.classes = nn.Linear(48, classes)

    def forward(self, x: Tensor) -> Tensor:
        """[B, 3, 32, 32] to class scores [B, K]."""
        x = self.pool(functional.relu(self.conv1(x)))
        x = self.pool(self.act(self.norm(self.conv2(x))))
        scores: Tensor = self.classes(self.drop(functional.relu(self.dense(x.flatten(1)))))
        return scores

    def act(self, x: Tensor) -> Tensor:
        """What other networks of the same tensors do otherwise."""
        return functional.relu(x)


class Other(Small):
    """The same tensors, another function."""

    def act(self, x: Tensor) -> Tensor:
        """GELU instead of ReLU."""
        return functional.gelu(x)


class Asking(Small):
    """A network whose program depends on the picture, so that it can't be traced."""

    def act(self, x: Tensor) -> Tensor:
        """ReLU, unless everything is negative."""
        return functional.relu(x) if x.max() > 0 else x


def small(kind: type[Small] = Small, seed: int = 0, classes: int = 7) -> Small:
    """A network with the same random weights for the same seed."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return kind(classes)


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_digits(tmp_path_factory.mktemp("own") / "digits", "0123", 30)


@pytest.fixture(scope="module")
def own(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainResult:
    """A model on the frozen features of ``small()``; read only."""
    return regraft.train(digits, module=small(), size=32, out=tmp_path_factory.mktemp("own") / "model", quiet=True)


def test_frozen_features_of_photographs(shared_data: Path, tmp_path: Path) -> None:
    net = nn.Sequential(nn.Conv2d(3, 16, 7, stride=4), nn.ReLU(), nn.Conv2d(16, 32, 3), nn.ReLU(),
                        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 5))
    result = regraft.train(shared_data / "hymenoptera", module=net, limit=8, out=tmp_path / "out", quiet=True)
    assert result.backbone == "own:Sequential"
    assert result.validation is not None
    model = regraft.load(tmp_path / "out", module=net)
    assert model.record.preprocessing.size == 224
    assert model.record.preprocessing.mean == model.record.preprocessing.std == (0.5, 0.5, 0.5)
    photos = sorted((shared_data / "hymenoptera" / "val" / "bees").iterdir())[:5]
    assert {answer.label for answer in model.predict(photos)} <= {"ants", "bees"}


def test_the_answers_are_those_of_the_module(own: TrainResult, digits: Path) -> None:
    model = regraft.load(own.out, module=small(seed=9))
    picture = sorted((digits / "2").iterdir())[0]
    assert model.predict(picture).label == "2"
    found = regraft.evaluate(own.out, digits, module=small(seed=9), quiet=True)
    assert (found.split, found.n, found.seen_in_training) == ("all", 120, 96)
    assert regraft.predict(own.out, [picture], module=small(seed=8), quiet=True).label == "2"
    kept = load_file(Path(own.out) / "backbone.safetensors")
    assert all(torch.equal(tensor, kept[name]) for name, tensor in small().state_dict().items())


def test_its_page_says_why_nothing_shows_where_it_looks(own: TrainResult) -> None:
    page = (Path(own.out) / "run" / "report.html").read_text("utf-8")
    assert "No picture shows where the network looks: " in page
    assert str(Path(own.out).parent) not in page, "a page tells nothing of the machine"


def test_one_epoch_from_random_weights(digits: Path, tmp_path: Path) -> None:
    net = small().train()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    result = regraft.train(digits, module=net, size=32, plan="own-network-random", set="phases.0.epochs=1",
                           out=tmp_path / "out", quiet=True)
    assert result.probe is None
    assert [epoch.number for epoch in result.epochs] == [0, 1]
    assert result.epochs[1].validation_loss < result.epochs[0].validation_loss
    # The caller's module stays what it was; the model has what was learned.
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    assert net.training
    assert all(p.requires_grad for p in net.parameters())
    kept = load_file(tmp_path / "out" / "backbone.safetensors")
    assert not torch.equal(kept["conv1.weight"], before["conv1.weight"])
    again = regraft.evaluate(tmp_path / "out", digits, splits=tmp_path / "out" / "run" / "splits.csv", split="test",
                             module=small(seed=3), quiet=True)
    assert result.test is not None
    assert again.accuracy == result.test.accuracy
    assert again.log_loss == pytest.approx(result.test.log_loss, rel=1e-5)
    assert 'name = "own:Small"' in (tmp_path / "out" / "run" / "plan.toml").read_text()


def test_a_strategy_and_a_plan_without_phases(digits: Path, tmp_path: Path) -> None:
    result = regraft.train(digits, module=small(), size=32, strategy="partial", out=tmp_path / "a", quiet=True)
    assert result.probe is not None
    assert "on validation" in result.decision
    assert regraft.load(tmp_path / "a", module=small()).record.own is not None
    (tmp_path / "seen.toml").write_text('name = "seen"\n[preprocessing]\nnormalise = "imagenet"\nsize = 32\n')
    regraft.train(digits, module=small(), plan=tmp_path / "seen.toml", out=tmp_path / "b", quiet=True)
    rules = regraft.load(tmp_path / "b", module=small()).record.preprocessing
    assert (rules.size, rules.mean) == (32, (0.485, 0.456, 0.406))


@pytest.mark.parametrize(("head", "learning"), [
    ('learns = ["head", "conv2"]', 4 * 49 + 12 * 24 * 25 + 24),
    # Written for another network: what is to learn elsewhere does.
    ('learns = ["head", "layers[8:]"]\nelsewhere = ["head"]\n[backbone]\nname = "torchvision:vgg16"', 4 * 49),
])
def test_words_of_a_plan(digits: Path, tmp_path: Path, head: str, learning: int) -> None:
    phase, _, rest = head.partition("\n[")
    (tmp_path / "own.toml").write_text(f'name = "own"\n{"[" + rest if rest else ""}\n[head]\nreads = "last"\n'
                                       f'[[phases]]\nname = "some"\nepochs = 1\n{phase}\n')
    forecasts: list[Any] = []
    regraft.train(digits, module=small(), size=32, plan=tmp_path / "own.toml", out=tmp_path / "out", quiet=True,
                  hooks=regraft.Hooks(on_event=forecasts.append))
    assert forecasts[0].learning == learning


def test_it_is_exported(own: TrainResult, digits: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    result = regraft.export(own.out, module=small(), data=digits, out=tmp_path / "own.onnx", quiet=True)
    assert result.agreement.labels_equal == result.agreement.images >= 96


# -- weights by name -------------------------------------------------------------------------------


def test_weights_are_matched_by_name_the_head_apart(digits: Path, tmp_path: Path) -> None:
    state = small(seed=5, classes=100).state_dict()
    save_file(state, tmp_path / "published.safetensors")
    result = regraft.train(digits, module=small(), weights=tmp_path / "published.safetensors", size=32,
                           out=tmp_path / "out", quiet=True)
    [finding] = [finding for finding in result.findings if finding.kind == "head_weights"]
    assert finding.examples == ("of another shape: classes.weight [100, 48] instead of [7, 48]",
                                "of another shape: classes.bias [100] instead of [7]")
    assert "classes, the layer that makes class scores" in finding.text
    kept = load_file(tmp_path / "out" / "backbone.safetensors")
    assert torch.equal(kept["conv1.weight"], state["conv1.weight"])
    assert torch.equal(kept["classes.weight"], small().classes.weight)


def test_a_whole_file_fits_without_a_word(digits: Path, tmp_path: Path) -> None:
    torch.save(small(seed=5).state_dict(), tmp_path / "whole.pth")
    result = regraft.train(digits, module=small(), weights=tmp_path / "whole.pth", size=32, out=tmp_path / "out",
                           quiet=True)
    assert not [finding for finding in result.findings if finding.kind == "head_weights"]
    kept = load_file(tmp_path / "out" / "backbone.safetensors")
    assert torch.equal(kept["classes.weight"], small(seed=5).classes.weight)


def test_the_wrong_file_is_refused_with_all_differences(digits: Path, tmp_path: Path) -> None:
    state = dict(small().state_dict())
    state["first.weight"] = state.pop("conv1.weight")
    state["conv2.weight"] = state["conv2.weight"][:, :4].contiguous()
    state["dense.bias"] = state["dense.bias"].round().to(torch.int8)
    del state["classes.bias"]
    save_file(state, tmp_path / "wrong.safetensors")
    with pytest.raises(BackboneError, match=r"wrong\.safetensors does not fit the network; 1 missing: conv1\.weight; 1 "
                       r"unexpected: first\.weight; 1 of another shape: conv2\.weight \[24, 4, 5, 5\]") as caught:
        regraft.train(digits, module=small(), weights=tmp_path / "wrong.safetensors", size=32, out=tmp_path / "out",
                      quiet=True)
    assert caught.value.differences == (
        "missing: conv1.weight", "unexpected: first.weight",
        "of another shape: conv2.weight [24, 4, 5, 5] instead of [24, 12, 5, 5]", "of another type: dense.bias int8")
    with pytest.raises(SettingsError, match=r"weights: wrong\.safetensors is given, but the plan starts at random"):
        regraft.train(digits, module=small(), weights=tmp_path / "wrong.safetensors", plan="own-network-random",
                      size=32, out=tmp_path / "b", quiet=True)


# -- the model folder ------------------------------------------------------------------------------


def test_without_its_module_it_says_what_to_type(own: TrainResult, digits: Path) -> None:
    with pytest.raises(ModelError, match=r"trained with a network of your own, Small, whose program is in no file; in "
                       r"Python, give one: regraft\.load\('.*model', module=Small\(\.\.\.\)\)"):
        regraft.load(own.out)
    done = regraft_cli("predict", own.out, digits / "0")
    assert (done.returncode, done.stdout) == (1, "")
    assert len(done.stderr.strip().splitlines()) == 1


def test_another_network_is_not_taken(own: TrainResult, trained: TrainResult) -> None:
    with pytest.raises(ModelError, match="Other takes the model's tensors but answers otherwise than the Small"):
        regraft.load(own.out, module=small(Other))
    with pytest.raises(BackboneError, match=r"backbone\.safetensors does not fit the network; 2 of another shape"):
        regraft.load(own.out, module=small(classes=4))
    with pytest.raises(ModelError, match="was trained with a named network or none; leave the module away"):
        regraft.load(trained.out, module=small())


def test_no_program_is_in_the_folder(own: TrainResult) -> None:
    folder = Path(own.out)
    assert {path.name for path in folder.iterdir()} - {"unknown.safetensors"} == {
        "model.json", "backbone.safetensors", "head.safetensors", "images.safetensors", "selftest.json",
        "manifest.json", "README.md", "run"}
    assert json.loads((folder / "model.json").read_text())["own"]["name"] == "Small"


# -- what is kept ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Small, Asking])
def test_the_store_tells_programs_and_weights_apart(digits: Path, tmp_path: Path, kind: type[Small]) -> None:
    def computed(net: nn.Module) -> int:
        count = regraft.features(digits, module=net, size=32, out=tmp_path / "f.npz", force=True, limit=5,
                                 store=tmp_path / "store", quiet=True)
        return count.features.computed

    assert [computed(small(kind)) for _ in range(2)] == [20, 0]
    assert computed(small(kind, seed=1)) == 20
    assert computed(small(Other)) == 20


def test_a_run_goes_on_with_the_same_module_only(digits: Path, tmp_path: Path) -> None:
    with pytest.raises(TimeLimitError):
        regraft.train(digits, module=small(), size=32, out=tmp_path / "out", store=tmp_path / "store",
                      time_limit=0.001, quiet=True)
    with pytest.raises(OutputError, match=r"begun with other settings \(module: 'own:Small \w+', now 'own:Small \w+'"):
        regraft.train(digits, module=small(seed=1), size=32, out=tmp_path / "out", quiet=True)
    regraft.train(digits, module=small(), size=32, out=tmp_path / "out", resume=True, quiet=True)


# -- what is no such network -----------------------------------------------------------------------


@pytest.mark.parametrize(("make", "error", "message"), [
    (lambda: Small, SettingsError, r"module: the class Small is not allowed; it must be a torch\.nn\.Module, such as"),
    (lambda: "resnet50", SettingsError, "module: str is not allowed"),
    (lambda: nn.Conv2d(3, 8, 3), BackboneError, "gives no table of class scores, so it is no classifier"),
    (lambda: nn.Sequential(nn.Flatten(), nn.Linear(100, 5)), BackboneError, "can't take images of 32 x 32 pixels"),
])
def test_what_is_no_classifier_of_pictures(digits: Path, tmp_path: Path, make: Callable[[], object],
                                           error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        regraft.train(digits, module=make(), size=32, out=tmp_path / "out", quiet=True)


@pytest.mark.parametrize(("settings", "error", "message"), [
    ({"backbone": "resnet50"}, SettingsError, "backbone: 'resnet50' and a module are given; give one of them"),
    ({"data": "f.npz"}, UsageError, "module: not for a file of features"),
])
def test_calls_that_contradict_themselves(digits: Path, tmp_path: Path, settings: dict[str, Any],
                                          error: type[Exception], message: str) -> None:
    data = settings.pop("data", digits)
    if data == "f.npz":
        data = tmp_path / "f.npz"
        regraft.features(digits, limit=2, module=small(), size=32, out=data, quiet=True)
    with pytest.raises(error, match=message):
        regraft.train(data, module=small(), out=tmp_path / "out", quiet=True, **settings)


def test_a_name_leads_to_no_module(digits: Path, tmp_path: Path) -> None:
    with pytest.raises(BackboneError, match="own:Small is a network of one's own, which only Python has"):
        regraft.train(digits, backbone="own:Small", out=tmp_path / "out", quiet=True)
