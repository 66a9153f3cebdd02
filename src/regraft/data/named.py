"""torchvision's named sets, downloaded by torchvision and laid out as split folders, once."""

from __future__ import annotations

import inspect
import numbers
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from PIL import Image

from regraft.errors import DataError, MissingExtraError, UnknownNameError
from regraft.records.base import shown

#: torchvision's own split names, and ours; a set has one of 'val' and 'valid'.
_SPLITS = {"train": "train", "val": "val", "valid": "val", "test": "test"}

#: Modes that a PNG keeps as they are.
_PNG_MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")

#: What torchvision exports beside its named sets.
_NO_SETS = ("DatasetFolder", "FakeData", "ImageFolder", "VisionDataset", "wrap_dataset_for_transforms_v2")


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
    known = [n for n in datasets.__all__ if inspect.isclass(getattr(datasets, n)) and n not in _NO_SETS]
    if name not in known:
        raise UnknownNameError("torchvision data set", name, known)
    folder = named_folder() / name
    if folder.is_dir():
        return folder
    downloads = folder.parent / "downloads" / name
    try:
        downloads.mkdir(parents=True, exist_ok=True)
        # Written beside the target and renamed, so that an interrupted download is never taken for the set.
        half = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=folder.parent))
    except OSError as error:
        raise DataError(f"{shown(str(error.filename))} can't be written ({error.strerror}); set REGRAFT_DATA to a "
                        "folder for data sets") from None
    try:
        _write_out(getattr(datasets, name), downloads, half)
        half.rename(folder)
    finally:
        shutil.rmtree(half, ignore_errors=True)
    return folder


def _write_out(dataset: Any, downloads: Path, folder: Path) -> None:
    written = 0
    for ours, arguments in _parts(dataset):
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
            if not isinstance(label, numbers.Integral) or not isinstance(image, Image.Image):
                raise DataError(f"torchvision:{dataset.__name__} is no set of classified images; take one that is")
            target = folder / ours / (names[int(label)] if label < len(names) else f"{label:04d}")
            target.mkdir(parents=True, exist_ok=True)
            # PNG holds neither CMYK nor YCbCr.
            (image if image.mode in _PNG_MODES else image.convert("RGB")).save(target / f"{number:06d}.png")
            written += 1
    if not written:
        raise DataError(f"torchvision:{dataset.__name__} has no images in splits that can be told apart; lay it out "
                        "as class folders")


def _open_part(dataset: Any, downloads: Path, arguments: dict[str, Any]) -> Any:
    """The set from files that are there already, else from a download."""
    takes_download = "download" in inspect.signature(dataset).parameters
    if not takes_download:
        return dataset(str(downloads), **arguments)
    try:
        return dataset(str(downloads), download=False, **arguments)
    except RuntimeError:
        return dataset(str(downloads), download=True, **arguments)


def _parts(dataset: Any) -> list[tuple[str, dict[str, Any]]]:
    """Our split names and the arguments that give each part."""
    parameters = inspect.signature(dataset).parameters
    if "split" in parameters:
        return [(ours, {"split": theirs}) for theirs, ours in _SPLITS.items()]
    if "train" in parameters:
        return [("train", {"train": True}), ("test", {"train": False})]
    return [("train", {})]
