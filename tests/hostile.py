"""Image files as the world sends them: more than sixty, each with what must become of it.

Pictures are cut from scikit-learn's sample photo; what no writer of Pillow makes is put together byte by byte.
"""

from __future__ import annotations

import functools
import io
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

#: ``ok``: pixels and nothing to tell; ``converted``: pixels and a note; ``quarantined``: a reason.
Outcome = Literal["ok", "converted", "quarantined"]


@dataclass(frozen=True)
class Hostile:
    """One file: its name, its bytes, what must become of it, and a part of the note or reason."""

    name: str
    data: bytes
    outcome: Outcome
    says: str = ""
    lossless: bool = True


@functools.cache
def photo(width: int = 96, height: int = 64) -> Image.Image:
    """A real photograph, RGB, unlike itself under every turn."""
    from sklearn.datasets import load_sample_image

    return Image.fromarray(load_sample_image("china.jpg")).resize((width, height), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, format_: str, **options: Any) -> bytes:
    """The bytes of a file in one of Pillow's formats."""
    buffer = io.BytesIO()
    image.save(buffer, format_, **options)
    return buffer.getvalue()


def png(width: int, height: int, depth: int, colour: int, scanlines: bytes, *further: bytes) -> bytes:
    """A PNG of raw bytes: bits a sample, colour type, and scanlines that each begin with a filter byte."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"".join([
        b"\x89PNG\r\n\x1a\n", png_chunk(b"IHDR", header), *further, png_chunk(b"IDAT", zlib.compress(scanlines, 1)),
        png_chunk(b"IEND", b""),
    ])


def png_chunk(kind: bytes, data: bytes) -> bytes:
    """A chunk of a PNG with its length and checksum."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png16(values_HWC: NDArray[np.uint16]) -> bytes:
    """A PNG of 16 bits a sample, grey, grey with alpha, RGB or RGBA by the number of channels."""
    height, width, channels = values_HWC.shape
    rows = values_HWC.astype(">u2")
    colour = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    return png(width, height, 16, colour, b"".join(b"\0" + row.tobytes() for row in rows))


def oriented(image: Image.Image, orientation: int, format_: str, **options: Any) -> bytes:
    """A file whose pixels are turned so that its EXIF orientation makes them the given picture again."""
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    turned = image.transpose(undo[orientation]) if orientation in undo else image
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(turned, format_, exif=exif, **options)


def looping_tiff(big: bool = False) -> bytes:
    """A TIFF whose one page names itself as the next."""
    data = encoded(photo(), "TIFF", big_tiff=big)
    if big:
        (page,) = struct.unpack_from("<Q", data, 8)
        at = page + 8 + 20 * struct.unpack_from("<Q", data, page)[0]
        return data[:at] + struct.pack("<Q", page) + data[at + 8:]
    (page,) = struct.unpack_from("<I", data, 4)
    at = page + 2 + 12 * struct.unpack_from("<H", data, page)[0]
    return data[:at] + struct.pack("<I", page) + data[at + 4:]


def long_tiff(pages: int) -> bytes:
    """A TIFF of empty pages, six bytes each."""
    chain = (struct.pack("<HI", 0, 8 + 6 * (page + 1)) for page in range(pages))
    return b"II*\0" + struct.pack("<I", 8) + b"".join(chain)


def long_gif(frames: int) -> bytes:
    """A GIF of many frames of one pixel."""
    head = b"GIF89a" + struct.pack("<HHBBB", 1, 1, 0x80, 0, 0) + b"\0\0\0\xff\xff\xff"
    frame = b"\x2c" + struct.pack("<HHHHB", 0, 0, 1, 1, 0) + b"\x02\x02\x44\x01\0"
    return head + frame * frames + b";"


def icon(image: bytes, side: int) -> bytes:
    """An ICO that announces a square of ``side`` pixels (at most 256) and holds the given PNG."""
    return struct.pack("<HHHBBBBHHII", 0, 1, 1, side % 256, side % 256, 0, 0, 1, 32, len(image), 22) + image


