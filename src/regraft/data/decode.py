"""File bytes to upright 8-bit RGB, by rules that never change with the machine or the door.

Only listed formats are tried; size and frames are checked in the header, before pixels are read. What a file
needed on the way (transparency, palette, 16 bits, EXIF turned, further frames ...) is told in ``notes``.
"""

from __future__ import annotations

import io
import os
import stat
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import PIL
from numpy.typing import NDArray
from PIL import Image, ImageOps

from regraft.errors import ImageError
from regraft.records.preprocessing import Preprocessing

#: Pillow's names of what is tried; EPS, PDF, SVG and the like run interpreters and are not images of pixels.
FORMATS = ("JPEG", "MPO", "PNG", "GIF", "WEBP", "TIFF", "BMP", "PPM", "TGA", "ICO", "JPEG2000", "AVIF")

#: What else decides pixels besides the preprocessing record: another decoder is another key.
DECODER = f"pillow-{PIL.__version__}"

#: Larger files are refused unread.
MAX_BYTES = 512 * 2**20

_DEEP_MODES = ("I;16", "I;16L", "I;16B", "I;16N", "I", "F")
_TURNED = range(2, 9)


@dataclass(frozen=True)
class Decoded:
    """An upright picture, ``image`` in mode RGB, and ``notes`` on what it took to get there."""

    image: Image.Image
    notes: tuple[str, ...]


def read_file(path: Path) -> bytes:
    """A regular file's bytes; raises ImageError for anything else, without waiting on pipes or devices."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise ImageError("is no regular file")
        if status.st_size > MAX_BYTES:
            raise ImageError(f"has {status.st_size:,} bytes, more than {MAX_BYTES:,}")
        # O_NONBLOCK: a pipe put in the file's place after the check must not make us wait.
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0))
        with os.fdopen(handle, "rb") as file:
            return file.read()
    except FileNotFoundError:
        raise ImageError("does not exist") from None
    except OSError as error:
        raise ImageError(f"can't be read ({error.strerror or error})") from None


def decode(data: bytes, rules: Preprocessing, draft: Callable[[int, int], tuple[int, int] | None]) -> Decoded:
    """Decode one file's bytes.

    ``draft(width, height)`` gives the smallest size in pixels that still serves, or None to decode in full;
    JPEGs are then decoded at 1/2, 1/4 or 1/8. Raises ImageError, and nothing else, for whatever the bytes hold.
    """
    if not data:
        raise ImageError("is empty")
    try:
        return _decode(data, rules, draft)
    except ImageError:
        raise
    except Image.UnidentifiedImageError:
        raise ImageError(f"is no image of a known format ({_looks_like(data)})") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise ImageError(f"has more than {rules.max_pixels:,} pixels") from None
    except MemoryError:
        raise ImageError("does not fit into memory") from None
    except Exception as error:  # Broken files raise a dozen types in Pillow's plugins, none of them listed.
        raise ImageError(f"is damaged ({str(error).strip() or type(error).__name__})") from None


def _decode(data: bytes, rules: Preprocessing, draft: Callable[[int, int], tuple[int, int] | None]) -> Decoded:
    if data[:4] in (b"II*\0", b"MM\0*"):
        _check_tiff_pages(data)
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        width, height = image.size
        if width * height > rules.max_pixels:
            raise ImageError(f"has {width:,} x {height:,} pixels, more than {rules.max_pixels:,}")
        notes: list[str] = []
        frames = int(getattr(image, "n_frames", 1))
        if frames > rules.max_frames:
            raise ImageError(f"has {frames:,} frames, more than {rules.max_frames:,}: a video, not an image")
        if frames > 1:
            notes.append(f"first of {frames} frames")
        if image.format in ("JPEG", "MPO"):
            wanted = draft(width, height)
            if wanted is not None:
                image.draft(None, wanted)
        image.load()
        decoded = upright(image, rules)
        return Decoded(decoded.image, (*notes, *decoded.notes))


def upright(image: Image.Image, rules: Preprocessing) -> Decoded:
    """A picture of any mode, turned as its EXIF says, in 8-bit RGB."""
    notes = []
    if image.getexif().get(0x0112, 1) in _TURNED:
        notes.append("turned by EXIF")
        image = ImageOps.exif_transpose(image)
    rgb, note = _to_rgb(image, rules)
    return Decoded(rgb, (*notes, note) if note else tuple(notes))


def _to_rgb(image: Image.Image, rules: Preprocessing) -> tuple[Image.Image, str | None]:
    """RGB of any of Pillow's modes, and what was done."""
    mode = image.mode
    if mode == "RGB" and "transparency" not in image.info:
        return image, None
    if mode in _DEEP_MODES:
        return Image.fromarray(_deep_to_grey(np.asarray(image), rules.deep_range)).convert("RGB"), "16 bits or more"
    if mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        layer = image.convert("RGBA")
        ground = Image.new("RGBA", layer.size, (*rules.background, 255))
        return Image.alpha_composite(ground, layer).convert("RGB"), "transparency on white"
    names = {"L": "grey", "1": "black and white", "P": "palette", "CMYK": "CMYK"}
    return image.convert("RGB"), names.get(mode, mode)


