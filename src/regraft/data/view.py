"""View 0: the one function from a file's bytes to the network's pixels.

Training, evaluation, prediction, export and server all call :func:`view0`, so the same bytes are the same
array everywhere. It needs neither torch nor torchvision.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from regraft.data.decode import DECODER, Decoded, decode, deep_extremes, read_file, upright
from regraft.errors import ImageError
from regraft.records.preprocessing import Preprocessing

_FILTERS = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}

#: Files looked at to estimate the range of deep grey images.
_RANGE_SAMPLE = 256


@dataclass(frozen=True)
class View:
    """View 0 of one image: ``pixels`` uint8 [size, size, 3], and ``notes`` on conversions."""

    pixels: NDArray[np.uint8]
    notes: tuple[str, ...]

    @property
    def digest(self) -> bytes:
        """16 bytes that name these pixels."""
        return pixel_digest(self.pixels)


def pixel_digest(pixels: NDArray[np.uint8]) -> bytes:
    """First 16 bytes of the SHA-256 of the pixels and their shape."""
    digest = hashlib.sha256(repr(pixels.shape).encode())
    digest.update(np.ascontiguousarray(pixels).data)
    return digest.digest()[:16]


def view_key(rules: Preprocessing) -> str:
    """What decides view 0 besides the file's bytes: the record and the decoder's version."""
    return f"{rules.view_key}-{DECODER}"


def view0(source: bytes | Path | Image.Image | NDArray[np.uint8], rules: Preprocessing) -> View:
    """The network's pixels of a file's bytes, a path, a Pillow image or an RGB array [H, W, 3].

    Raises ImageError where the source is no readable image.
    """
    if isinstance(source, Path):
        source = read_file(source)
    if isinstance(source, bytes):
        decoded = decode(source, rules, lambda width, height: _smallest(width, height, rules))
    else:
        decoded = _picture(source, rules)
    return View(_fit(decoded.image, rules), decoded.notes)


def _picture(source: Image.Image | NDArray[np.uint8], rules: Preprocessing) -> Decoded:
    """A picture that is decoded already, treated as a lossless file of it would be."""
    if isinstance(source, np.ndarray):
        if source.dtype != np.uint8 or source.ndim != 3 or source.shape[2] != 3 or 0 in source.shape:
            raise ImageError(
                f"an array of {source.dtype} {list(source.shape)} is no picture; give uint8 [height, width, 3]"
            )
        source = Image.fromarray(source)
    return upright(source, rules)


def _fit(image: Image.Image, rules: Preprocessing) -> NDArray[np.uint8]:
    """Resize once, from the kept part of the picture straight to the target; uint8 [size, size, 3]."""
    size, filter_ = rules.size, _FILTERS[rules.interpolation]
    if rules.fit == "pad":
        width, height = _inside(*image.size, size)
        canvas = Image.new("RGB", (size, size), rules.pad_colour)
        corner = ((size - width) // 2, (size - height) // 2)
        canvas.paste(image.resize((width, height), filter_), corner)
        return np.asarray(canvas)
    box = _kept(*image.size, rules)
    return np.asarray(image.resize((size, size), filter_, box=box))


def _kept(width: int, height: int, rules: Preprocessing) -> tuple[float, float, float, float]:
    """The part of the picture that reaches the network: left, top, right, bottom in pixels."""
    if rules.fit != "crop":
        return 0.0, 0.0, float(width), float(height)
    side = min(width, height) * rules.crop_fraction
    return (width - side) / 2, (height - side) / 2, (width + side) / 2, (height + side) / 2


def _inside(width: int, height: int, size: int) -> tuple[int, int]:
    """The picture's size once its long side is ``size``; at least one pixel."""
    scale = size / max(width, height)
    return max(1, round(width * scale)), max(1, round(height * scale))


def _smallest(width: int, height: int, rules: Preprocessing) -> tuple[int, int] | None:
    """The size a JPEG may be decoded at: what is kept stays ``jpeg_scale_margin`` times the target."""
    if rules.jpeg_scale_margin is None:
        return None
    left, top, right, bottom = _kept(width, height, rules)
    # Turned or not, what counts is the ratio of kept to target; 'pad' is decided by its long side.
    kept = max(width, height) if rules.fit == "pad" else min(right - left, bottom - top)
    scale = next((scale for scale in (8, 4, 2) if kept >= scale * rules.size * rules.jpeg_scale_margin), None)
    return None if scale is None else (max(1, width // scale), max(1, height // scale))


def estimate_deep_range(files: list[Path]) -> tuple[float, float] | None:
    """Black and white point over deep grey images among the files (at most 256 are opened), or None."""
    step = max(1, len(files) // _RANGE_SAMPLE)
    sample = files[::step][:_RANGE_SAMPLE]
    deep = [file for file in sample if file.suffix.lower() not in (".jpg", ".jpeg", ".gif", ".webp")]
    found = [extremes for extremes in map(deep_extremes, deep) if extremes is not None]
    if not found:
        return None
    low, high = min(low for low, _ in found), max(high for _, high in found)
    return (low, high) if low < high else None
