"""What learns is computed fast, and still what PyTorch computes."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from regraft.engines.processor import has_bf16
from regraft.errors import TrainingError
from regraft.records.plan import Phase
from regraft.training.arithmetic import Arithmetic, arithmetic, in_bf16


def _gradients(module: nn.Module, x: Tensor, computed: Arithmetic | bool | None) -> list[Tensor]:
    """What a module makes of pixels and the gradients of both; None: as PyTorch itself does it."""
    x = x.clone().requires_grad_()
    if computed is None:
        made = module(x)
    else:
        with (Arithmetic("cpu", computed) if isinstance(computed, bool) else computed).learning():
            made = module(x)
    weights = torch.randn(made.shape, generator=torch.Generator().manual_seed(1))
    return [made, *torch.autograd.grad((made * weights).sum(), [x, *module.parameters()])]


def _close(found: list[Tensor], expected: list[Tensor], share: float) -> None:
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == torch.float32
        assert float((a - b).detach().abs().max()) <= share * float(b.detach().abs().max())


@pytest.mark.parametrize(("channels", "kernel", "stride", "side", "bias", "padding"), [
    (32, 5, 1, 7, False, 2), (32, 5, 2, 14, True, 2), (24, 7, 1, 9, True, 3), (16, 5, 2, 9, False, 2),
    (16, 5, 1, 12, False, 0), (8, 5, 2, 27, False, 1), (16, (5, 7), (1, 2), 11, False, (2, 1))])
def test_the_gradient_of_a_depthwise_kernel(channels: int, kernel: int | tuple[int, int],
                                            stride: int | tuple[int, int], side: int, bias: bool,
                                            padding: int | tuple[int, int]) -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(channels, channels, kernel, stride, padding, groups=channels, bias=bias)
    layer = layer.to(memory_format=torch.channels_last)
    x = torch.randn(3, channels, side, side + 1).contiguous(memory_format=torch.channels_last)
    with Arithmetic("cpu", False).learning():
        name = type(layer(x).grad_fn).__name__
    assert name == "_DepthwiseBackward", "not the way that is tested"
    _close(_gradients(layer, x, False), _gradients(layer, x, None), 1e-5)


@pytest.mark.parametrize("layer", [
    nn.Conv2d(16, 16, 3, padding=1, groups=16), nn.Conv2d(16, 32, 5, groups=16), nn.Conv2d(16, 16, 5, groups=4),
    nn.Conv2d(16, 16, 5, padding="same", groups=16), nn.Conv2d(16, 16, 5, padding=4, dilation=2, groups=16),
    nn.Conv2d(16, 16, 5, padding=2, groups=16, padding_mode="reflect"), nn.Conv2d(16, 24, 3), nn.Linear(9, 32)])
def test_everything_else_is_left_to_pytorch(layer: nn.Module) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 16, 9, 9)
    for found, expected in zip(_gradients(layer, x, False), _gradients(layer, x, None), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("layer", "shape"), [
    (nn.Conv2d(64, 96, 1), (2, 64, 7, 7)), (nn.Conv2d(32, 24, 3, 2, 1, bias=False), (2, 32, 9, 9)),
    (nn.Linear(64, 32), (2, 5, 64))])
def test_dense_layers_in_bf16_are_nearly_those_in_fp32(layer: nn.Module, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    x = torch.randn(shape)
    exact, found = _gradients(layer, x, None), _gradients(layer, x, True)
    assert not torch.equal(exact[0], found[0]), "nothing was computed in bf16"
    _close(found, exact, 0.02)


def test_norms_and_depthwise_layers_stay_fp32() -> None:
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Conv2d(32, 32, 3, padding=1, groups=32), nn.BatchNorm2d(32), nn.ReLU6())
    x = torch.randn(4, 32, 6, 6)
    for found, expected in zip(_gradients(layers, x, True), _gradients(layers, x, None), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=0)


def _normed(*layers: nn.Module) -> nn.Sequential:
    """Layers in inference mode, their norms as if they had been trained."""
    torch.manual_seed(0)
    module = nn.Sequential(*layers).eval()
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm2d):
            for tensor in (*norm.parameters(), norm.running_mean, norm.running_var):
                assert isinstance(tensor, Tensor)
                nn.init.uniform_(tensor, 0.5, 2)
    return module


class _Beside(nn.Module):
    """A convolution whose result is read twice: by its norm, and by what comes after it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        normed: Tensor = self.norm(x)
        return x + normed


