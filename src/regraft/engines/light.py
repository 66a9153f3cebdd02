"""The engine where PyTorch is not installed: a bundled backbone through ONNX Runtime in fp32."""

from __future__ import annotations

from collections.abc import Sequence

from regraft.engines.contract import Engine
from regraft.errors import MissingExtraError
from regraft.networks.lite import LiteNetwork
from regraft.records.networks import Readout
from regraft.records.preprocessing import Preprocessing
from regraft.settings import Device, EngineName

#: Images a run: few, as a single prediction pays for all of them.
_BATCH = 4


def light_engine(network: LiteNetwork, readouts: Sequence[Readout], rules: Preprocessing, device: Device,
                 wanted: EngineName = "auto") -> Engine:
    """The engine of a network; raises MissingExtraError where another engine or device is wanted."""
    if device not in ("auto", "cpu"):
        raise MissingExtraError(f"device {device}", "train")
    if wanted not in ("auto", "onnxruntime"):
        raise MissingExtraError(f"the engine {wanted}", "train")
    from regraft.engines.onnxruntime import ONNXRuntimeEngine

    return ONNXRuntimeEngine(network.onnx(readouts, rules), readouts, rules, _BATCH)
