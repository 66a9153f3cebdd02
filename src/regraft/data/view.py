"""View 0: the one function from a file's bytes to the network's pixels.

Training, evaluation, prediction, export and server all call :func:`view0`, so the same bytes are the same
array everywhere. It needs neither torch nor torchvision.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from regraft.data.decode import DECODER, Decoded, decode, deep_extremes, read_file, upright
from regraft.errors import ImageError
from regraft.records.images import ImageIndex
from regraft.records.preprocessing import Preprocessing

_FILTERS = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}

#: What a picture may come as: a file's bytes, its path, a Pillow image, an RGB array uint8 [H, W, 3].
Source = bytes | Path | Image.Image | NDArray[np.uint8]

#: Left, top, right and bottom in pixels.
Box = tuple[float, float, float, float]

#: Of a picture's width and height, the side in pixels that will be resized to the network's.
KeptSide = Callable[[int, int], float]

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


def view0(source: Source, rules: Preprocessing) -> View:
    """The network's pixels of a file's bytes, a path, a Pillow image or an RGB array [H, W, 3].

    Raises ImageError where the source is no readable image.
    """
    decoded = picture(source, rules, lambda width, height: _kept_side(width, height, rules))
    return View(_fit(decoded.image, rules), decoded.notes)


def picture(source: Source, rules: Preprocessing, kept_side: KeptSide) -> Decoded:
    """The upright picture, before anything is cut off.

    A JPEG may come at 1/2, 1/4 or 1/8, as ``rules.jpeg_scale_margin`` allows for a part whose shorter side has
    ``kept_side(width, height)`` pixels. Raises ImageError where the source is no readable image.
    """
    if isinstance(source, Path):
        source = read_file(source)
    if isinstance(source, bytes):
        return decode(source, rules, lambda width, height: _smallest(width, height, kept_side, rules))
    return _open_picture(source, rules)


def stretched(image: Image.Image, box: Box, rules: Preprocessing) -> NDArray[np.uint8]:
    """The part ``box`` of a picture, resized once to the network's square; uint8 [size, size, 3]."""
    return np.asarray(image.resize((rules.size, rules.size), _FILTERS[rules.interpolation], box=box))


def _open_picture(source: Image.Image | NDArray[np.uint8], rules: Preprocessing) -> Decoded:
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
    if rules.fit == "pad":
        size, filter_ = rules.size, _FILTERS[rules.interpolation]
        width, height = _inside(*image.size, size)
        canvas = Image.new("RGB", (size, size), rules.pad_colour)
        corner = ((size - width) // 2, (size - height) // 2)
        canvas.paste(image.resize((width, height), filter_), corner)
        return np.asarray(canvas)
    return stretched(image, _kept(*image.size, rules), rules)


def _kept(width: int, height: int, rules: Preprocessing) -> Box:
    """The part of the picture that reaches the network: left, top, right, bottom in pixels."""
    if rules.fit != "crop":
        return 0.0, 0.0, float(width), float(height)
    side = min(width, height) * rules.crop_fraction
    return (width - side) / 2, (height - side) / 2, (width + side) / 2, (height + side) / 2


def _inside(width: int, height: int, size: int) -> tuple[int, int]:
    """The picture's size once its long side is ``size``; at least one pixel."""
    scale = size / max(width, height)
    return max(1, round(width * scale)), max(1, round(height * scale))


def _kept_side(width: int, height: int, rules: Preprocessing) -> float:
    """The side of view 0's part that is resized to ``size``: turned or not, the shorter one; with 'pad' the longer."""
    left, top, right, bottom = _kept(width, height, rules)
    return max(width, height) if rules.fit == "pad" else min(right - left, bottom - top)


def _smallest(width: int, height: int, kept_side: KeptSide, rules: Preprocessing) -> tuple[int, int] | None:
    """The size a JPEG may be decoded at: what is kept stays ``jpeg_scale_margin`` times the target."""
    if rules.jpeg_scale_margin is None:
        return None
    kept = kept_side(width, height)
    scale = next((scale for scale in (8, 4, 2) if kept >= scale * rules.size * rules.jpeg_scale_margin), None)
    return None if scale is None else (max(1, width // scale), max(1, height // scale))


def deep_range_of(index: ImageIndex, rows: NDArray[np.int64]) -> tuple[float, float] | None:
    """Black and white point over deep grey images among some rows of an index, of which at most 256 are opened."""
    sample = rows[::max(1, len(rows) // _RANGE_SAMPLE)][:_RANGE_SAMPLE]
    return estimate_deep_range([index.file(row) for row in sample.tolist()])


def estimate_deep_range(files: Sequence[Path]) -> tuple[float, float] | None:
    """Black and white point over deep grey images among the files, or None."""
    deep = [file for file in files if file.suffix.lower() not in (".jpg", ".jpeg", ".gif", ".webp")]
    found = [extremes for extremes in map(deep_extremes, deep) if extremes is not None]
    if not found:
        return None
    low, high = min(low for low, _ in found), max(high for _, high in found)
    return (low, high) if low < high else None
