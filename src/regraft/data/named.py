"""torchvision's named sets, downloaded by torchvision and laid out as split folders, once."""

from __future__ import annotations

import inspect
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from regraft.errors import DataError, MissingExtraError, UnknownNameError
from regraft.records.base import shown

#: torchvision's own split names, and ours.
_SPLITS = {"train": "train", "val": "val", "valid": "val", "test": "test"}


def named_folder() -> Path:
    """Where named sets are kept: REGRAFT_DATA, or a folder in the user's cache."""
    import platformdirs

    return Path(os.environ.get("REGRAFT_DATA") or platformdirs.user_cache_path("regraft") / "data")


def materialise(name: str) -> Path:
    """The folder of a torchvision set, written out as ``split/class/number.png`` on first use.

    Raises UnknownNameError for a name torchvision does not have, DataError where the download fails.
    """
    try:
        from torchvision import datasets
    except ImportError:
        raise MissingExtraError("a torchvision data set", "train") from None
    known = [n for n in datasets.__all__ if inspect.isclass(getattr(datasets, n))]
    if name not in known:
        raise UnknownNameError("torchvision data set", name, known)
    folder = named_folder() / name
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Written beside the target and renamed, so that an interrupted download is never taken for the set.
    half = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=folder.parent))
    try:
        _write_out(getattr(datasets, name), folder.parent / "downloads" / name, half)
        half.rename(folder)
    finally:
        shutil.rmtree(half, ignore_errors=True)
    return folder


def _write_out(dataset: Any, downloads: Path, folder: Path) -> None:
    downloads.mkdir(parents=True, exist_ok=True)
    parts = _parts(dataset)
    written = 0
    for ours, arguments in parts.items():
        try:
            images = _open_part(dataset, downloads, arguments)
        except ValueError:  # torchvision's answer to a split this set does not have
            continue
        except Exception as error:  # Whatever the download raised: no network, a moved file, a bad checksum.
            raise DataError(f"torchvision:{dataset.__name__} can't be had ({shown(str(error))}); put its files under "
                            f"{downloads} to use it without a network") from None
        names = [str(c).replace("/", "_") for c in getattr(images, "classes", ())]
        for number in range(len(images)):
            image, label = images[number]
            if not isinstance(label, int):
                raise DataError(f"torchvision:{dataset.__name__} is no set of classified images")
            target = folder / ours / (names[label] if label < len(names) else f"{label:04d}")
            target.mkdir(parents=True, exist_ok=True)
            image.save(target / f"{number:06d}.png")
            written += 1
    if not written:
        raise DataError(f"torchvision:{dataset.__name__} has no images")


def _open_part(dataset: Any, downloads: Path, arguments: dict[str, Any]) -> Any:
    """The set from files that are there already, else from a download."""
    takes_download = "download" in inspect.signature(dataset).parameters
    if not takes_download:
        return dataset(str(downloads), **arguments)
    try:
        return dataset(str(downloads), download=False, **arguments)
    except RuntimeError:
        return dataset(str(downloads), download=True, **arguments)


def _parts(dataset: Any) -> dict[str, dict[str, Any]]:
    """Our split names and the arguments that give each part."""
    parameters = inspect.signature(dataset).parameters
    if "split" in parameters:
        return {ours: {"split": theirs} for theirs, ours in _SPLITS.items()}
    if "train" in parameters:
        return {"train": {"train": True}, "test": {"train": False}}
    return {"train": {}}
