"""The pictures of the self-test: drawn by a program, one for each way through the decoder that is worth a test.

No picture of the user serves, so that a model may be passed on without any. Formats are those that every build of
Pillow reads. Another version of Pillow may write other bytes; a self-test therefore holds the bytes themselves.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_SEED = 20

#: Waves that make up a picture, and the most of them across it: enough to tell one way of resizing from another.
_WAVES, _MOST_CYCLES = 4, 14

_ORIENTATION = 0x0112


@dataclass(frozen=True)
class _Kind:
    """One file: its name, whose ending says the format, its size, what becomes of the drawing, how it is saved."""

    name: str
    width: int
    height: int
    change: Callable[[NDArray[np.uint8]], Image.Image] = Image.fromarray
    options: dict[str, Any] = field(default_factory=dict)


def _to(mode: str) -> Callable[[NDArray[np.uint8]], Image.Image]:
    return lambda rgb: Image.fromarray(rgb).convert(mode)


def _see_through(rgb: NDArray[np.uint8]) -> Image.Image:
    """The third channel becomes the opacity too."""
    return Image.fromarray(np.concatenate([rgb, rgb[..., 2:]], axis=2))


def _deep(rgb: NDArray[np.uint8]) -> Image.Image:
    return Image.fromarray(rgb[..., 0].astype(np.uint16) * 256 + rgb[..., 1])


def _palette(rgb: NDArray[np.uint8]) -> Image.Image:
    return Image.fromarray(rgb).quantize(32, dither=Image.Dither.NONE)


def _turned(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[_ORIENTATION] = orientation
    return exif


_KINDS = (
    _Kind("landscape.jpg", 320, 240, options={"quality": 75}),
    _Kind("portrait.jpg", 160, 240, options={"quality": 80, "subsampling": 0}),
    _Kind("progressive.jpg", 256, 256, options={"quality": 80, "progressive": True}),
    _Kind("large.jpg", 1400, 1100, options={"quality": 20}),  # decoded at half its size, for most networks
    _Kind("small.jpg", 48, 36, options={"quality": 90}),
    _Kind("wide.jpg", 480, 60, options={"quality": 85}),
    _Kind("coarse.jpg", 240, 180, options={"quality": 15}),
    _Kind("grey.jpg", 240, 180, _to("L"), {"quality": 85}),
    _Kind("cmyk.jpg", 160, 120, _to("CMYK"), {"quality": 85}),
    _Kind("turned-3.jpg", 200, 150, options={"quality": 85, "exif": _turned(3)}),
    _Kind("turned-6.jpg", 200, 150, options={"quality": 85, "exif": _turned(6)}),
    _Kind("mirrored-5.jpg", 200, 150, options={"quality": 85, "exif": _turned(5)}),
    _Kind("colour.png", 72, 64),
    _Kind("grey.png", 100, 80, _to("L")),
    _Kind("transparent.png", 64, 72, _see_through),
    _Kind("palette.png", 100, 80, _palette, {"transparency": 0}),
    _Kind("deep.png", 80, 60, _deep),
    _Kind("black-white.png", 160, 120, _to("1")),
    _Kind("palette.gif", 100, 80, _palette),
    _Kind("plain.bmp", 64, 48),
)


def pictures() -> Iterator[tuple[str, bytes]]:
    """Name and bytes of each of the 20 files, the same at every call."""
    rng = np.random.default_rng(_SEED)
    for kind in _KINDS:
        file = io.BytesIO()
        ending = kind.name.rpartition(".")[2]
        picture = kind.change(_drawing(rng, kind.width, kind.height))
        picture.save(file, "JPEG" if ending == "jpg" else ending, **kind.options)
        yield kind.name, file.getvalue()


def _drawing(rng: np.random.Generator, width: int, height: int) -> NDArray[np.uint8]:
    """Waves in each colour, with plain rectangles on them for their edges; uint8 [height, width, 3]."""
    y_H1, x_1W = np.arange(height)[:, None] / height, np.arange(width)[None] / width
    drawn = np.empty((height, width, 3), np.uint8)
    for channel in range(3):
        cycles = rng.uniform(-_MOST_CYCLES, _MOST_CYCLES, (_WAVES, 2))
        phases, heights = rng.uniform(0, 2 * np.pi, _WAVES), rng.uniform(0.2, 1, _WAVES)
        # The sine of a sum, taken apart, needs sines of rows and of columns alone instead of one for each pixel.
        A_HC = 2 * np.pi * y_H1 * cycles[:, 1] + phases
        B_CW = 2 * np.pi * cycles[:, :1] * x_1W
        share = 127.5 * heights / heights.sum()
        rows_HD = np.hstack([share * np.sin(A_HC), share * np.cos(A_HC)]).astype(np.float32)
        waves_HW = rows_HD @ np.vstack([np.cos(B_CW), np.sin(B_CW)]).astype(np.float32)
        drawn[..., channel] = np.clip(np.rint(waves_HW + np.float32(127.5)), 0, 255)
    for _ in range(3):
        left, top = (int(rng.integers(0, length // 2)) for length in (width, height))
        drawn[top:top + height // 4, left:left + width // 4] = rng.integers(0, 256, 3)
    return drawn
