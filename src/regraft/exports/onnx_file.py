"""A classifier as the bytes of one ONNX file: no external data, nothing of the machine that made it."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from typing import Any

import onnx
import onnxscript
import torch
from torch import nn

from regraft.errors import ExportError
from regraft.records.exported import LOGITS, MOST_BYTES, PIXELS, PROBABILITIES

#: Version of ONNX's operators. PyTorch's exporter writes this one without converting.
OPSET = 18


def onnx_bytes(classifier: nn.Module, size: int, about: Mapping[str, str]) -> bytes:
    """The file of a classifier of images of ``size`` pixels, for any number N of them.

    Raises ExportError where the network can't be translated or is larger than one file holds.
    """
    weights = sum(t.numel() * t.element_size() for t in (*classifier.parameters(), *classifier.buffers()))
    _refuse_large(weights)
    # Two images: of one, the exporter would take the number for a constant of the network.
    example = torch.zeros(2, size, size, 3, dtype=torch.uint8)
    try:
        # Some versions of what it uses print what they do, and standard output belongs to the result.
        with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
            program = torch.onnx.export(
                classifier.eval(), (example,), dynamo=True, verbose=False, external_data=False, opset_version=OPSET,
                input_names=[PIXELS], output_names=[PROBABILITIES, LOGITS],
                dynamic_shapes=({0: torch.export.Dim("N", min=1)},))
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
    onnx.helper.set_model_props(proto, dict(about))
    _refuse_large(proto.ByteSize())
    onnx.checker.check_model(proto)
    data: bytes = proto.SerializeToString(deterministic=True)
    return data


def _refuse_large(size: int) -> None:
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