def ycck_jpeg() -> bytes:
    """A JPEG in YCCK: Pillow writes CMYK only, so the channels are converted here and the Adobe flag is set."""
    ycc = [255 - np.asarray(band) for band in photo().convert("YCbCr").split()]
    bands = [*(Image.fromarray(band) for band in ycc), Image.new("L", photo().size, 0)]
    data = encoded(Image.merge("CMYK", bands), "JPEG", quality=95, subsampling=0)
    at = data.index(b"Adobe") + 11
    return data[:at] + b"\x02" + data[at + 1:]


def pages(number: int = 3, first: Image.Image | None = None) -> dict[str, Any]:
    """Options of ``save`` for further frames, each unlike the others."""
    return {"save_all": True, "append_images": [(first or photo()).rotate(40 * i) for i in range(1, number)]}


def hostile_files() -> list[Hostile]:
    """All of them."""
    return [*_no_pictures(), *_damaged(), *_misnamed(), *_modes(), *_frames(), *_sizes(), *_extras(), *_formats()]


def write_hostile(folder: Path) -> list[tuple[Path, Hostile]]:
    """Write them all into a folder."""
    written = []
    for file in hostile_files():
        path = folder / file.name
        path.write_bytes(file.data)
        written.append((path, file))
    return written


def _no_pictures() -> Iterator[Hostile]:
    yield Hostile("zero.jpg", b"", "quarantined", "is empty")
    yield Hostile("one.jpg", b"\xff", "quarantined", "no image of a known format")
    yield Hostile("start.jpg", b"\xff\xd8\xff", "quarantined", "")
    yield Hostile("text.jpg", b"no picture at all\n" * 20, "quarantined", "looks like text")
    yield Hostile("page.jpg", b"<!DOCTYPE html><html><body>404</body></html>", "quarantined", "looks like HTML")
    yield Hostile("zeros.png", bytes(5000), "quarantined", "no image of a known format")
    yield Hostile("archive.png", b"PK\x03\x04" + bytes(100), "quarantined", "a zip archive")
    drawing = b"<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/>"
    yield Hostile("drawing.svg", b"<?xml version='1.0'?>" + drawing, "quarantined", "XML or SVG")
    yield Hostile("bare.svg", drawing, "quarantined", "SVG")
    yield Hostile("print.eps", encoded(photo(), "EPS"), "quarantined", "PostScript")
    yield Hostile("paper.pdf", encoded(photo(), "PDF"), "quarantined", "PDF")
    fits = b"".join(card.ljust(80) for card in (
        b"SIMPLE  =                    T", b"BITPIX  =                    8", b"NAXIS   =                    2",
        b"NAXIS1  =                    8", b"NAXIS2  =                    8", b"END")).ljust(2880) + bytes(2880)
    yield Hostile("stars.fits", fits, "quarantined", "FITS")
    yield Hostile("phone.heic", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(400), "quarantined", "convert it to JPEG")
    yield Hostile("layers.psd", b"8BPS\0\x01" + bytes(100), "quarantined", "Photoshop")
    yield Hostile("fake.avif", b"\0\0\0\x1cftypavif\0\0\0\0avifmif1miaf" + bytes(200), "quarantined", "")


