"""The PyTorch engine: channels-last, fp32, inference mode."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from regraft.engines.contract import ANSWER_PRECISION
from regraft.errors import UsageError
from regraft.networks.reader import Reader
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

    def __init__(self, module: nn.Module, readouts: Sequence[Readout], rules: Preprocessing,
                 device: Literal["auto", "cpu", "cuda", "mps"] = "auto") -> None:
        self._device = choose_device(device)
        self.batch = _BATCH[self._device]
        self.readouts = tuple(readouts)
        self.key = f"pytorch-{self._device}-{ANSWER_PRECISION}"
        reader = Reader(module, self.readouts, rules).eval()
        self._reader = reader.to(self._device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._shape = (rules.size, rules.size, 3)
        # What one run taps is not for another thread's run.
        self._running = threading.Lock()

    def run(self, pixels_BHWC: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Readouts of 1 to ``batch`` images, float32 [B, D]."""
        count = len(pixels_BHWC)
        if not 1 <= count <= self.batch:
            raise ValueError(f"{count} images; an engine takes 1 to {self.batch} at a time")
        if pixels_BHWC.shape[1:] != self._shape or pixels_BHWC.dtype != np.uint8:
            raise ValueError(f"images are {pixels_BHWC.dtype} {list(pixels_BHWC.shape[1:])}; this engine takes uint8 "
                             f"{list(self._shape)}")
        full = np.zeros((self.batch, *self._shape), np.uint8)
        full[:count] = pixels_BHWC
        with self._running, torch.inference_mode():
            joined: NDArray[np.float32] = self._reader(torch.from_numpy(full).to(self._device))[:count].cpu().numpy()
        return joined
