"""In which arithmetic what learns is computed: autocast on a GPU, and what pays on a processor.

On a processor bf16 makes dense convolutions and matrix products twice as fast, and the gradient of a depthwise
convolution's weights several times as slow; the rest gains nothing (LOG.md). So only the former are computed in it, on
weights and sums that stay fp32; that gradient is computed as a correlation where that is faster. A batch norm that
uses what it was trained with is a factor and a shift for each channel: both go into the convolution before it, so that
no activation passes through the norm, forwards or backwards, and its weights learn through the convolution's.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from regraft.engines import processor
from regraft.errors import TrainingError
from regraft.records.plan import Phase

#: With fewer channels a product in bf16 costs more to prepare than it saves.
_CHANNELS = 24

#: Depthwise kernels from so wide on, and maps of at most so many positions, take the correlation.
_KERNEL, _POSITIONS = 5, 14 * 14

_Pair = tuple[int, int]


#: Largest difference of what a network makes with its norms inside its convolutions, as a share of the largest number.
_AGREES = 1e-4


@dataclass(frozen=True, eq=False)
class _Norm:
    """A batch norm behind the convolution that ``weight`` belongs to, as its function is called."""

    weight: Tensor
    given: Mapping[str, Any]

    def inside(self, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
        """Weights and bias of the convolution that does both."""
        given = self.given
        factor_C = torch.rsqrt(given["running_var"] + given.get("eps", 1e-5))
        if given.get("weight") is not None:
            factor_C = factor_C * given["weight"]
        shift_C = (0 if bias is None else bias) - given["running_mean"]
        shift_C = shift_C * factor_C
        if given.get("bias") is not None:
            shift_C = shift_C + given["bias"]
        return weight * factor_C[:, None, None, None], shift_C


@dataclass(frozen=True, eq=False)
class Arithmetic:
    """How what learns is computed on a device; ``norms`` are those that go into convolutions, by these' weights."""

    device: str
    bf16: bool
    norms: Mapping[int, _Norm] = field(default_factory=dict)

    def learning(self) -> AbstractContextManager[Any]:
        """What a forward pass is run in so that it and its backward pass are computed fast."""
        if self.device == "cpu":
            return _OnProcessor(self.bf16, self.norms)
        return torch.autocast(self.device, torch.bfloat16, enabled=self.bf16)


def arithmetic(phase: Phase, device: str, learns: nn.Module | None, shape: tuple[int, ...]) -> Arithmetic:
    """How a phase computes ``learns``, which takes tensors [B, *shape], in inference mode now."""
    bf16 = learns is not None and in_bf16(phase, device)
    # Norms that work on each batch's own statistics are no constant factors.
    if learns is None or device != "cpu" or phase.batch_norm != "inference":
        return Arithmetic(device, bf16)
    return Arithmetic(device, bf16, _norms_inside(learns, shape))


def in_bf16(phase: Phase, device: str) -> bool:
    """Whether a phase computes in bf16: asked for, or the device is fast at it."""
    if phase.precision != "auto":
        return phase.precision == "bf16"
    return processor.has_bf16() if device == "cpu" else device == "cuda" and bool(torch.cuda.is_bf16_supported())


@torch.no_grad()
def _norms_inside(module: nn.Module, shape: tuple[int, ...]) -> dict[int, _Norm]:
    """Norms that may go into the convolutions before them: of all, or of none.

    Found by looking on, and tried out: what else reads a convolution's result would get the norm's.
    """
    x = torch.randn((2, *shape), generator=torch.Generator().manual_seed(0))
    if x.ndim == 4:
        x = x.contiguous(memory_format=torch.channels_last)
    with _Looking() as seen:
        expected = module(x.clone())
    if not seen.norms:
        return {}
    try:
        with _OnProcessor(False, seen.norms):
            made = module(x)
    except _NotNormedError:
        return {}
    agrees = float((made - expected).abs().max()) <= _AGREES * float(expected.abs().max())
    return seen.norms if agrees else {}


_SIGNATURE = inspect.signature(functional.batch_norm)


class _Looking(TorchFunctionMode):
    """Notes which convolution's result each batch norm is given."""

    def __init__(self) -> None:
        super().__init__()
        self.norms: dict[int, _Norm] = {}
        self._weight: Tensor | None = None
        self._made: Any = None

    def __torch_function__(self, func: Callable[..., Any], types: Iterable[type], args: tuple[Any, ...] = (),
                           kwargs: dict[str, Any] | None = None) -> Any:
        kwargs = kwargs or {}
        made = func(*args, **kwargs)
        if func is functional.conv2d:
            self._weight, self._made = args[1] if len(args) > 1 else kwargs["weight"], made
        elif func is functional.batch_norm:
            given = _SIGNATURE.bind(*args, **kwargs).arguments
            if given.pop("input") is self._made and self._weight is not None and not given.get("training"):
                self.norms[id(self._weight)] = _Norm(self._weight, given)
        return made


