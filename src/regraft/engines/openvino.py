"""The OpenVINO engine: one stream a core, fp32 or bf16, from a network's ONNX graph."""

from __future__ import annotations

import queue
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from regraft.engines.contract import ANSWER_PRECISION, engine_key, filled
from regraft.engines.processor import cores
from regraft.records.engines import Precision
from regraft.records.networks import Readout
from regraft.records.preprocessing import Preprocessing

# OpenVINO reports its import to its makers unless this package, which does so, can't be imported.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]

import openvino  # noqa: E402

_PRECISIONS: dict[Precision, str] = {"fp32": "f32", "bf16": "bf16"}


def precisions() -> tuple[Precision, ...]:
    """What this machine's processor computes in."""
    has = openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return ("fp32", "bf16") if "BF16" in has else ("fp32",)


class OpenVINOEngine:
    """Runs a graph that :func:`regraft.engines.converted.convert` wrote; see
    :class:`regraft.engines.contract.Engine`.

    Raises RuntimeError for a file that OpenVINO can't run.
    """

    def __init__(self, graph: Path, readouts: Sequence[Readout], rules: Preprocessing, batch: int,
                 precision: Precision = ANSWER_PRECISION) -> None:
        self.key = engine_key("openvino", "cpu", precision)
        self.batch = batch
        self.readouts = tuple(readouts)
        # A stream is one core's own: no run waits for another, and decoding threads find their share.
        self.concurrent = cores()
        self._size = rules.size
        self._requests: queue.SimpleQueue[openvino.InferRequest] = queue.SimpleQueue()
        compiled = openvino.Core().compile_model(str(graph), "CPU", {
            "INFERENCE_PRECISION_HINT": _PRECISIONS[precision], "NUM_STREAMS": self.concurrent,
            "INFERENCE_NUM_THREADS": self.concurrent})
        for _ in range(self.concurrent):
            self._requests.put(compiled.create_infer_request())

    def run(self, pixels_BHWC: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Readouts of 1 to ``batch`` images, float32 [B, D]."""
        full = filled(pixels_BHWC, self.batch, self._size)
        request = self._requests.get()
        try:
            request.infer({0: full})
            joined: NDArray[np.float32] = request.get_output_tensor(0).data[:len(pixels_BHWC)].copy()
        finally:
            self._requests.put(request)
        return joined
