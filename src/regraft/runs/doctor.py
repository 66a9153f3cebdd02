"""``doctor``: what this machine has, which engines run on it, and what was chosen."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import platform
import shutil

from regraft import __version__
from regraft.engines import processor
from regraft.extraction.store import FeatureStore
from regraft.records.doctor import Doctor, EngineRow
from regraft.runs.engines import choices, needs
from regraft.settings import DoctorSettings


def doctor(settings: DoctorSettings) -> Doctor:
    """Look around; see :func:`regraft.doctor`."""
    with FeatureStore(settings.store) as store:
        used = store.use()
        kept = choices(store.folder)
    return Doctor(
        __version__, platform.python_version(), f"{platform.system()} {platform.machine()}", processor.name(),
        processor.features(), processor.cores(), processor.memory_bytes(), _gpu(),
        (_pytorch(), _openvino(), _onnxruntime()), used.folder, used.bytes, kept)


def _gpu() -> str:
    """A GPU that PyTorch sees, or one that it does not."""
    there = processor.gpu_driver()
    if there is None and shutil.which("nvidia-smi"):
        there = "NVIDIA"
    if importlib.util.find_spec("torch") is None:
        return "" if there is None else f"a driver of {there}'s is here; PyTorch is not installed"
    import torch

    if torch.cuda.is_available():
        return f"{torch.cuda.get_device_name()}, used by PyTorch with --device cuda"
    if torch.backends.mps.is_available():
        return "Apple's, used by PyTorch with --device mps"
    if there is None:
        return ""
    return (f"a driver of {there}'s is here, but this PyTorch ({torch.__version__}) uses the processor alone; "
            "https://pytorch.org/get-started tells how to install one for the GPU")


def _pytorch() -> EngineRow:
    if missing := _missing("pytorch"):
        return EngineRow("PyTorch", None, (), missing)
    return EngineRow("PyTorch", _version("torch"), ("fp32", "bf16") if processor.has_bf16() else ("fp32",))


def _openvino() -> EngineRow:
    if missing := _missing("openvino"):
        return EngineRow("OpenVINO", _version("openvino"), (), missing)
    from regraft.engines.openvino import precisions

    return EngineRow("OpenVINO", _version("openvino"), precisions())


def _onnxruntime() -> EngineRow:
    if missing := _missing("onnxruntime"):
        return EngineRow("ONNX Runtime", _version("onnxruntime"), (), missing)
    return EngineRow("ONNX Runtime", _version("onnxruntime"), ("fp32",))


def _missing(engine: str) -> str:
    """What must be installed before an engine runs; empty where nothing must."""
    absent = [name for name in needs(engine) if importlib.util.find_spec(name) is None]
    return f"not installed: {', '.join(absent)}; type: pip install \"regraft[train]\"" if absent else ""


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
