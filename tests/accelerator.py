"""A stand-in for a GPU: a device of main memory, whose tensors never meet those of the processor.

    python -m tests.accelerator DATA OUT STRATEGY...

Trains with each strategy on it and writes the epochs and the answers to OUT/STRATEGY.json. What a GPU refuses, it
refuses too: tensors of two devices in one operation, and 64-bit numbers as Apple's do. It computes with the processor's
operations, one call of Python each, so it is slow.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, cast

import regraft.networks  # noqa: F401 - before PyTorch, whose threads wait as it says

# isort: split
import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

from regraft.engines import processor, pytorch
from regraft.settings import Strategy

NAME = "stand_in"

_aten = torch.ops.aten

#: Memory of the tensors on the device: their storage, and the tensor on the processor that holds the numbers.
_held: dict[int, tuple[Any, Tensor]] = {}
_sweep_at = [2_000]

#: Operations that were run on the device, by name.
ran: Counter[str] = Counter()

#: Operations that PyTorch does not send to a device's fallback, or that it names otherwise for devices of this kind.
_SENT = ("convolution_overrideable", "convolution_backward_overrideable", "slice.Tensor", "select.int", "expand",
         "permute", "t", "transpose.int", "squeeze", "squeeze.dim", "squeeze.dims", "unsqueeze", "split.Tensor",
         "split_with_sizes", "unbind.int", "alias")


def _backward(gradient: Tensor, x: Tensor, weight: Tensor, *others: Any) -> Any:
    return _aten.convolution_backward.default(gradient, x, weight, [len(weight)], *others)


_INSTEAD: dict[Any, Callable[..., Any]] = {
    _aten.convolution_overrideable.default: _aten.convolution.default,
    _aten.convolution_backward_overrideable.default: _backward,
    _aten.view.default: _aten.reshape.default,
    _aten._unsafe_view.default: _aten.reshape.default,
    _aten._reshape_alias.default: lambda x, size, _: x.reshape(size),
}


class _Tensor(torch.Tensor):
    """A tensor on the device."""

    @staticmethod
    def __new__(cls, numbers: Tensor) -> _Tensor:
        made: Any = torch._C._acc.create_empty_tensor(numbers.shape, numbers.dtype)
        made.__class__ = _Tensor
        storage = made.untyped_storage()
        _held[storage._cdata] = (storage, numbers)
        if len(_held) >= _sweep_at[0]:
            _sweep()
        assert isinstance(made, _Tensor)
        return made

    def __init__(self, numbers: Tensor) -> None:
        """Made above."""


def _sweep() -> None:
    """Forget what no tensor refers to any more."""
    for key in [key for key in list(_held) if torch._C._storage_Use_Count(key) <= 1]:
        _held.pop(key, None)
    _sweep_at[0] = len(_held) + 500


def _is_there(value: Any) -> bool:
    return isinstance(value, Tensor) and value.device.type == NAME


def _numbers(value: Any) -> Any:
    """What an operation on the processor is given instead."""
    if _is_there(value):
        return _held[value.untyped_storage()._cdata][1]
    return "cpu" if isinstance(value, torch.device) and value.type == NAME else value


def _run(operation: Any, *args: Any, **kwargs: Any) -> Any:
    """Any operation on tensors of the device."""
    ran[str(operation)] += 1
    if operation in (_aten._copy_from.default, _aten.copy_.default):  # the only one between devices
        source, target = args[:2] if operation is _aten._copy_from.default else args[1::-1]
        _numbers(target).copy_(_numbers(source))
        return target
    tensors = [value for value in pytree.tree_leaves((args, kwargs)) if isinstance(value, Tensor)]
    if any(not _is_there(tensor) and tensor.ndim for tensor in tensors):
        raise RuntimeError(f"{operation}: tensors of both devices")
    back = "device" in kwargs and torch.device(kwargs["device"]).type == "cpu"
    if any(t.dtype == torch.float64 for t in tensors) or (kwargs.get("dtype") == torch.float64 and not back):
        raise TypeError(f"{operation}: no 64-bit numbers on this device")
    made = _INSTEAD.get(operation, operation)(*pytree.tree_map(_numbers, args), **pytree.tree_map(_numbers, kwargs))
    returned = operation._schema.returns
    written = [value for value, about in zip(args, operation._schema.arguments, strict=False)
               if about.alias_info is not None and about.alias_info.is_write]
    if written and len(returned) == 1 and returned[0].alias_info is not None:
        return written[0]
    if back or not returned:
        return made
    is_view = any(one.alias_info is not None for one in returned)

    def there(value: Any) -> Any:
        return value if not isinstance(value, Tensor) else _Tensor(value if is_view else value.contiguous())

    return pytree.tree_map(there, made)


def install() -> list[torch.library.Library]:
    """Make the device known to PyTorch, and the one that Regraft chooses; what is returned must be kept."""
    _setup_privateuseone_for_python_backend(NAME)
    module = getattr(torch, NAME)
    module.get_amp_supported_dtype = lambda: [torch.bfloat16]
    module.get_rng_state = lambda *_: torch.get_rng_state()
    module.set_rng_state = lambda *_: None
    fallback = torch.library.Library("_", "IMPL")  # type: ignore[no-untyped-call]
    own = torch.library.Library("aten", "IMPL")  # type: ignore[no-untyped-call]
    fallback.fallback(_run, "PrivateUse1")  # type: ignore[no-untyped-call]
    for name in _SENT:
        operation, _, overload = name.partition(".")
        sent = partial(_run, getattr(getattr(_aten, operation), overload or "default"))
        own.impl(name, sent, "PrivateUse1")  # type: ignore[no-untyped-call]
    # Its tensors can't be made in inference mode.
    instead: dict[tuple[Any, str], Callable[..., Any]] = {
        (torch, "inference_mode"): lambda mode=True: torch.no_grad() if mode else contextlib.nullcontext(),
        (pytorch, "choose_device"): lambda _: NAME, (processor, "may_have_gpu"): lambda: True}
    for (owner, name), function in instead.items():
        setattr(owner, name, function)
    pytorch._BATCH[NAME] = 4
    return [fallback, own]


def main() -> None:
    """Train on the device."""
    data, out, *strategies = sys.argv[1:]
    kept = install()
    import regraft

    for strategy in strategies:
        ran.clear()
        result = regraft.train(data, strategy=cast(Strategy, strategy), out=Path(out, strategy),
                               store=Path(out, "store"), quiet=True, report="none",
                               set=("phases.0.epochs=1", "phases.0.precision=fp32"))
        Path(out, f"{strategy}.json").write_text(json.dumps({"result": result.to_dict(), "ran": ran}))
    del kept


if __name__ == "__main__":
    main()
