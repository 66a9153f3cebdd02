"""What runs the engines: the processor's name, its cores, and which arithmetic it has."""

from __future__ import annotations

import ctypes.util
import os
import platform
import sys
from pathlib import Path

#: Words of /proc/cpuinfo that decide how fast a network runs, and what they stand for.
_FEATURES = {"avx2": "AVX2", "avx512f": "AVX-512", "avx_vnni": "AVX-VNNI", "avx512_vnni": "AVX-512 VNNI",
             "avx512_bf16": "AVX-512 BF16", "avx512_fp16": "AVX-512 FP16", "amx_bf16": "AMX BF16",
             "amx_int8": "AMX INT8", "asimd": "NEON", "bf16": "BF16", "sve": "SVE"}

#: What a driver of a GPU makes on Linux, and whose it is; WSL has that of Windows.
_DRIVERS = {"/dev/nvidiactl": "NVIDIA", "/proc/driver/nvidia/version": "NVIDIA", "/dev/kfd": "AMD",
            "/dev/dxg": "Windows"}

#: Those in which a product of bf16 numbers is one instruction.
_BF16 = {"AVX-512 BF16", "AMX BF16", "BF16"}


def cores() -> int:
    """Cores this process may run on; a container may have fewer than the machine."""
    allowed = getattr(os, "sched_getaffinity", None)
    return len(allowed(0)) if allowed is not None else os.cpu_count() or 1


def name() -> str:
    """The processor's name, as the system tells it."""
    return _told("model name") or platform.processor() or platform.machine()


def features() -> tuple[str, ...]:
    """The arithmetic it has, of what matters here; nothing where the system does not tell."""
    flags = set((_told("flags") or _told("Features")).split())
    return tuple(words for flag, words in _FEATURES.items() if flag in flags)


def has_bf16() -> bool:
    """Whether it is known to multiply bf16 numbers itself."""
    return bool(_BF16 & set(features()))


def may_have_gpu() -> bool:
    """Whether there may be a GPU that PyTorch could use: whether there is one, only PyTorch can tell."""
    if sys.platform == "darwin":
        return platform.machine() == "arm64"
    if sys.platform == "win32":
        return ctypes.util.find_library("nvcuda") is not None
    return gpu_driver() is not None


def gpu_driver() -> str | None:
    """Whose driver of a GPU there is, None where none was found; on Linux alone."""
    return next((maker for file, maker in _DRIVERS.items() if Path(file).exists()), None)


def memory_bytes() -> int | None:
    """Memory of the machine, None where the system does not tell."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None


def _told(key: str) -> str:
    """The first line of /proc/cpuinfo about something, empty where there is none."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.partition(":")[0].strip() == key), "")
