"""A classifier as a PyTorch program (``torch.export``, .pt2): it runs with torch alone, without the network's code."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from regraft.errors import ExportError
from regraft.exports.candidate import Candidate
from regraft.exports.graph import Classifier
from regraft.records.exported import LOGITS, NOVELTY, PROBABILITIES, ExportedRecord
from regraft.runtime import Outputs

#: The file inside the program that says what it is.
ABOUT = "regraft.json"

#: What the exporter notes of this machine at every node.
_TRACES = ("stack_trace", "nn_module_stack", "source_fn_stack", "from_node", "fwd_source_fn_stack")


class _Named(nn.Module):
    """A classifier that names what it gives."""

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, pixels_NHWC: Tensor) -> dict[str, Tensor]:
        """Probabilities, logits and, where it is measured, novelty."""
        return dict(zip((PROBABILITIES, LOGITS, NOVELTY), self.classifier(pixels_NHWC), strict=False))


def torch_files(classifier: Classifier, size: int, about: Mapping[str, str]) -> Candidate:
    """The program of a classifier of images of ``size`` pixels, for any number of them.

    Raises ExportError where the network can't be traced.
    """
    # Two images: of one, the exporter would take the number for a constant of the network.
    example_NHWC = torch.zeros(2, size, size, 3, dtype=torch.uint8)
    buffer = io.BytesIO()
    try:
        program = torch.export.export(_Named(classifier).eval(), (example_NHWC,),
                                      dynamic_shapes=({0: torch.export.Dim("N", min=1)},))
        for node in program.graph.nodes:
            for trace in _TRACES:
                node.meta.pop(trace, None)
        torch.export.save(program, buffer, extra_files={ABOUT: json.dumps(dict(about))})
    except Exception as error:  # It fails in as many ways as networks are written.
        lines = str(error).strip().splitlines()
        raise ExportError(f"torch.export can't take this network ({lines[0] if lines else type(error).__name__}); "
                          "write --format onnx") from error
    return _opened(buffer.getvalue())


def _opened(data: bytes) -> Candidate:
    told = {ABOUT: ""}
    module = torch.export.load(io.BytesIO(data), extra_files=told).module()
    texts = json.loads(told[ABOUT])

    def run(pixels_BHWC: NDArray[np.uint8]) -> Outputs:
        with torch.inference_mode():
            answer = module(torch.from_numpy(np.ascontiguousarray(pixels_BHWC)))
        return Outputs(*(tensor.numpy() for tensor in answer.values()))

    record = ExportedRecord.from_metadata(texts)
    measured = () if record.unknown is None else (NOVELTY,)
    return Candidate({".pt2": data}, record, (PROBABILITIES, LOGITS, *measured), run)
