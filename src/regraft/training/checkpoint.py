"""Checkpoints: everything a training needs to go on as if it had never stopped.

One safetensors file each, written whole; its name carries the digest of its bytes, so damage is noticed before a
tensor is used. The newest two are kept.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from regraft.errors import OutputError

FORMAT = 1

_NAME = re.compile(r"(?P<number>\d{8})-(?P<digest>[0-9a-f]{32})\.safetensors")
_KEPT = 2


def write_checkpoint(folder: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> Path:
    """Write the next checkpoint; older ones but the last go. Raises OutputError; the previous one then stays."""
    from safetensors.torch import save

    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    data = save(plain, {"regraft": json.dumps({"format_version": FORMAT, **facts})})
    number = 1 + max((int(old.name[:8]) for old in _found(folder)), default=0)
    path = folder / f"{number:08d}-{hashlib.sha256(data).hexdigest()[:32]}.safetensors"
    half = path.with_suffix(".half")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with half.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        half.replace(path)
    except OSError as error:
        half.unlink(missing_ok=True)
        there = next(parent for parent in (folder, *folder.parents) if parent.exists())
        raise OutputError(f"the checkpoint of {len(data):,} bytes can't be written to {folder} ({error.strerror}; "
                          f"{shutil.disk_usage(there).free:,} bytes are free); the one before it is whole") from None
    for old in _found(folder)[_KEPT:]:
        old.unlink(missing_ok=True)
    return path


def read_checkpoint(folder: Path, say: Callable[[str], None]) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Tensors and facts of the newest whole checkpoint, or None; damaged ones are named."""
    from safetensors import safe_open
    from safetensors.torch import load

    for path in _found(folder):
        data = path.read_bytes()
        match = _NAME.fullmatch(path.name)
        if match is None or hashlib.sha256(data).hexdigest()[:32] != match["digest"]:
            say(f"the checkpoint {path.name} is damaged; going back to the one before it")
            continue
        with safe_open(path, "pt") as file:
            facts = json.loads(file.metadata()["regraft"])
        if facts.pop("format_version") != FORMAT:
            say(f"the checkpoint {path.name} is of another version of Regraft and is not used")
            continue
        return load(data), facts
    return None


def _found(folder: Path) -> list[Path]:
    """Checkpoints, newest first."""
    if not folder.is_dir():
        return []
    return sorted((path for path in folder.iterdir() if _NAME.fullmatch(path.name)), reverse=True)


def optimiser_tensors(optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The state of an optimiser as tensors alone."""
    return {f"{index}.{name}": value if isinstance(value, Tensor) else torch.tensor(value)
            for index, state in optimiser.state_dict()["state"].items() for name, value in state.items()
            if value is not None}


def restore_optimiser(optimiser: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Give an optimiser the state that :func:`optimiser_tensors` told."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        index, _, name = key.partition(".")
        state.setdefault(int(index), {})[name] = tensor
    whole = optimiser.state_dict()
    whole["state"] = state
    optimiser.load_state_dict(whole)
