"""A classifier's graph in 8-bit whole numbers: the network alone, with ranges learned on images.

Static quantisation by ONNX Runtime, as pairs of QuantizeLinear and DequantizeLinear: activations in 8 bits by tensor,
weights in 7 of 8 bits by channel. With the eighth, processors without VNNI overflow and would answer otherwise than the
one that the file was checked on. What makes pixels into numbers, the head and the novelty stay in fp32: they cost
nothing, and the novelty's whitening would enlarge every rounding.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from regraft.errors import ExportError
from regraft.exports.onnx_file import FEATURES
from regraft.records.exported import PIXELS

#: What the network's arithmetic is in; whatever comes before the first of these makes pixels into numbers.
_HEAVY = ("Conv", "MatMul", "Gemm")


def int8(proto: onnx.ModelProto, pictures: Iterable[NDArray[np.uint8]]) -> onnx.ModelProto:
    """The same graph with its network in int8; each of the pictures, uint8 [S, S, 3], widens the ranges it needs.

    Raises ExportError where the network can't be quantised.
    """
    with tempfile.TemporaryDirectory(prefix="regraft-") as folder, _silent():
        whole, prepared, done = (Path(folder) / f"{name}.onnx" for name in ("whole", "prepared", "done"))
        # What the graph gives keeps its name; inside, the optimiser may take the features for something else.
        watched = onnx.ModelProto()
        watched.CopyFrom(proto)
        watched.graph.output.append(onnx.helper.make_tensor_value_info(FEATURES, onnx.TensorProto.FLOAT, None))
        onnx.save(watched, whole)
        try:
            quant_pre_process(whole, prepared, skip_symbolic_shape=True)
            quantize_static(
                prepared, done, _Pictures(pictures), per_channel=True, reduce_range=True,
                activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
                nodes_to_exclude=_in_fp32(onnx.load(prepared)))
        except Exception as error:  # It fails in as many ways as networks are written.
            lines = str(error).strip().splitlines()
            raise ExportError(f"ONNX Runtime can't bring this network to int8 ({lines[0] if lines else error!r}); take "
                              "--precision fp16 or fp32") from error
        quantised = onnx.load(done)
    outputs = [output for output in quantised.graph.output if output.name != FEATURES]
    del quantised.graph.output[:]
    quantised.graph.output.extend(outputs)
    # The optimiser names every set of operators that it knows; a file names those that it needs.
    needed = {node.domain for node in quantised.graph.node}
    imports = [one for one in quantised.opset_import if one.domain in needed]
    del quantised.opset_import[:]
    quantised.opset_import.extend(imports)
    return quantised


class _Pictures(CalibrationDataReader):  # type: ignore[misc]
    """Pictures one by one, as the quantiser asks for them."""

    def __init__(self, pictures: Iterable[NDArray[np.uint8]]) -> None:
        self._rest = iter(pictures)

    def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
        """The next picture as a batch of one, or None after the last."""
        picture = next(self._rest, None)
        return None if picture is None else {PIXELS: picture[None]}


def _in_fp32(proto: onnx.ModelProto) -> list[str]:
    """Names of the nodes before the network and behind its features."""
    nodes: list[Any] = list(proto.graph.node)
    first = next((i for i, node in enumerate(nodes) if node.op_type in _HEAVY), len(nodes))
    kept, reached = [node.name for node in nodes[:first]], {FEATURES}
    for node in nodes[first:]:
        if reached & {*node.input, *node.output}:  # what joins the features joins them in fp32
            reached |= set(node.output)
            kept.append(node.name)
    return [name for name in kept if name]


@contextmanager
def _silent() -> Iterator[None]:
    """What the quantiser advises on itself is no concern of the user's."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
