"""How a file becomes the network's input: view 0, written down."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass
from typing import Literal

from regraft.errors import SettingsError
from regraft.records.base import Record

#: What the decoder itself refuses, whatever is allowed here.
_MOST_PIXELS = 178_956_970

Interpolation = Literal["bilinear", "bicubic", "lanczos"]


@dataclass(frozen=True)
class Preprocessing(Record):
    """Everything that decides the pixels a network sees. Every door uses it through ``data.view.view0``.

    Attributes
    ----------
    size:
        Side of the square input, pixels.
    fit:
        ``crop``: the central square of side ``crop_fraction`` x the short side; ``pad``: the whole picture,
        bars of ``pad_colour``; ``squash``: the whole picture, sides stretched.
    crop_fraction:
        Share of the short side that ``crop`` keeps, (0, 1].
    interpolation:
        Pillow's antialiased filter.
    jpeg_scale_margin:
        JPEGs are decoded at 1/2, 1/4 or 1/8 as long as what is kept stays at least this many times ``size``;
        None decodes in full.
    background, pad_colour:
        RGB, 0 to 255; transparent pixels are laid on ``background``.
    deep_range:
        Black and white point of 16-bit, 32-bit and floating-point grey images, estimated on training images;
        None: 0 to 65,535, floating point 0 to 1.
    max_pixels, max_frames:
        Larger files are refused from their header.
    mean, std:
        Per channel, of pixels scaled to [0, 1]; applied by the engine.
    """

    size: int
    fit: Literal["crop", "pad", "squash"] = "crop"
    crop_fraction: float = 0.875
    interpolation: Interpolation = "bicubic"
    jpeg_scale_margin: float | None = 2.0
    background: tuple[int, int, int] = (255, 255, 255)
    pad_colour: tuple[int, int, int] = (127, 127, 127)
    deep_range: tuple[float, float] | None = None
    max_pixels: int = 80_000_000
    max_frames: int = 1_000
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)

    def __post_init__(self) -> None:
        problems = []
        if not 1 <= self.size <= 4096:
            problems.append(f"size: {self.size} is not allowed; it must be 1 to 4096 pixels")
        if not 0 < self.crop_fraction <= 1:
            problems.append(f"crop_fraction: {self.crop_fraction} is not allowed; it must lie in (0, 1]")
        if self.jpeg_scale_margin is not None and self.jpeg_scale_margin < 1:
            problems.append(f"jpeg_scale_margin: {self.jpeg_scale_margin} would enlarge; at least 1, or None")
        if self.deep_range is not None and not -math.inf < self.deep_range[0] < self.deep_range[1] < math.inf:
            problems.append(f"deep_range: {self.deep_range} is empty; black must lie below white, both finite")
        if not 1 <= self.max_pixels <= _MOST_PIXELS:
            problems.append(f"max_pixels: {self.max_pixels} is not allowed; it must be 1 to {_MOST_PIXELS}")
        if self.max_frames < 1:
            problems.append(f"max_frames: {self.max_frames} is not allowed; it must be at least 1")
        for name, colour in (("background", self.background), ("pad_colour", self.pad_colour)):
            if not all(0 <= value <= 255 for value in colour):
                problems.append(f"{name}: {colour} is not allowed; red, green and blue lie in 0 to 255")
        if min(self.std) <= 0:
            problems.append(f"std: {self.std} must be positive")
        if problems:
            raise SettingsError(problems)

    @property
    def view_key(self) -> str:
        """Digest of what decides view 0's pixels (mean and std act after it), 32 hexadecimal digits."""
        values = {k: v for k, v in self.to_dict().items() if k not in ("mean", "std")}
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:32]
