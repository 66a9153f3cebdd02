"""The files of the bundled weights as plain arrays: nothing in them is unpickled, and PyTorch is not needed."""

from __future__ import annotations

import hashlib
import io
import pickletools

import numpy as np
from numpy.typing import NDArray

from regraft.errors import BackboneError
from regraft.networks.catalogue import Bundled, require_path


def bundled_bytes(item: Bundled) -> bytes:
    """A bundled weight file; raises BackboneError where it is not, byte for byte, the one that is known."""
    path = require_path(item)
    data = path.read_bytes()
    found = hashlib.sha256(data).hexdigest()
    if found != item.sha256:
        raise BackboneError(f"{path} is damaged or not what it should be: SHA-256 {found[:12]}..., expected "
                            f"{item.sha256[:12]}...; install {item.package.replace('_', '-')} again")
    return data


def bundled_arrays(item: Bundled) -> list[NDArray[np.float32]]:
    """The tensors in the file's order, flat, without batch norm's counters.

    The file is as PyTorch wrote them before 1.6: pickles, of which the fourth lists the tensors and the fifth the keys
    of their numbers, which follow in that order. The pickles are taken to pieces, not run.
    """
    file = io.BytesIO(bundled_bytes(item))
    *_, tensors, listed = (_texts(file) for _ in range(5))
    arrays: dict[str, NDArray[np.float32]] = {}
    for key in listed:
        count = int.from_bytes(file.read(8), "little")
        if count == 1:  # a counter, a whole number of 8 bytes: no other tensor of these networks has one number
            file.seek(8, io.SEEK_CUR)
        else:
            arrays[key] = np.frombuffer(file.read(4 * count), "<f4")
    return [arrays[text] for text in tensors if text in arrays]


def _texts(file: io.BytesIO) -> list[str]:
    """The texts of a pickle, in order; the file stands behind it then."""
    return [argument for _, argument, _ in pickletools.genops(file) if isinstance(argument, str)]
