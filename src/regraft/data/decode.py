"""File bytes to upright 8-bit RGB, by rules that never change with the machine or the door.

Only listed formats are tried; size and frames are checked in the header, before pixels are read. What a file
needed on the way (transparency, palette, 16 bits, EXIF turned, further frames ...) is told in ``notes``.
"""

from __future__ import annotations

import io
import os
import stat
import struct
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import PIL
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from regraft.errors import ImageError
from regraft.records.preprocessing import Preprocessing

#: Pillow's names of what is tried, in this order; EPS, PDF, SVG and the like run interpreters and are not images
#: of pixels. MPO has no name of its own here: its files open as JPEG. TGA has no signature, so it comes last.
FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP", "PPM", "ICO", "JPEG2000", "AVIF", "TGA")

#: What else decides pixels besides the preprocessing record: another decoder is another key.
DECODER = f"pillow-{PIL.__version__}"

#: Larger files are refused unread.
MAX_BYTES = 512 * 2**20

#: Bytes that are asked for at once where a file has another length than it had a moment ago.
_READ_AT_ONCE = 2**20

_DEEP_MODES = ("I;16", "I;16L", "I;16B", "I;16N", "I", "F")

#: Pixels of a deep image that are scaled at a time: bounds the memory that floating point takes.
_BLOCK_PIXELS = 2**20

#: How to undo each EXIF orientation.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

_FILTERS = threading.Lock()

_T = TypeVar("_T")
_Draft = Callable[[int, int], tuple[int, int] | None]


@dataclass(frozen=True)
class Decoded:
    """An upright picture, ``image`` in mode RGB, and ``notes`` on what it took to get there."""

    image: Image.Image
    notes: tuple[str, ...]


def read_file(path: str | Path) -> bytes:
    """A regular file's bytes; raises ImageError for anything else, without waiting on pipes or devices."""
    try:
        status = os.stat(path)  # noqa: PTH116 - text or path, a million times
        if not stat.S_ISREG(status.st_mode):
            raise ImageError("is no regular file")
        if status.st_size > MAX_BYTES:
            raise ImageError(f"has {status.st_size:,} bytes, more than {MAX_BYTES:,}")
        # O_NONBLOCK: a pipe put in the file's place after the check must not make us wait.
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0))
        try:
            return _whole(handle, status.st_size)
        finally:
            os.close(handle)
    except FileNotFoundError:
        raise ImageError("does not exist") from None
    except ValueError:  # A table may name a path that no system has.
        raise ImageError("can't be read (embedded null byte)") from None
    except OSError as error:
        raise ImageError(f"can't be read ({error.strerror or error})") from None


def _whole(handle: int, size: int) -> bytes:
    """All bytes of an open file, which had so many when it was looked at; in a fraction of a file object's time."""
    data = os.read(handle, size + 1)
    if len(data) == size:
        return data
    parts = [data]
    while part := os.read(handle, _READ_AT_ONCE):
        parts.append(part)
    return b"".join(parts)


def decode(data: bytes, rules: Preprocessing, draft: _Draft) -> Decoded:
    """Decode one file's bytes.

    ``draft(width, height)`` gives the smallest size in pixels that still serves, or None to decode in full;
    JPEGs are then decoded at 1/2, 1/4 or 1/8. Raises ImageError, and nothing else, whatever the bytes hold.
    """
    if not data:
        raise ImageError("is empty")
    with _told(rules):
        return unwarned(lambda: _decode(data, rules, draft))


def upright(image: Image.Image, rules: Preprocessing) -> Decoded:
    """A picture that is open in Pillow, treated as its file would be; raises ImageError."""
    with _told(rules):
        return _upright(image, rules, None)