@pytest.mark.parametrize("clamp", [nn.ReLU6(), nn.Hardtanh(-1, 0.5)])
def test_clamping_in_place_changes_what_it_is_given_and_has_the_same_gradient(clamp: nn.Hardtanh) -> None:
    torch.manual_seed(0)
    x = 3 * torch.randn(3, 4, 5, 5)
    x[0, 0, 0, :2] = torch.tensor([clamp.min_val, clamp.max_val])  # where the gradient ends
    in_place = type(clamp)(inplace=True) if isinstance(clamp, nn.ReLU6) else nn.Hardtanh(-1, 0.5, inplace=True)
    with Arithmetic("cpu", False).learning():
        given = x.clone().requires_grad_() * 1
        made = in_place(given)
    assert made is given
    assert type(made.grad_fn).__name__ == "_ClampedBackward", "not the way that is tested"

    class After(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            made: Tensor = in_place(x * 1)
            return made * made

    class Apart(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            made: Tensor = clamp(x * 1)
            return made * made

    _close(_gradients(After(), x, False), _gradients(Apart(), x, None), 0.0)
    view = (x.clone().requires_grad_() * 1)[:, 1:]
    with Arithmetic("cpu", False).learning():
        torch.testing.assert_close(in_place(view), clamp(x[:, 1:]))


_PHASE = Phase("p", ("all",), precision="fp32")


@pytest.mark.parametrize("layers", [
    (nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU6(inplace=True)),
    (nn.Conv2d(3, 8, 1, bias=False), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 5, groups=8), nn.BatchNorm2d(8, affine=False)),
    (nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.Conv2d(8, 4, 1), nn.ReLU(), nn.BatchNorm2d(4))])
def test_norms_learn_inside_the_convolutions_before_them(layers: tuple[nn.Module, ...]) -> None:
    module, x = _normed(*layers), torch.randn(4, 3, 12, 12)
    computed = arithmetic(_PHASE, "cpu", module, (3, 12, 12))
    behind = sum(isinstance(a, nn.Conv2d) and isinstance(b, nn.BatchNorm2d) for a, b in itertools.pairwise(layers))
    assert len(computed.norms) == behind
    before = [tensor.clone() for tensor in module.buffers()]
    _close(_gradients(module, x, computed), _gradients(module, x, None), 1e-4)
    for tensor, as_it_was in zip(module.buffers(), before, strict=True):
        torch.testing.assert_close(tensor, as_it_was, rtol=0, atol=0)


def test_norms_that_are_no_constant_factors_stay_where_they_are() -> None:
    layers = _normed(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8))
    own = arithmetic(Phase("p", ("all",), batch_norm="training"), "cpu", layers, (3, 9, 9))
    assert not own.norms
    assert not arithmetic(_PHASE, "cpu", _normed(_Beside()), (3, 9, 9)).norms
    shared = nn.Conv2d(3, 3, 3, padding=1)
    assert not arithmetic(_PHASE, "cpu", _normed(shared, nn.BatchNorm2d(3), shared), (3, 9, 9)).norms


def test_a_network_that_does_otherwise_while_it_learns_is_not_computed_wrongly() -> None:
    layers = _normed(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8))
    computed = arithmetic(_PHASE, "cpu", layers, (3, 9, 9))
    x = torch.randn(2, 3, 9, 9)
    others: list[Callable[[], Tensor]] = [
        lambda: layers[1](layers[0](x) * 2), lambda: layers.train()(x), lambda: layers[0](x),
        lambda: layers[0](layers[0](x)[:, :3])]
    for otherwise in others:
        with pytest.raises(TrainingError, match="between a convolution and its batch norm"), computed.learning():
            otherwise()
    with pytest.raises(ZeroDivisionError), computed.learning():
        _ = layers[0](x), 1 / 0


def test_who_asks_for_a_precision_gets_it() -> None:
    assert in_bf16(Phase("p", ("all",), precision="bf16"), "cpu")
    assert not in_bf16(Phase("p", ("all",), precision="fp32"), "cpu")
    assert in_bf16(Phase("p", ("all",)), "cpu") == has_bf16()
    assert not in_bf16(Phase("p", ("all",)), "mps")
