"""In which arithmetic what learns is computed: autocast on a GPU, and what pays on a processor.

On a processor bf16 makes dense convolutions and matrix products twice as fast, and the gradient of a depthwise
convolution's weights several times as slow; norms and the rest gain nothing (LOG.md). So only the former are computed
in it, on weights and sums that stay fp32; that gradient is computed as a correlation where that is faster.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from regraft.engines import processor
from regraft.records.plan import Phase

#: With fewer channels a product in bf16 costs more to prepare than it saves.
_CHANNELS = 24

#: Depthwise kernels from so wide on, and maps of at most so many positions, take the correlation.
_KERNEL, _POSITIONS = 5, 14 * 14

_Pair = tuple[int, int]


def in_bf16(phase: Phase, device: str) -> bool:
    """Whether a phase computes in bf16: asked for, or the device is fast at it."""
    if phase.precision != "auto":
        return phase.precision == "bf16"
    return processor.has_bf16() if device == "cpu" else device == "cuda" and bool(torch.cuda.is_bf16_supported())


def learning_in(bf16: bool, device: str) -> AbstractContextManager[Any]:
    """What a forward pass is run in so that it and its backward pass are computed fast on a device."""
    return _OnProcessor(bf16) if device == "cpu" else torch.autocast(device, torch.bfloat16, enabled=bf16)


class _OnProcessor(TorchFunctionMode):
    """Takes over the operations that something is known of; their results are fp32."""

    def __init__(self, bf16: bool) -> None:
        super().__init__()
        self._bf16 = bf16

    def __torch_function__(self, func: Callable[..., Any], types: Iterable[type], args: tuple[Any, ...] = (),
                           kwargs: dict[str, Any] | None = None) -> Any:
        kwargs = kwargs or {}
        if func is functional.conv2d:
            return self._convolution(*args, **kwargs)
        if func is functional.linear:
            return self._linear(*args, **kwargs)
        return func(*args, **kwargs)

    def _convolution(self, input: Tensor, weight: Tensor, bias: Tensor | None = None, stride: Any = 1,
                     padding: Any = 0, dilation: Any = 1, groups: int = 1) -> Tensor:
        if self._bf16 and groups == 1 and _fit(input, weight):
            return functional.conv2d(*_narrow(input, weight, bias), stride, padding, dilation).float()
        if _pays_correlation(input, weight, stride, padding, dilation, groups):
            made: Tensor = _Depthwise.apply(input, weight, _pair(stride), _pair(padding))
            return made if bias is None else made + bias[:, None, None]
        return functional.conv2d(input, weight, bias, stride, padding, dilation, groups)

    def _linear(self, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        if self._bf16 and _fit(input, weight):
            return functional.linear(*_narrow(input, weight, bias)).float()
        return functional.linear(input, weight, bias)


def _fit(input: Tensor, weight: Tensor) -> bool:
    return weight.shape[1] >= _CHANNELS and input.dtype == weight.dtype == torch.float32


def _narrow(input: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    return input.bfloat16(), weight.bfloat16(), None if bias is None else bias.bfloat16()


def _pair(of: int | _Pair) -> _Pair:
    return (of, of) if isinstance(of, int) else (of[0], of[1])


def _pays_correlation(x: Tensor, weight: Tensor, stride: Any, padding: Any, dilation: Any, groups: int) -> bool:
    channels, height, width = x.shape[-3:]
    down, across = _pair(stride)
    return (1 < groups == channels == len(weight) and x.ndim == 4 and weight.requires_grad
            and x.dtype == weight.dtype == torch.float32 and not isinstance(padding, str) and _pair(dilation) == (1, 1)
            and min(weight.shape[2:]) >= _KERNEL and height * width <= _POSITIONS * down * across)


class _Depthwise(torch.autograd.Function):
    """A depthwise convolution [B, C, H, W] whose weights' gradient is the correlation of each map with its gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: _Pair, padding: _Pair) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride, ctx.padding = stride, padding
        return functional.conv2d(x, weight, None, stride, padding, 1, len(weight))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        [gradient] = gradients
        x, weight = ctx.saved_tensors
        count, channels, height, width = x.shape
        of_x = None
        if ctx.needs_input_grad[0]:
            of_x, _, _ = torch.ops.aten.convolution_backward(
                gradient, x, weight, None, ctx.stride, ctx.padding, (1, 1), False, (0, 0), channels,
                (True, False, False))
        # Every map of every image is a channel here, and its gradient the kernel that goes over it.
        maps, kernels = x.contiguous(), gradient.contiguous()
        every = functional.conv2d(maps.view(1, count * channels, height, width),
                                  kernels.view(count * channels, 1, *gradient.shape[2:]),
                                  padding=ctx.padding, dilation=ctx.stride, groups=count * channels)
        high, wide = weight.shape[2:]
        of_weight = every[0, :, :high, :wide].view(count, channels, high, wide).sum(0)
        return of_x, of_weight[:, None], None, None
