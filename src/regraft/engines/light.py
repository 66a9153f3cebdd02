"""The bundled backbones on the processor do without PyTorch: faster to start, and in a fraction of the memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from regraft.engines import processor
from regraft.engines.contract import Engine
from regraft.errors import MissingExtraError
from regraft.networks.lite import LiteNetwork, is_lite, restore_lite
from regraft.records.networks import Readout
from regraft.records.preprocessing import Preprocessing
from regraft.settings import Device, EngineName

#: Images a run: few, as a single prediction pays for all of them.
_BATCH = 4


def does_without_torch(backbone: str, device: Device, wanted: EngineName = "auto") -> bool:
    """Whether a pass of a network in its usual readouts needs no PyTorch, and nothing is asked for that does."""
    on_processor = device == "cpu" or (device == "auto" and not processor.may_have_gpu())
    return is_lite(backbone) and wanted != "pytorch" and on_processor


def lightened(backbone: str, module: Any, readouts: Sequence[Readout], device: Device, wanted: EngineName,
              ) -> LiteNetwork | None:
    """A bundled backbone's torch module without PyTorch, with a copy of its weights; None where the pass needs PyTorch.

    Its graph is written in no time, where PyTorch's exporter takes seconds.
    """
    if not does_without_torch(backbone, device, wanted):
        return None
    light = restore_lite(backbone, {name: t.numpy(force=True).copy() for name, t in module.state_dict().items()},
                         "reading features")
    return light if all(map(light.gives, readouts)) else None


def light_engine(network: LiteNetwork, readouts: Sequence[Readout], rules: Preprocessing, device: Device) -> Engine:
    """The engine that answers single pictures; raises MissingExtraError where another device is wanted."""
    if device not in ("auto", "cpu"):
        raise MissingExtraError(f"device {device}", "train")
    from regraft.engines.onnxruntime import ONNXRuntimeEngine

    return ONNXRuntimeEngine(network.onnx(readouts, rules, _BATCH), readouts, rules, _BATCH)