@contextmanager
def _told(rules: Preprocessing) -> Iterator[None]:
    """Turn whatever Pillow raises into an ImageError that gives the reason."""
    try:
        yield
    except ImageError:
        raise
    except Image.DecompressionBombError:
        raise ImageError(f"has more than {rules.max_pixels:,} pixels") from None
    except MemoryError:
        raise ImageError("does not fit into memory") from None
    except Exception as error:  # Broken files raise a dozen types in Pillow's plugins, none of them listed.
        raise ImageError(f"is damaged ({str(error).strip() or type(error).__name__})") from None


def unwarned(decoding: Callable[[], _T]) -> _T:
    """What a decoding gives, also where ``-W error`` or the like makes errors of Pillow's warnings.

    Only then are the filters touched, which all threads share, and by one thread at a time.
    """
    try:
        return decoding()
    except Warning:
        with _FILTERS, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return decoding()


def _decode(data: bytes, rules: Preprocessing, draft: _Draft) -> Decoded:
    frames = None
    if data[:4] in _TIFF_STARTS:
        _check_tiff_pages(data, rules.max_frames)
    elif data[:4] == b"GIF8":
        frames = _gif_frames(data, rules.max_frames)
    elif data[:4] == b"\0\0\1\0":
        _check_icon(data, rules.max_pixels)
    try:
        opened = Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError:
        raise ImageError(f"is no image of a known format ({_looks_like(data)})") from None
    with opened as image:
        if image.format in ("JPEG", "MPO"):
            # Before the draft, which makes the picture small.
            _check_pixels(*image.size, rules.max_pixels)
            wanted = draft(*image.size)
            if wanted is not None:
                image.draft(None, wanted)
        return _upright(image, rules, frames)


def _upright(image: Image.Image, rules: Preprocessing, frames: int | None) -> Decoded:
    """A picture of any mode, turned as its EXIF says, in 8-bit RGB; ``frames`` if they are counted already."""
    _check_pixels(*image.size, rules.max_pixels)
    frames = int(getattr(image, "n_frames", 1)) if frames is None else frames
    _check_frames(frames, rules.max_frames)
    notes = [f"first of {frames} frames"] if frames > 1 else []
    deep_colour = any(";16" in str(tile) for tile in getattr(image, "tile", ())) and image.mode not in _DEEP_MODES
    # Pillow turns TIFFs by itself while loading. Others are asked afterwards: a PNG's EXIF data may stand behind its
    # pixels, and a load that fails while looking for them is not repeated.
    turned = image.format == "TIFF" and _orientation(image) in _TURNS
    image.load()
    orientation = _orientation(image)
    if orientation in _TURNS:
        image = image.transpose(_TURNS[orientation])
    if turned or orientation in _TURNS:
        notes.append("turned by EXIF")
    if orientation is None:
        notes.append("EXIF unreadable")
    rgb, note = _to_rgb(image, rules)
    notes += ["16 bits or more"] if deep_colour else []
    return Decoded(rgb, (*notes, note) if note else tuple(notes))


def _check_pixels(width: int, height: int, allowed: int) -> None:
    if width * height > allowed:
        raise ImageError(f"has {width:,} x {height:,} pixels, more than {allowed:,}")


def _check_frames(frames: int, allowed: int) -> None:
    if frames > allowed:
        raise ImageError(f"has more than {allowed:,} frames: a video, not an image")


def _orientation(image: Image.Image) -> int | None:
    """The EXIF orientation, 1 where there is none; None where the EXIF data can't be read."""
    try:
        return int(image.getexif().get(0x0112, 1))
    except Warning:
        raise
    except Exception:  # Damaged EXIF raises as many types as damaged pixels, and says nothing about these.
        return None


