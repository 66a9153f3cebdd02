"""A classifier as OpenVINO's intermediate representation: a graph as XML and its weights beside it, in fp32."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import regraft.engines.openvino  # noqa: F401  - keeps OpenVINO from reporting its import

# isort: split
import openvino

from regraft.errors import ExportError
from regraft.exports.candidate import Candidate
from regraft.records.exported import LOGITS, NOVELTY, PROBABILITIES, ExportedRecord
from regraft.runtime import Outputs

#: Under this name the graph says what it is.
_ABOUT = "regraft"


def openvino_files(onnx: bytes, about: Mapping[str, str]) -> Candidate:
    """The IR of an ONNX file; raises ExportError where OpenVINO can't read or run it."""
    with tempfile.TemporaryDirectory(prefix="regraft-") as folder:
        xml = Path(folder) / "model.xml"
        try:
            graph = openvino.Core().read_model(onnx, b"")
            for name, text in about.items():
                graph.set_rt_info(text, [_ABOUT, name])
            openvino.save_model(graph, xml, compress_to_fp16=False)
            return _opened({ending: xml.with_suffix(ending).read_bytes() for ending in (".xml", ".bin")})
        except RuntimeError as error:
            lines = str(error).strip().splitlines()
            raise ExportError(f"OpenVINO can't take this network ({lines[-1] if lines else error!r}); write "
                              "--format onnx") from error


def _opened(files: Mapping[str, bytes]) -> Candidate:
    """The files as OpenVINO runs them on the processor."""
    core = openvino.Core()
    graph = core.read_model(files[".xml"], openvino.Tensor(np.frombuffer(files[".bin"], np.uint8)))
    record = ExportedRecord.from_metadata(
        {name: graph.get_rt_info([_ABOUT, name]).astype(str) for name in graph.get_rt_info()[_ABOUT]})
    compiled = core.compile_model(graph, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    there = {name for output in compiled.outputs for name in output.get_names()}
    names = [name for name in (PROBABILITIES, LOGITS, NOVELTY) if name in there]

    def run(pixels_BHWC: NDArray[np.uint8]) -> Outputs:
        answer = compiled([pixels_BHWC])
        return Outputs(*(np.asarray(answer[name]) for name in names))

    return Candidate(files, record, tuple(names), run)
