"""A classifier as the bytes of one ONNX file: no external data, nothing of the machine that made it."""

from __future__ import annotations

import json
from collections.abc import Mapping

import onnx
import torch
from torch import nn

from regraft import __version__
from regraft.networks.onnx_graph import onnx_graph, refuse_large
from regraft.records.model import ModelRecord

#: Names of what comes out.
PROBABILITIES, LOGITS = "probabilities", "logits"

#: Of the metadata in the file.
FORMAT_VERSION = 1


def metadata(record: ModelRecord, digest: str) -> dict[str, str]:
    """What the file says about itself: enough to go from a picture's bytes to a label with nothing else."""
    return {
        "format_version": str(FORMAT_VERSION), "regraft_version": __version__, "model_digest": digest,
        "labels": json.dumps(record.classes), "preprocessing": json.dumps(record.preprocessing.to_dict()),
    }


def onnx_bytes(classifier: nn.Module, size: int, about: Mapping[str, str]) -> bytes:
    """The file of a classifier of images of ``size`` pixels, for any number N of them.

    Raises ExportError where the network can't be translated or is larger than one file holds.
    """
    # Two images: of one, the exporter would take the number for a constant of the network.
    example_NHWC = torch.zeros(2, size, size, 3, dtype=torch.uint8)
    proto = onnx_graph(classifier, example_NHWC, [PROBABILITIES, LOGITS], any_number=True)
    onnx.helper.set_model_props(proto, dict(about))
    refuse_large(proto.ByteSize())
    onnx.checker.check_model(proto)
    data: bytes = proto.SerializeToString(deterministic=True)
    return data