def _to_rgb(image: Image.Image, rules: Preprocessing) -> tuple[Image.Image, str | None]:
    """RGB of any of Pillow's modes, and what was done."""
    mode = image.mode
    if mode == "RGB" and "transparency" not in image.info:
        return image, None
    if mode in _DEEP_MODES:
        grey = _deep_to_grey(np.asarray(image), rules.deep_range)
        return Image.fromarray(grey).convert("RGB"), "16 bits or more"
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
    grey = np.empty(values.shape, np.uint8)
    for start in range(0, len(values), rows := max(1, _BLOCK_PIXELS // values.shape[1])):
        block = (values[start:start + rows].astype(np.float64) - black) / (white - black)
        shares = np.clip(np.nan_to_num(block, nan=0.0, posinf=1.0, neginf=0.0), 0, 1)
        grey[start:start + rows] = np.rint(shares * 255)
    return grey


def deep_extremes(path: Path) -> tuple[float, float] | None:
    """Near-darkest and near-brightest value (0.05 and 99.95 %) of a deep grey image; None for other files."""
    try:
        data = read_file(path)
        values = unwarned(lambda: _deep_values(data))
    except Exception:  # The pass over all images quarantines such a file and says why.
        return None
    finite = None if values is None else values[np.isfinite(values)]
    if finite is None or finite.size == 0:
        return None
    low, high = np.percentile(finite, [0.05, 99.95], method="nearest")
    return float(low), float(high)


def _deep_values(data: bytes) -> NDArray[np.generic] | None:
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        if image.mode not in _DEEP_MODES or image.width * image.height > Preprocessing.max_pixels:
            return None
        return np.asarray(image)


#: How plain and big TIFFs begin: the second to fourth byte tell the byte order and the width of offsets.
_TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def _check_tiff_pages(data: bytes, allowed: int) -> None:
    """Refuse a TIFF whose chain of pages loops or is long; each page's table ends with the offset of the next."""
    order = "<" if data[:2] == b"II" else ">"
    big = b"+" in data[2:4]
    offset_type, count_type, entry = (order + "Q", order + "Q", 20) if big else (order + "I", order + "H", 12)
    seen: set[int] = set()
    at = 8 if big else 4  # of the number that tells the next page's offset
    while at + struct.calcsize(offset_type) <= len(data):
        (page,) = struct.unpack_from(offset_type, data, at)
        if page in seen:
            raise ImageError("is damaged (its chain of pages loops)")
        if not page or page + struct.calcsize(count_type) > len(data):
            return  # The end, or cut off: then Pillow says what is missing.
        seen.add(page)
        _check_frames(len(seen), allowed)
        (entries,) = struct.unpack_from(count_type, data, page)
        at = page + struct.calcsize(count_type) + entries * entry


def _gif_frames(data: bytes, allowed: int) -> int:
    """Frames of a GIF, counted up to one more than allowed: Pillow would walk through all of a long film."""
    frames, at = 0, 13 + _gif_colours(data, 10)
    while at < len(data) and frames <= allowed:
        if data[at] == 0x2C:  # an image: place and size, flags, colours, one byte of code size
            frames += 1
            at += 11 + _gif_colours(data, at + 9)
        elif data[at] == 0x21:  # an extension and its kind
            at += 2
        else:
            break
        while at < len(data) and data[at]:
            at += 1 + data[at]
        at += 1
    return frames


def _gif_colours(data: bytes, flags: int) -> int:
    """Bytes of the colour table that the flags at an offset announce."""
    return 3 * 2 ** (1 + (data[flags] & 7)) if flags < len(data) and data[flags] & 0x80 else 0


def _check_icon(data: bytes, allowed: int) -> None:
    """Refuse an icon that holds a PNG larger than its own table says: Pillow decodes it while opening."""
    at = data.find(b"IHDR")
    while 0 <= at <= len(data) - 12:
        width, height = struct.unpack_from(">II", data, at + 4)
        _check_pixels(width, height, allowed)
        at = data.find(b"IHDR", at + 4)


_SIGNATURES = (
    (b"%!PS", "PostScript"), (b"%PDF", "PDF"), (b"SIMPLE  =", "FITS"), (b"<svg", "SVG"),
    (b"<?xml", "XML or SVG"), (b"<!doctype html", "HTML"), (b"<html", "HTML"),
    (b"PK\x03\x04", "a zip archive"), (b"\x1f\x8b", "gzip"),
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
