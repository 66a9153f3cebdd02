"""The arithmetic of each transform: a Pillow image in, another of the same size out, what is drawn handed in.

Pillow images and not tensors: their integer arithmetic does not depend on the number of threads, and changes colours
faster. torchvision's functional forms, so that each transform means what its papers mean.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from typing import Any, assert_never

import numpy as np
from PIL import Image

from regraft.data.view import Box
from regraft.errors import MissingExtraError
from regraft.records.views import (
    ColourJitter,
    Grey,
    HorizontalFlip,
    RandomErasing,
    RandomResizedCrop,
    Rotation,
    SquareStep,
    TrivialAugment,
    VerticalFlip,
)

Colour = tuple[int, int, int]

#: Counts the laws of this module: whoever changes what pixels a draw gives counts it up, and old views are not reused.
LAW = 1

#: Strengths of TrivialAugment, from none to the widest.
_STRENGTHS = 31


class Draw:
    """Seeded numbers of one view of one image.

    Everything is made of numpy's uniform doubles: how numpy makes whole numbers and orders of them may change from one
    version to the next, the doubles of PCG64 have not.
    """

    def __init__(self, seed: int, k: int, digest: bytes) -> None:
        named = f"{LAW} {seed} {k} {digest.hex()}".encode()
        bits = np.random.PCG64(int.from_bytes(hashlib.sha256(named).digest()))
        self.generator = np.random.Generator(bits)

    def uniform(self, low: float, high: float) -> float:
        """A number in [low, high]."""
        return low + (high - low) * float(self.generator.random())

    def chance(self, p: float) -> bool:
        """True with probability ``p``."""
        return float(self.generator.random()) < p

    def index(self, n: int) -> int:
        """A whole number in 0..n - 1."""
        return int(self.generator.random() * n)

    def order(self, n: int) -> list[int]:
        """0..n - 1 in any order."""
        return [int(i) for i in np.argsort(self.generator.random(n), kind="stable")]


def functional() -> Any:
    """The transforms of torchvision as functions; raises MissingExtraError."""
    import regraft.networks  # noqa: F401 - sets how PyTorch's threads wait, before it is loaded

    try:
        from torchvision.transforms.v2 import functional as functions
    except ImportError:
        raise MissingExtraError("varying images", "train") from None
    return functions


def arithmetic() -> str:
    """Names what decides pixels besides the draw and the decoder; raises MissingExtraError."""
    try:
        return f"law-{LAW} torchvision-{version('torchvision')}"
    except PackageNotFoundError:
        raise MissingExtraError("varying images", "train") from None


def crop_box(width: int, height: int, step: RandomResizedCrop, draw: Draw) -> Box:
    """A rectangle inside a picture: its share of the area drawn evenly, its shape evenly on a logarithmic scale.

    Shapes that do not fit at that area are not drawn, so the area is always within its bounds; but of a picture too
    long and narrow for every allowed shape, the box takes what fits of the longest one.
    """
    area = width * height * draw.uniform(step.scale_low, step.scale_high)
    low, high = max(1 / step.ratio, area / height**2), min(step.ratio, width**2 / area)
    drawn = draw.uniform(0, 1)
    longest = step.ratio if width > height else 1 / step.ratio
    ratio = low * (high / low) ** drawn if low <= high else longest
    across = min(math.sqrt(area * ratio), width, height * ratio)
    down = min(across / ratio, height)
    left, top = draw.uniform(0, width - across), draw.uniform(0, height - down)
    return left, top, min(left + across, width), min(top + down, height)


def narrowest_side(width: int, height: int, step: RandomResizedCrop) -> float:
    """The shortest side that a box of :func:`crop_box` can have, in pixels."""
    return min(width, height, math.sqrt(width * height * step.scale_low / step.ratio))


def apply(step: SquareStep, image: Image.Image, draw: Draw, pad_colour: Colour) -> Image.Image:
    """The image after one step; RGB, of the same size."""
    F = functional()
    changed = image
    match step:
        case HorizontalFlip():
            changed = F.horizontal_flip(image) if draw.chance(step.p) else image
        case VerticalFlip():
            changed = F.vertical_flip(image) if draw.chance(step.p) else image
        case Rotation():
            angle = draw.uniform(-step.degrees, step.degrees)
            changed = _turned(image, angle, pad_colour if step.fill == "pad" else None)
        case ColourJitter():
            changed = _jittered(image, step, draw)
        case TrivialAugment():
            changed = _trivial(image, draw, pad_colour)
        case RandomErasing():
            changed = _erased(image, draw, pad_colour) if draw.chance(step.p) else image
        case Grey():
            changed = F.rgb_to_grayscale(image, 3) if draw.chance(step.p) else image
        case _:
            assert_never(step)
    return changed


def _turned(image: Image.Image, angle: float, fill: Colour | None) -> Image.Image:
    """Turned about the centre by degrees counter-clockwise; corners of a colour, or of the picture reflected."""
    F, bilinear = functional(), _bilinear()
    turned: Image.Image
    if fill is not None:
        turned = F.rotate(image, angle, interpolation=bilinear, fill=list(fill))
        return turned
    radians, side = math.radians(angle), image.width
    # How far the turned square reaches beyond itself, and a pixel for the interpolation.
    margin = math.ceil(side / 2 * (abs(math.cos(radians)) + abs(math.sin(radians)) - 1)) + 1
    wider = Image.fromarray(np.pad(np.asarray(image), ((margin, margin), (margin, margin), (0, 0)), mode="reflect"))
    turned = F.rotate(wider, angle, interpolation=bilinear)
    return turned.crop((margin, margin, margin + side, margin + side))


def _jittered(image: Image.Image, step: ColourJitter, draw: Draw) -> Image.Image:
    F = functional()
    changes = ((F.adjust_brightness, step.brightness, 1), (F.adjust_contrast, step.contrast, 1),
               (F.adjust_saturation, step.saturation, 1), (F.adjust_hue, step.hue, 0))
    amounts = [draw.uniform(centre - most, centre + most) for _, most, centre in changes]
    for i in draw.order(len(changes)):
        change, most, _ = changes[i]
        if most:
            image = change(image, amounts[i])
    return image


def _trivial(image: Image.Image, draw: Draw, fill: Colour) -> Image.Image:
    """One of 14 operations at one of 31 strengths, as torchvision's TrivialAugmentWide; shifts grow with the side."""
    F = functional()
    strength = draw.index(_STRENGTHS) / (_STRENGTHS - 1)
    signed = strength if draw.chance(0.5) else -strength
    slope, factor = math.degrees(math.atan(0.99 * signed)), 1 + 0.99 * signed
    shift = round(image.width / 7 * signed)  # at most 32 pixels of 224
    operations: tuple[Callable[[], Image.Image], ...] = (
        lambda: image,
        lambda: _moved(image, fill, shear=[slope, 0.0]),
        lambda: _moved(image, fill, shear=[0.0, slope]),
        lambda: _moved(image, fill, translate=[shift, 0]),
        lambda: _moved(image, fill, translate=[0, shift]),
        lambda: _turned(image, 135 * signed, fill),
        lambda: F.adjust_brightness(image, factor),
        lambda: F.adjust_saturation(image, factor),
        lambda: F.adjust_contrast(image, factor),
        lambda: F.adjust_sharpness(image, factor),
        lambda: F.posterize(image, 8 - round(6 * strength)),
        lambda: F.solarize(image, 255 * (1 - strength)),
        lambda: F.autocontrast(image),
        lambda: F.equalize(image),
    )
    return operations[draw.index(len(operations))]()


def _moved(image: Image.Image, fill: Colour, shear: list[float] | None = None,
           translate: list[int] | None = None) -> Image.Image:
    """Sheared about the corner as the paper has it, or shifted."""
    moved: Image.Image = functional().affine(
        image, angle=0.0, translate=translate or [0, 0], scale=1.0, shear=shear or [0.0, 0.0],
        interpolation=_bilinear(), fill=list(fill), center=[0.0, 0.0])
    return moved


def _bilinear() -> Any:
    from torchvision.transforms import InterpolationMode

    return InterpolationMode.BILINEAR


def _erased(image: Image.Image, draw: Draw, fill: Colour) -> Image.Image:
    """A rectangle of 2 to 33 % of the area, sides up to 3.3 to 1, filled; cut short at the image's side."""
    side = image.width
    area, ratio = side**2 * draw.uniform(0.02, 0.33), math.exp(draw.uniform(-math.log(3.3), math.log(3.3)))
    width, height = (min(side, max(1, round(length))) for length in (math.sqrt(area * ratio), math.sqrt(area / ratio)))
    left, top = draw.index(side - width + 1), draw.index(side - height + 1)
    erased = image.copy()
    erased.paste(fill, (left, top, left + width, top + height))
    return erased
