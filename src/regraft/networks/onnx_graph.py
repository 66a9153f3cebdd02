"""A module as an ONNX graph: what exports write down, and what other engines than PyTorch run."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from typing import Any

import onnx
import onnxscript
import torch
from torch import Tensor, nn

from regraft.errors import ExportError
from regraft.records.exported import MOST_BYTES, OPSET, PIXELS


def onnx_graph(module: nn.Module, example_NHWC: Tensor, outputs: Sequence[str], any_number: bool) -> onnx.ModelProto:
    """The graph of a module that takes pixels, with all weights and nothing of the machine that made it.

    ``any_number`` leaves the number of images open; else it is the example's. Raises ExportError where the module
    can't be translated or is larger than one file holds.
    """
    weights = sum(t.numel() * t.element_size() for t in (*module.parameters(), *module.buffers()))
    refuse_large(weights)
    shapes = ({0: torch.export.Dim("N", min=1)},) if any_number else None
    try:
        # Some versions of what it uses print what they do, and standard output belongs to the result.
        with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
            program = torch.onnx.export(
                module.eval(), (example_NHWC,), dynamo=True, verbose=False, external_data=False, opset_version=OPSET,
                input_names=[PIXELS], output_names=list(outputs), dynamic_shapes=shapes)
    except Exception as error:  # The exporter fails in as many ways as networks are written.
        cause = _cause(error)
        if isinstance(cause, ImportError):  # a PyTorch that is newer than what it exports with
            raise ExportError(f"PyTorch {torch.__version__} can't export with onnxscript {onnxscript.__version__} "
                              f"({cause}); type: pip install -U onnxscript") from error
        raise ExportError(f"PyTorch's ONNX exporter can't translate this network ({_first_line(cause)}); take another "
                          "backbone, or use the model folder itself") from error
    assert program is not None  # None is the old exporter's answer
    proto: onnx.ModelProto = program.model_proto
    # The exporter notes source lines and paths of this machine at every node.
    _strip(proto)
    return proto


def refuse_large(size: int) -> None:
    """Raise ExportError for more bytes than one file holds."""
    if size > MOST_BYTES:
        raise ExportError(f"the network takes {size:,} bytes, and one ONNX file holds at most {MOST_BYTES:,}; take a "
                          "smaller backbone, or use the model folder itself")


def _cause(error: BaseException) -> BaseException:
    """The innermost cause: the exporter wraps it in advice on itself."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def _strip(message: Any) -> None:
    """Remove notes and documentation from a protocol buffer and all in it; they decide nothing."""
    for field, value in message.ListFields():
        if field.name in ("metadata_props", "doc_string"):
            message.ClearField(field.name)
        elif field.message_type is not None:
            # A field of one message is the message, a repeated one holds several.
            for part in (value,) if hasattr(value, "ListFields") else value:
                _strip(part)
