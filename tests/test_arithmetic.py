"""What learns is computed fast, and still what PyTorch computes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from regraft.engines.processor import has_bf16
from regraft.records.plan import Phase
from regraft.training.arithmetic import in_bf16, learning_in


def _gradients(module: nn.Module, x: Tensor, bf16: bool | None) -> list[Tensor]:
    """What a module makes of pixels and the gradients of both; None: as PyTorch itself does it."""
    x = x.clone().requires_grad_()
    if bf16 is None:
        made = module(x)
    else:
        with learning_in(bf16, "cpu"):
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
    with learning_in(False, "cpu"):
        name = type(layer(x).grad_fn).__name__
    assert bias or name == "_DepthwiseBackward", "not the way that is tested"
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


def test_who_asks_for_a_precision_gets_it() -> None:
    assert in_bf16(Phase("p", ("all",), precision="bf16"), "cpu")
    assert not in_bf16(Phase("p", ("all",), precision="fp32"), "cpu")
    assert in_bf16(Phase("p", ("all",)), "cpu") == has_bf16()
    assert not in_bf16(Phase("p", ("all",)), "mps")
