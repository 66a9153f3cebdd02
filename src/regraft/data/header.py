"""What a file says about itself beside its pixels: format, mode, size, metadata, how strongly a JPEG was compressed."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from PIL import Image

from regraft.data.decode import FORMATS, unwarned
from regraft.errors import ImageError

#: Sum of the luminance table at quality 50 in Annex K of the JPEG standard: quality scales the tables from there.
_TABLE_SUM = 3_688

#: Keys of Pillow's ``info`` that hold what cameras and programs add to the pixels.
_METADATA = ("exif", "icc_profile", "photoshop", "xmp", "comment", "dpi")


@dataclass(frozen=True)
class Header:
    """What one file says about itself.

    Attributes
    ----------
    format, mode:
        Pillow's names of the file's format and of its kind of pixels.
    width, height:
        Pixels as stored, before EXIF turns them.
    metadata:
        What it carries besides pixels, among ``exif``, ``icc_profile``, ``photoshop``, ``xmp``, ``comment``, ``dpi``.
    jpeg_quality:
        1 to 100, estimated from the quantisation tables; None for other formats.
    """

    format: str
    mode: str
    width: int
    height: int
    metadata: tuple[str, ...]
    jpeg_quality: float | None


def read_header(data: bytes) -> Header:
    """The header of a file's bytes, which :func:`regraft.data.decode.decode` has accepted; raises ImageError."""
    try:
        return unwarned(lambda: _read(data))
    except Exception as error:  # Damaged headers raise a dozen types in Pillow's plugins.
        raise ImageError(f"has a header that can't be read ({str(error).strip() or type(error).__name__})") from None


def _read(data: bytes) -> Header:
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        tables: Mapping[int, Sequence[int]] = getattr(image, "quantization", None) or {}
        return Header(str(image.format), image.mode, image.width, image.height,
                      tuple(name for name in _METADATA if image.info.get(name)), _jpeg_quality(tables))


def _jpeg_quality(tables: Mapping[int, Sequence[int]]) -> float | None:
    """The quality setting of the common encoder (libjpeg) whose luminance table has the same sum."""
    if not tables:
        return None
    percent = 100 * sum(tables[min(tables)]) / _TABLE_SUM
    quality = 100 - percent / 2 if percent <= 100 else 5000 / percent
    return round(min(100.0, max(1.0, quality)), 1)
