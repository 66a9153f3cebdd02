"""What a figure was measured on and with: written beside every table."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path

_PACKAGES = ("regraft", "torch", "torchvision", "timm", "scikit-learn", "numpy", "Pillow")

RESULTS = Path(__file__).parent / "results"


def conditions(command: str) -> dict[str, str]:
    """Command, commit, processor, cores, system and versions."""
    found = {
        "command": command, "commit": _commit(), "processor": _processor(), "cores": str(os.cpu_count()),
        "system": f"{platform.system()} {platform.machine()}", "python": platform.python_version(),
    }
    return {**found, **{name: importlib.metadata.version(name) for name in _PACKAGES}}


def _commit() -> str:
    """The commit measured; ``-dirty`` where a file differs from it, results apart: every benchmark writes those."""
    def asked(*command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(["git", *command], capture_output=True, text=True, check=False, cwd=Path(__file__).parent)

    commit = asked("rev-parse", "--short=10", "HEAD").stdout.strip()
    if not commit:
        return "unknown"
    changed = asked("diff", "--quiet", "HEAD", "--", ":/", f":(exclude){RESULTS.name}").returncode
    return f"{commit}-dirty" if changed else commit


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


def footer(found: dict[str, str]) -> str:
    """The conditions as one line under a table."""
    return "; ".join(f"{name} {value}" for name, value in found.items())
