"""The engine's promises: the same bits in any company, its own normalisation, every readout where it belongs."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Literal

import regraft.networks  # noqa: F401 - before PyTorch, whose threads wait as it says

# isort: split
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from regraft.data.view import view0
from regraft.engines.contract import ANSWER_PRECISION, Engine
from regraft.engines.pytorch import PyTorchEngine, choose_device
from regraft.errors import UsageError
from regraft.networks.build import Network, load_backbone, restore
from regraft.networks.readouts import LOGITS, find_readouts
from regraft.records.networks import Readout
from regraft.records.preprocessing import Preprocessing
from tests.conftest import sample_photo

#: Small enough to be quick, large enough that every stage has positions to pool.
_SIZE = 96

_RULES = Preprocessing(size=_SIZE)


@pytest.fixture(scope="module")
def network() -> Network:
    return load_backbone("efficientnet_lite0", size=_SIZE)


@pytest.fixture(scope="module")
def engine(network: Network) -> PyTorchEngine:
    return PyTorchEngine(network.module, network.readouts, _RULES, "cpu")


@pytest.fixture(scope="module")
def photos() -> NDArray[np.uint8]:
    """32 crops of two photographs, uint8 [32, 96, 96, 3]."""
    rng = np.random.default_rng(4)
    crops = []
    for name in ("china.jpg", "flower.jpg"):
        photo = sample_photo(name)
        for _ in range(16):
            x, y, side = int(rng.integers(0, 300)), int(rng.integers(0, 200)), int(rng.integers(60, 220))
            crops.append(view0(photo.crop((x, y, x + side, y + side)), _RULES).pixels)
    return np.stack(crops)


@pytest.fixture(params=["efficientnet_lite0", "resnet18", "vit_tiny_patch16_224"], scope="module")
def any_engine(request: pytest.FixtureRequest) -> PyTorchEngine:
    """Engines of convolutions with and without depth, and of attention; random weights do for arithmetic."""
    import timm

    torch.manual_seed(0)
    options = {"img_size": _SIZE} if request.param.startswith("vit") else {}
    module = timm.create_model(request.param, **options).eval()
    return PyTorchEngine(module, find_readouts(module, _SIZE), _RULES, "cpu")


def test_bits_do_not_depend_on_company(any_engine: PyTorchEngine, photos: NDArray[np.uint8]) -> None:
    engine = any_engine
    alone = np.concatenate([engine.run(photo[None]) for photo in photos])
    full = np.concatenate([engine.run(photos[i:i + engine.batch]) for i in range(0, len(photos), engine.batch)])
    np.testing.assert_array_equal(full, alone)
    rng = np.random.default_rng(1)
    for _ in range(10):
        chosen = rng.permutation(len(photos))[:rng.integers(1, engine.batch + 1)]
        np.testing.assert_array_equal(engine.run(photos[chosen]), alone[chosen])
    same = engine.run(np.repeat(photos[:1], engine.batch, 0))
    np.testing.assert_array_equal(same, np.repeat(alone[:1], engine.batch, 0))


def test_bits_do_not_depend_on_other_readouts(network: Network, engine: PyTorchEngine,
                                              photos: NDArray[np.uint8]) -> None:
    """A saved head reads fewer places than its training did, and must answer the same."""
    everything = engine.run(photos[:3])
    ends = np.cumsum([readout.dim for readout in network.readouts])
    for i in (0, len(ends) - 2, len(ends) - 1):
        one = PyTorchEngine(network.module, network.readouts[i:i + 1], _RULES, "cpu").run(photos[:3])
        np.testing.assert_array_equal(one, everything[:, ends[i] - network.readouts[i].dim:ends[i]])


def test_partial_batches(engine: PyTorchEngine, photos: NDArray[np.uint8]) -> None:
    width = sum(readout.dim for readout in engine.readouts)
    for count in range(1, engine.batch + 1):
        features = engine.run(photos[:count])
        assert features.shape == (count, width)
        assert features.dtype == np.float32
        assert np.isfinite(features).all()


@pytest.mark.parametrize("shape", [
    (0, _SIZE, _SIZE, 3), (999, _SIZE, _SIZE, 3), (1, _SIZE + 1, _SIZE, 3), (1, 224, 224, 3), (1, _SIZE, _SIZE, 1),
    (1, 3, _SIZE, _SIZE), (_SIZE, _SIZE, 3),
])
def test_wrong_shapes(engine: PyTorchEngine, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"images|uint8"):
        engine.run(np.zeros(shape, np.uint8))


def test_wrong_type(engine: PyTorchEngine) -> None:
    with pytest.raises(ValueError, match="float32"):
        engine.run(np.zeros((1, _SIZE, _SIZE, 3), np.float32))


def test_input_is_left_alone(engine: PyTorchEngine, photos: NDArray[np.uint8]) -> None:
    fixed = photos[:2].copy()
    fixed.flags.writeable = False
    engine.run(fixed)
    turned = np.ascontiguousarray(photos[:2].swapaxes(1, 2)).swapaxes(1, 2)
    np.testing.assert_array_equal(engine.run(turned), engine.run(photos[:2]))


def test_equals_the_plain_network(network: Network, engine: PyTorchEngine, photos: NDArray[np.uint8]) -> None:
    """Channels-last with folded normalisation against NCHW and the formula as it is published."""
    plain = restore("efficientnet_lite0", network.state())
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (_RULES.mean, _RULES.std))
    x_BCHW = (torch.from_numpy(photos[:4]).permute(0, 3, 1, 2).contiguous().float() / 255 - mean) / std
    with torch.no_grad():
        logits = plain(x_BCHW).numpy()
    ours = engine.run(photos[:4])[:, -engine.readouts[-1].dim:]
    assert np.abs(ours - logits).max() <= 1e-4 * np.abs(logits).max()


def test_logits_are_the_modules_own(network: Network, photos: NDArray[np.uint8]) -> None:
    engine = PyTorchEngine(network.module, [r for r in network.readouts if r.name == LOGITS], _RULES, "cpu")
    own: list[torch.Tensor] = []
    handle = network.module.register_forward_hook(lambda m, i, output: own.append(output.clone()))
    logits = engine.run(photos[:engine.batch])
    handle.remove()
    np.testing.assert_array_equal(logits, own[0].numpy())


@pytest.mark.parametrize(("mean", "std"), [
    ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)), ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
])
def test_normalisation(mean: tuple[float, float, float], std: tuple[float, float, float]) -> None:
    """A network that hands its input on shows what it was given."""
    colours = np.zeros((3, 2, 2, 3), np.uint8)
    colours[:] = np.array([[0, 0, 0], [255, 255, 255], [10, 100, 200]], np.uint8)[:, None, None]
    engine = PyTorchEngine(nn.Sequential(nn.Identity()), [Readout("x", "0", "mean", 3)],
                           Preprocessing(size=2, mean=mean, std=std), "cpu")
    expected = (np.array([[0, 0, 0], [1, 1, 1], [10 / 255, 100 / 255, 200 / 255]]) - mean) / np.array(std)
    np.testing.assert_allclose(engine.run(colours), expected, atol=1e-6)


class _Kinds(nn.Module):
    """Gives what its input is in every layout that networks use."""

    def __init__(self) -> None:
        super().__init__()
        self.maps, self.last, self.tokens, self.flat = nn.Identity(), nn.Identity(), nn.Identity(), nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.maps(x)
        self.last(x.permute(0, 2, 3, 1))
        self.tokens(x.flatten(2).mT)
        flat: torch.Tensor = self.flat(x.mean((2, 3)))
        return flat


def test_every_pooling_is_the_mean_of_positions() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, 5, 5, 3), dtype=np.uint8)
    readouts = [Readout("a", "maps", "mean", 3), Readout("b", "last", "mean_last", 3),
                Readout("c", "tokens", "tokens", 3), Readout("d", "flat", "none", 3),
                Readout("e", "maps:input", "mean", 3), Readout("f", "", "none", 3)]
    features = PyTorchEngine(_Kinds(), readouts, Preprocessing(size=5), "cpu").run(pixels)
    expected = (pixels.mean((1, 2)) / 255 - 0.5) / 0.5
    np.testing.assert_allclose(features, np.tile(expected, 6), atol=1e-6)


@pytest.fixture
def blind(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A machine without accelerators."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    return monkeypatch


def test_devices(blind: pytest.MonkeyPatch) -> None:
    assert choose_device("auto") == "cpu"
    absent: tuple[Literal["cuda", "mps"], ...] = ("cuda", "mps")
    for device in absent:
        with pytest.raises(UsageError, match=f"{device}' is not to be had here; PyTorch .* sees cpu$"):
            choose_device(device)
    blind.setattr(torch.cuda, "is_available", lambda: True)
    assert choose_device("auto") == "cuda"
    assert choose_device("cpu") == "cpu"
    with pytest.raises(UsageError, match=r"sees cpu, cuda$"):
        choose_device("mps")


def test_key(engine: PyTorchEngine) -> None:
    promise: Engine = engine
    assert promise.key == f"pytorch-cpu-{ANSWER_PRECISION}"
    assert promise.batch >= 1


def test_engines_of_one_module_do_not_disturb_each_other(network: Network, engine: PyTorchEngine,
                                                         photos: NDArray[np.uint8]) -> None:
    before = engine.run(photos[:2])
    PyTorchEngine(network.module, network.readouts[-1:], _RULES, "cpu").run(photos[2:4])
    np.testing.assert_array_equal(engine.run(photos[:2]), before)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in network.module.modules()), "nothing stays behind"


def test_threads_may_share_an_engine(engine: PyTorchEngine, photos: NDArray[np.uint8]) -> None:
    alone = [engine.run(photo[None]) for photo in photos[:12]]
    with ThreadPoolExecutor(4) as threads:
        for one, other in zip(alone, threads.map(lambda photo: engine.run(photo[None]), photos[:12]), strict=True):
            np.testing.assert_array_equal(other, one)


def test_a_failing_network_leaves_no_hooks() -> None:
    module = nn.Sequential(nn.Conv2d(3, 2, 9))
    engine = PyTorchEngine(module, [Readout("x", "0", "mean", 2)], Preprocessing(size=4), "cpu")
    with pytest.raises(RuntimeError):
        engine.run(np.zeros((1, 4, 4, 3), np.uint8))
    assert not module[0]._forward_hooks
