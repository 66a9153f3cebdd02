"""A classifier as one ONNX file: no external data, nothing of the machine that made it."""

from __future__ import annotations

from collections.abc import Mapping

import onnx
import torch
from torch import Tensor, nn

from regraft.errors import DataError, ExportError
from regraft.exports.candidate import Candidate
from regraft.exports.graph import Classifier
from regraft.networks.onnx_graph import onnx_graph, refuse_large
from regraft.records.exported import LOGITS, NOVELTY, PROBABILITIES, SEAL, UNSEALED, sealed
from regraft.runtime import OnnxModel

#: What the head reads; a name inside the graph, to tell the network from what follows it.
FEATURES = "features"


class _WithFeatures(nn.Module):
    """A classifier that gives its features too, so that they have a name in the graph."""

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, pixels_NHWC: Tensor) -> tuple[Tensor, ...]:
        """Features, probabilities, logits and, where it is measured, novelty."""
        features_ND = self.classifier.reader(pixels_NHWC)
        return features_ND, *self.classifier.answer(features_ND)


def onnx_model(classifier: Classifier, size: int) -> onnx.ModelProto:
    """The graph of a classifier of images of ``size`` pixels, for any number N of them.

    Raises ExportError where the network can't be translated or is larger than one file holds.
    """
    # Two images: of one, the exporter would take the number for a constant of the network.
    example_NHWC = torch.zeros(2, size, size, 3, dtype=torch.uint8)
    measured = [] if classifier.novelty is None else [NOVELTY]
    names = [FEATURES, PROBABILITIES, LOGITS, *measured]
    proto = onnx_graph(_WithFeatures(classifier), example_NHWC, names, any_number=True)
    outputs = [output for output in proto.graph.output if output.name != FEATURES]
    del proto.graph.output[:]
    proto.graph.output.extend(outputs)
    return proto


def onnx_candidate(data: bytes) -> Candidate:
    """A file as ONNX Runtime opens it; raises ExportError where it can't."""
    try:
        opened = OnnxModel(data)
    except DataError as error:
        raise ExportError(f"ONNX Runtime can't run the exported file ({error}); take another backbone or precision"
                          ) from None
    measured = () if opened.record.unknown is None else (NOVELTY,)
    return Candidate({".onnx": data}, opened.record, (PROBABILITIES, LOGITS, *measured), opened.outputs)


def onnx_bytes(proto: onnx.ModelProto, about: Mapping[str, str] | None = None) -> bytes:
    """The file of a graph, with what it says about itself and its digest; raises ExportError if it is too large."""
    onnx.helper.set_model_props(proto, {} if about is None else {**about, SEAL: UNSEALED})
    refuse_large(proto.ByteSize())
    onnx.checker.check_model(proto)
    data: bytes = proto.SerializeToString(deterministic=True)
    return data if about is None else sealed(data)