class _NotNormedError(TrainingError):
    """A convolution that has a norm inside was not followed by it."""

    def __init__(self) -> None:
        super().__init__("while the network learns, something comes between a convolution and its batch norm that is "
                         "not there while it answers; batch_norm = \"inference\" is not possible with it, take "
                         "batch_norm = \"training\"")


class _OnProcessor(TorchFunctionMode):
    """Takes over the operations that something is known of; their results are fp32."""

    def __init__(self, bf16: bool, norms: Mapping[int, _Norm]) -> None:
        super().__init__()
        self._bf16 = bf16
        self._norms = norms
        self._normed: Tensor | None = None  # what the next norm is to be given, and gives back

    def __torch_function__(self, func: Callable[..., Any], types: Iterable[type], args: tuple[Any, ...] = (),
                           kwargs: dict[str, Any] | None = None) -> Any:
        kwargs = kwargs or {}
        if func is functional.conv2d:
            return self._with_norm(*args, **kwargs)
        if func is functional.linear:
            return self._linear(*args, **kwargs)
        if func is functional.hardtanh:  # ReLU6 too
            return _clamped(*args, **kwargs)
        if func is functional.batch_norm and self._normed is not None:
            return self._already(**_SIGNATURE.bind(*args, **kwargs).arguments)
        return func(*args, **kwargs)

    def __exit__(self, raised: type[BaseException] | None, *others: Any) -> None:
        super().__exit__(raised, *others)  # type: ignore[no-untyped-call]
        if raised is None and self._normed is not None:
            raise _NotNormedError

    def _with_norm(self, input: Tensor, weight: Tensor, bias: Tensor | None = None, *others: Any,
                   **named: Any) -> Tensor:
        if self._normed is not None:
            raise _NotNormedError
        norm = self._norms.get(id(weight))
        if norm is None:
            return self._convolution(input, weight, bias, *others, **named)
        self._normed = self._convolution(input, *norm.inside(weight, bias), *others, **named)
        return self._normed

    def _already(self, input: Tensor, training: bool = False, **_: Any) -> Tensor:
        if input is not self._normed or training:
            raise _NotNormedError
        self._normed = None
        return input

    def _convolution(self, input: Tensor, weight: Tensor, bias: Tensor | None = None, stride: Any = 1,
                     padding: Any = 0, dilation: Any = 1, groups: int = 1) -> Tensor:
        if self._bf16 and groups == 1 and _fit(input, weight):
            return functional.conv2d(*_narrow(input, weight, bias), stride, padding, dilation).float()
        if _pays_correlation(input, weight, stride, padding, dilation, groups):
            made: Tensor = _Depthwise.apply(input, weight, bias, _pair(stride), _pair(padding))
            return made
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


def _clamped(input: Tensor, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False) -> Tensor:
    # PyTorch refuses to change a leaf, and a view's history is its own affair.
    if not inplace or not input.requires_grad or input.is_leaf or input._is_view():
        return functional.hardtanh(input, min_val, max_val, inplace)
    made: Tensor = _Clamped.apply(input, min_val, max_val)
    return made


class _Clamped(torch.autograd.Function):
    """Clamps in place; what comes out tells where gradients end, so what came in is not copied, as PyTorch does it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, low: float, high: float) -> Tensor:
        ctx.low, ctx.high = low, high
        ctx.mark_dirty(x.clamp_(low, high))
        ctx.save_for_backward(x)
        return x

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        [x] = ctx.saved_tensors
        return torch.ops.aten.hardtanh_backward(gradients[0], x, ctx.low, ctx.high), None, None


class _Depthwise(torch.autograd.Function):
    """A depthwise convolution [B, C, H, W] whose weights' gradient is the correlation of each map with its gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, stride: _Pair, padding: _Pair) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride, ctx.padding = stride, padding
        return functional.conv2d(x, weight, bias, stride, padding, 1, len(weight))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor, Tensor | None, None, None]:
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
        of_bias = gradient.sum((0, 2, 3)) if ctx.needs_input_grad[2] else None
        return of_x, of_weight[:, None], of_bias, None, None
