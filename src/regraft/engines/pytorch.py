"""The PyTorch engine: channels-last, fp32 or bf16 by autocast, inference mode."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from regraft.engines.allocation import keep_freed_memory
from regraft.engines.contract import ANSWER_PRECISION, engine_key, filled
from regraft.errors import UsageError
from regraft.networks.reader import Reader
from regraft.records.engines import Precision
from regraft.records.networks import Readout
from regraft.records.preprocessing import Preprocessing

#: Images a run, by device. Measured on two AVX-512 cores: 4 to 16 are equally fast, 32 is slower, and a
#: single prediction pays for the whole batch; a GPU wants many.
_BATCH = {"cpu": 4, "cuda": 64, "mps": 16}


def choose_device(device: Literal["auto", "cpu", "cuda", "mps"]) -> str:
    """The device to run on; raises UsageError for one this machine or this PyTorch does not have."""
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if device == "auto":
        return next(name for name in ("cuda", "mps", "cpu") if there[name])
    if not there[device]:
        raise UsageError(f"device: {device!r} is not to be had here; PyTorch {torch.__version__} sees "
                         f"{', '.join(name for name, yes in there.items() if yes)}")
    return device


class PyTorchEngine:
    """Runs a network and pools what passes at its readouts; see :class:`regraft.engines.contract.Engine`.

    A :class:`~regraft.networks.graph.Prefix` is run as it is.
    """

    #: One run keeps all cores busy, and what it taps is not for another thread's run.
    concurrent = 1

    def __init__(self, module: nn.Module, readouts: Sequence[Readout], rules: Preprocessing,
                 device: Literal["auto", "cpu", "cuda", "mps"] = "auto", precision: Precision = ANSWER_PRECISION,
                 ) -> None:
        self._device = choose_device(device)
        keep_freed_memory()
        self._precision = precision
        self.batch = _BATCH[self._device]
        self.readouts = tuple(readouts)
        self.key = engine_key("pytorch", self._device, precision)
        reader = Reader(module, self.readouts, rules).eval()
        self._reader = reader.to(self._device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._size = rules.size
        self._running = threading.Lock()

    def run(self, pixels_BHWC: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Readouts of 1 to ``batch`` images, float32 [B, D]."""
        full = torch.from_numpy(filled(pixels_BHWC, self.batch, self._size))
        half = torch.autocast(self._device, torch.bfloat16, enabled=self._precision == "bf16", cache_enabled=False)
        with self._running, torch.inference_mode(), half:
            joined: NDArray[np.float32] = self._reader(full.to(self._device))[:len(pixels_BHWC)].cpu().numpy()
        return joined