def _deep_to_grey(values: NDArray[np.generic], black_white: tuple[float, float] | None) -> NDArray[np.uint8]:
    """Grey in 8 bits, [H, W], of integers or floats of any depth."""
    floating = np.issubdtype(values.dtype, np.floating)
    black, white = black_white or ((0.0, 1.0) if floating else (0.0, 65535.0))
    scaled = np.nan_to_num((values.astype(np.float64) - black) / (white - black), nan=0.0, posinf=1.0, neginf=0.0)
    return np.rint(np.clip(scaled, 0, 1) * 255).astype(np.uint8)


def deep_extremes(path: Path) -> tuple[float, float] | None:
    """Near-darkest and near-brightest value (0.05 and 99.95 %) of a deep grey image; None for any other file."""
    try:
        with Image.open(io.BytesIO(read_file(path)), formats=FORMATS) as image:
            if image.mode not in _DEEP_MODES or image.width * image.height > Preprocessing.max_pixels:
                return None
            values = np.asarray(image, np.float64)
    except Exception:  # The pass over all images quarantines such a file and says why.
        return None
    finite = values[np.isfinite(values)]
    if finite.size == 0:
        return None
    low, high = np.percentile(finite, [0.05, 99.95], method="nearest")
    return float(low), float(high)


def _check_tiff_pages(data: bytes) -> None:
    """Refuse a TIFF whose chain of pages loops; each page's table ends with the offset of the next."""
    order = "<" if data[:2] == b"II" else ">"
    seen: set[int] = set()
    (offset,) = struct.unpack_from(order + "I", data, 4)
    while offset:
        if offset in seen:
            raise ImageError("is damaged (its chain of pages loops)")
        seen.add(offset)
        if offset + 2 > len(data):
            return  # Pillow says what is cut off.
        (entries,) = struct.unpack_from(order + "H", data, offset)
        if offset + 2 + 12 * entries + 4 > len(data):
            return
        (offset,) = struct.unpack_from(order + "I", data, offset + 2 + 12 * entries)


_SIGNATURES = (
    (b"%!PS", "PostScript"), (b"%PDF", "PDF"), (b"SIMPLE  =", "FITS"), (b"<svg", "SVG"), (b"<?xml", "XML or SVG"),
    (b"<!doctype html", "HTML"), (b"<html", "HTML"), (b"PK\x03\x04", "a zip archive"), (b"\x1f\x8b", "gzip"),
    (b"8BPS", "Photoshop"), (b"\x89HDF", "HDF5"),
)


def _looks_like(data: bytes) -> str:
    """A guess at what the bytes are, for the error message."""
    start = data[:256].lstrip().lower()
    for signature, name in _SIGNATURES:
        if start.startswith(signature.lower()):
            return f"it looks like {name}"
    if data[4:12] in (b"ftypheic", b"ftypheix", b"ftypmif1", b"ftyphevc"):
        return "it looks like HEIC; convert it to JPEG first"
    if all(byte in b"\t\n\r" or 32 <= byte < 127 for byte in data[:256]):
        return "it looks like text"
    return f"it starts with {data[:4].hex(' ')}"
