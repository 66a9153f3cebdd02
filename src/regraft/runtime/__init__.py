"""Exported files answer here, through ONNX Runtime; nothing in this room needs PyTorch."""

from regraft.runtime.model import OnnxModel, Outputs, is_onnx, load_onnx

__all__ = ["OnnxModel", "Outputs", "is_onnx", "load_onnx"]
