"""The ONNX Runtime engine: fp32, each run on the thread that asks for it, from a network's ONNX graph."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from regraft.engines.contract import engine_key, filled
from regraft.engines.processor import cores
from regraft.records.networks import Readout
from regraft.records.preprocessing import Preprocessing

#: Of ONNX Runtime's log: errors alone. It warns of constants that its own optimiser folds.
_ERRORS = 3

# Builds for Windows report what they do to their makers.
onnxruntime.disable_telemetry_events()


def open_session(graph: Path | bytes) -> onnxruntime.InferenceSession:
    """A graph, ready to be run on the processor, on the thread that asks for it."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _ERRORS
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


class ONNXRuntimeEngine:
    """Runs a graph that :func:`regraft.engines.convert.convert` or a
    :class:`~regraft.networks.lite.LiteNetwork` wrote; see :class:`regraft.engines.contract.Engine`.

    Raises an exception of ONNX Runtime's own for a file that it can't run.
    """

    def __init__(self, graph: Path | bytes, readouts: Sequence[Readout], rules: Preprocessing, batch: int) -> None:
        self.key = engine_key("onnxruntime", "cpu", "fp32")
        self.batch = batch
        self.readouts = tuple(readouts)
        self.concurrent = cores()
        self._size = rules.size
        self._session = open_session(graph)
        [self._pixels] = (given.name for given in self._session.get_inputs())

    def run(self, pixels_BHWC: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Readouts of 1 to ``batch`` images, float32 [B, D]."""
        [joined_BD] = self._session.run(None, {self._pixels: filled(pixels_BHWC, self.batch, self._size)})
        joined: NDArray[np.float32] = joined_BD[:len(pixels_BHWC)]
        return joined