def _damaged() -> Iterator[Hostile]:
    large = photo(480, 320)
    whole = {
        "jpg": encoded(large, "JPEG", quality=90), "progressive.jpg": encoded(large, "JPEG", progressive=True),
        "png": encoded(large, "PNG"), "webp": encoded(large, "WEBP"), "tif": encoded(large, "TIFF"),
    }
    for percent in (10, 50, 90, 99):
        for ending, data in whole.items():
            if ending == "jpg" or percent == 50:
                yield Hostile(f"cut{percent}.{ending}", data[:len(data) * percent // 100], "quarantined", "is damaged")
    flipped = bytearray(whole["png"])
    flipped[len(flipped) // 2] ^= 0xFF
    yield Hostile("flipped.png", bytes(flipped), "quarantined", "is damaged")
    yield Hostile("loop.tif", looping_tiff(), "quarantined", "chain of pages loops")
    yield Hostile("loop-big.tif", looping_tiff(big=True), "quarantined", "chain of pages loops")


def _misnamed() -> Iterator[Hostile]:
    yield Hostile("png.jpg", encoded(photo(), "PNG"), "ok")
    yield Hostile("jpeg.png", encoded(photo(), "JPEG"), "ok", lossless=False)
    yield Hostile("webp.jpg", encoded(photo(), "WEBP", lossless=True), "ok")
    yield Hostile("gif.jpg", encoded(photo(), "GIF"), "converted", "palette")


def _modes() -> Iterator[Hostile]:
    image, grey = photo(), photo().convert("L")
    alpha = grey.rotate(90, expand=True).resize(image.size)
    clear = image.copy()
    clear.putalpha(alpha)
    values = np.asarray(grey).astype(np.uint16) * 257
    deep = np.asarray(image).astype(np.uint16) * 257
    yield Hostile("grey.jpg", encoded(grey, "JPEG"), "converted", "grey", lossless=False)
    yield Hostile("grey.png", encoded(grey, "PNG"), "converted", "grey")
    yield Hostile("cmyk.jpg", encoded(image.convert("CMYK"), "JPEG"), "converted", "CMYK", lossless=False)
    yield Hostile("ycck.jpg", ycck_jpeg(), "converted", "CMYK", lossless=False)
    yield Hostile("cmyk.tif", encoded(image.convert("CMYK"), "TIFF"), "converted", "CMYK")
    yield Hostile("lab.tif", encoded(image.convert("LAB"), "TIFF"), "converted", "LAB")
    yield Hostile("grey16.png", png16(values[:, :, None]), "converted", "16 bits or more")
    yield Hostile("rgb16.png", png16(deep), "converted", "16 bits or more")
    yield Hostile("rgba16.png", png16(np.dstack([deep, values])), "converted", "16 bits or more")
    yield Hostile("la16.png", png16(np.dstack([values, values[::-1]])), "converted", "16 bits or more")
    yield Hostile("grey16.tif", encoded(Image.fromarray(values), "TIFF"), "converted", "16 bits or more")
    yield Hostile("integer.tif", encoded(Image.fromarray(values.astype(np.int32)), "TIFF"), "converted", "16 bits")
    floats = np.asarray(grey, np.float32) / 255
    yield Hostile("float.tif", encoded(Image.fromarray(floats), "TIFF"), "converted", "16 bits or more")
    strange = floats.copy()
    strange[:8], strange[8:16], strange[16:24] = np.nan, np.inf, -np.inf
    yield Hostile("nan.tif", encoded(Image.fromarray(strange), "TIFF"), "converted", "16 bits or more")
    yield Hostile("bits.png", encoded(image.convert("1"), "PNG"), "converted", "black and white")
    yield Hostile("bits.tif", encoded(image.convert("1"), "TIFF", compression="group4"), "converted", "black and white")
    yield Hostile("palette.png", encoded(image.quantize(64), "PNG"), "converted", "palette")
    yield Hostile("palette-clear.png", encoded(image.quantize(64), "PNG", transparency=3), "converted", "transparency")
    levels = bytes(range(0, 256, 4))
    yield Hostile("palette-levels.png", encoded(image.quantize(64), "PNG", transparency=levels), "converted",
                  "transparency")
    yield Hostile("clear.gif", encoded(image.quantize(64), "GIF", transparency=3), "converted", "transparency")
    yield Hostile("colour-key.png", encoded(image, "PNG", transparency=(0, 0, 0)), "converted", "transparency")
    yield Hostile("la.png", encoded(Image.merge("LA", (grey, alpha)), "PNG"), "converted", "transparency")
    yield Hostile("rgba.png", encoded(clear, "PNG"), "converted", "transparency")
    yield Hostile("rgba.webp", encoded(clear, "WEBP", lossless=True), "converted", "transparency")
    yield Hostile("rgba.tif", encoded(clear, "TIFF"), "converted", "transparency")


def _frames() -> Iterator[Hostile]:
    yield Hostile("moving.gif", encoded(photo(), "GIF", **pages()), "converted", "first of 3 frames")
    yield Hostile("moving.webp", encoded(photo(), "WEBP", lossless=True, **pages()), "converted", "first of 3 frames")
    yield Hostile("moving.png", encoded(photo(), "PNG", **pages()), "converted", "first of 3 frames")
    yield Hostile("pages.tif", encoded(photo(), "TIFF", **pages()), "converted", "first of 3 frames")
    yield Hostile("pair.mpo", encoded(photo(), "MPO", **pages(2)), "converted", "first of 2 frames", lossless=False)
    yield Hostile("film.gif", long_gif(1001), "quarantined", "more than 1,000 frames")
    yield Hostile("film.tif", long_tiff(1001), "quarantined", "more than 1,000 frames")


def _sizes() -> Iterator[Hostile]:
    yield Hostile("dot.png", encoded(photo(1, 1), "PNG"), "ok")
    yield Hostile("dot.jpg", encoded(photo(1, 1), "JPEG"), "ok", lossless=False)
    yield Hostile("dot.gif", long_gif(1), "converted", "palette")
    yield Hostile("thread.png", encoded(photo(1, 20_000), "PNG"), "ok")
    yield Hostile("wide.png", encoded(photo(20_000, 1), "PNG"), "ok")
    yield Hostile("vast.png", png(60_000, 60_000, 8, 0, b""), "quarantined", "more than 80,000,000 pixels")
    yield Hostile("large.png", png(10_000, 8_001, 8, 0, b""), "quarantined",
                  "10,000 x 8,001 pixels, more than 80,000,000")
    # Pillow decodes what is in an icon while it opens it.
    yield Hostile("vast.ico", icon(png(9_000, 9_000, 8, 6, bytes(36_001)), 256), "quarantined",
                  "9,000 x 9,000 pixels, more than 80,000,000")


def _extras() -> Iterator[Hostile]:
    image = photo()
    for orientation in range(1, 9):
        outcome: Outcome = "ok" if orientation == 1 else "converted"
        note = "" if orientation == 1 else "turned by EXIF"
        yield Hostile(f"turned{orientation}.png", oriented(image, orientation, "PNG"), outcome, note)
    yield Hostile("turned9.jpg", oriented(image, 9, "JPEG"), "ok", lossless=False)
    yield Hostile("turned6.tif", oriented(image, 6, "TIFF"), "converted", "turned by EXIF")
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    yield Hostile("profile.jpg", encoded(image, "JPEG", icc_profile=profile), "ok", lossless=False)
    yield Hostile("profile.png", encoded(image, "PNG", icc_profile=b"no profile"), "ok")
    yield Hostile("progressive.jpg", encoded(image, "JPEG", progressive=True), "ok", lossless=False)
    exif = Image.Exif()
    exif[0x010E] = "x" * 60_000
    yield Hostile("huge-exif.jpg", encoded(image, "JPEG", exif=exif), "ok", lossless=False)
    # One entry: an orientation that is text.
    strange = b"Exif\0\0" + struct.pack(">2sHIHHHI4sI", b"MM", 42, 8, 1, 0x0112, 2, 3, b"up\0\0", 0)
    yield Hostile("strange-exif.jpg", encoded(image, "JPEG", exif=strange), "converted", "EXIF unreadable",
                  lossless=False)
    # Cut off within its entry, as cameras' editors leave it: Pillow warns.
    yield Hostile("cut-exif.jpg", encoded(image, "JPEG", exif=strange[:20]), "ok", lossless=False)
    comment = png_chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(20_000_000)))
    dark = b"\0" * (8 * 9)
    yield Hostile("comment-bomb.png", png(8, 8, 8, 0, dark, comment), "quarantined", "is damaged")


def _formats() -> Iterator[Hostile]:
    image = photo()
    yield Hostile("plain.jp2", encoded(image, "JPEG2000"), "ok")
    yield Hostile("stream.j2k", encoded(image, "JPEG2000", no_jp2=True), "ok")
    yield Hostile("plain.bmp", encoded(image, "BMP"), "ok")
    yield Hostile("plain.ppm", encoded(image, "PPM"), "ok")
    yield Hostile("plain.tga", encoded(image, "TGA"), "ok")
    yield Hostile("packed.tga", encoded(image, "TGA", compression="tga_rle"), "ok")
    yield Hostile("plain.avif", encoded(image, "AVIF"), "ok", lossless=False)
    yield Hostile("packed.tif", encoded(image, "TIFF", compression="tiff_lzw"), "ok")
    yield Hostile("big.tif", encoded(image, "TIFF", big_tiff=True), "ok")
    yield Hostile("plain.ico", encoded(image, "ICO", sizes=[(64, 64)]), "ok")
    # Its size field reads as a TGA's depth, and TGA has no signature of its own.
    square = photo(128, 128).convert("RGBA")
    yield Hostile("bitmap.ico", encoded(square, "ICO", sizes=[(128, 128)], bitmap_format="bmp"), "converted",
                  "transparency")


def mutations(number: int, seed: int) -> Iterator[bytes]:
    """Files of every format with bytes overwritten, flipped, cut out, doubled or cut off, or two files spliced."""
    rng = np.random.default_rng(seed)
    small = photo(40, 24)
    frames = pages(3, small)
    grey16 = np.asarray(small.convert("L")).astype(np.uint16)[:, :, None] * 257
    whole = [
        encoded(small, "JPEG"), encoded(small, "JPEG", progressive=True), oriented(small, 6, "JPEG"),
        encoded(small.convert("CMYK"), "JPEG"), encoded(small, "MPO", **pages(2, small)), encoded(small, "PNG"),
        encoded(small.quantize(16), "PNG", transparency=3), png16(grey16), encoded(small, "PNG", **frames),
        encoded(small, "GIF", **frames), encoded(small, "WEBP"), encoded(small, "WEBP", lossless=True, **frames),
        encoded(small, "TIFF"), encoded(small, "TIFF", compression="tiff_lzw"), encoded(small, "TIFF", **frames),
        encoded(small.convert("1"), "TIFF", compression="group4"), encoded(small, "BMP"), encoded(small, "PPM"),
        encoded(small, "TGA", compression="tga_rle"), encoded(small, "ICO", sizes=[(24, 24)]),
        encoded(small, "JPEG2000"), encoded(small, "AVIF"),
    ]
    for _ in range(number):
        data = bytearray(whole[rng.integers(len(whole))])
        for _ in range(rng.integers(1, 6)):
            # Half of the damage goes where headers stand.
            at = int(rng.integers(min(len(data), 120) if rng.random() < 0.5 else len(data)))
            length = int(rng.integers(1, 40))
            kind = rng.integers(6)
            if kind == 0:
                data[at:at + length] = rng.bytes(length)
            elif kind == 1:
                data[at] ^= 1 << int(rng.integers(8))
            elif kind == 2:
                data[at:at + 4] = struct.pack(">i", int(rng.choice([0, 1, -1, 2**31 - 1, 2**16, 255])))
            elif kind == 3:
                del data[at:at + length]
            elif kind == 4:
                data[at:at] = data[at:at + length]
            else:
                other = whole[rng.integers(len(whole))]
                data[at:] = other[int(rng.integers(len(other))):]
            if not data:
                break
        yield bytes(data)
